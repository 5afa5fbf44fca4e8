#!/bin/sh
# Unpack Prometheus 2 and 3, promtool, Alertmanager and Docker Compose from Debian's packages into the cache folder where
# tests/support/programs.py looks for them. Needs Debian's apt but not root, and starts no service. The mirror is that of the
# machine's apt sources. systemd-analyze and the library that llama.cpp needs do not run from a cache: they are installed,
# if this runs as root.
set -eu

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ollama-throughput-exporter/programs

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null || [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
    echo "Not Debian, so Prometheus is not fetched. Tests that need it are skipped unless prometheus, promtool," >&2
    echo "alertmanager (or prometheus-alertmanager) and amtool are on PATH." >&2
    exit 0
fi

# install PACKAGE FOR_WHAT: installs a package. If that fails, tests that need it are skipped, and the rest is fetched
# anyway.
install() {
    echo "Installing $1 from Debian, for $2" >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$1"; } >&2 ||
        echo "Installing $1 failed. Tests of $2 are skipped." >&2
}

if [ "$(id -u)" = 0 ]; then
    command -v systemd-analyze >/dev/null || install systemd systemd-analyze
    /sbin/ldconfig -p | grep -q 'libgomp\.so\.1' || install libgomp1 llama.cpp
fi

# fetch SUITE PACKAGE...: unpack packages of one Debian suite into $cache/SUITE.
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
        echo "No Debian mirror in the apt sources, so Prometheus is not fetched. Tests that need it are skipped." >&2
        exit 0
    fi
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    # Signatures are checked. Expired ones are accepted, because a mirror may lag behind and only tests use the programs.
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
