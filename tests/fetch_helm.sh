#!/bin/sh
# Builds the real Helm with Go into the cache folder where tests/programs.py looks: about a minute, once. Without Go
# those tests look for helm on PATH, and else are skipped and say so.
set -eu
version=v3.22.0
bin=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ollama-throughput-exporter/programs/helm-$version/usr/bin

[ -x "$bin/helm" ] && exit 0
if ! command -v go >/dev/null; then
    echo "No Go, so Helm is not built. The chart's tests look for helm on PATH, and else are skipped and say so." >&2
    exit 0
fi
echo "Building Helm $version into $bin" >&2
mkdir -p "$bin"
GOBIN=$bin timeout 300 go install "helm.sh/helm/v3/cmd/helm@$version" || {
    echo "Helm $version was not built within five minutes (see above). The chart's tests are skipped and say so." >&2
    exit 0
}
