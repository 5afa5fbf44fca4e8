#!/bin/sh
# Build Helm with Go into the cache folder where tests/support/programs.py looks for it. Takes about a minute, once.
set -eu
version=v3.22.0
bin=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ollama-throughput-exporter/programs/helm-$version/usr/bin

[ -x "$bin/helm" ] && exit 0
if ! command -v go >/dev/null; then
    echo "Go not found, so Helm is not built. Tests of the chart are skipped unless helm is on PATH." >&2
    exit 0
fi
echo "Building Helm $version into $bin" >&2
mkdir -p "$bin"
GOBIN=$bin timeout 300 go install "helm.sh/helm/v3/cmd/helm@$version" || {
    echo "Building Helm $version failed or took more than five minutes. Tests of the chart are skipped." >&2
    exit 0
}
