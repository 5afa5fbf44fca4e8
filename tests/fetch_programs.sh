#!/bin/sh
# Unpacks Prometheus 2 and 3, promtool, Alertmanager and Docker Compose from Debian's packages into a cache folder, where
# tests/programs.py finds them. It needs Debian's apt but not root, and starts no service. The mirror is the one that this
# machine's own apt sources name. Only systemd-analyze cannot be run from a cache: as root it is installed.
set -eu

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ollama-throughput-exporter/programs

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null || [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
    echo "Not Debian, so Prometheus is not fetched. Tests that need it look for prometheus, promtool," >&2
    echo "prometheus-alertmanager (or alertmanager) and amtool on PATH, and else are skipped and say so." >&2
    exit 0
fi

if ! command -v systemd-analyze >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "Installing systemd from Debian, for systemd-analyze" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends systemd >&2
fi

# fetch SUITE PACKAGE...: unpacks the packages of one Debian suite below $cache/SUITE.
fetch() {
    suite=$1
    shift
    [ -e "$cache/$suite/complete" ] && return
    echo "Fetching $* from Debian $suite into $cache" >&2
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/state"
    touch "$work/state/status"
    mirror=$(apt-get -o Dir::State::lists="$work/lists" update --print-uris |
        sed -n "s#^'\([^']*/debian\)/dists/.*#\1#p" | head -n 1)
    if [ -z "$mirror" ]; then
        echo "apt's sources name no Debian mirror, so Prometheus is not fetched; tests that need it are skipped and say so." >&2
        exit 0
    fi
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    # Signatures are checked; a mirror that lags behind is good enough for programs that only tests run.
    cat >"$work/apt.conf" <<-EOF
	Dir::Etc::sourcelist "$work/sources.list";
	Dir::Etc::sourceparts "/dev/null";
	Dir::State "$work/state";
	Dir::State::lists "$work/lists";
	Dir::State::status "$work/state/status";
	Dir::Cache "$work/cache";
	APT::Sandbox::User "";
	Acquire::Languages "none";
	Acquire::Check-Valid-Until "false";
	Acquire::Retries "3";
	EOF
    (
        cd "$work"
        export APT_CONFIG="$work/apt.conf"
        apt-get update -qq
        apt-get download -qq "$@"
        for package in *.deb; do dpkg-deb -x "$package" root; done
    )
    touch "$work/root/complete"
    rm -rf "${cache:?}/$suite"
    mv "$work/root" "$cache/$suite"
    rm -rf "$work"
}

fetch bookworm prometheus prometheus-alertmanager
fetch forky prometheus promtool prometheus-alertmanager docker-compose
