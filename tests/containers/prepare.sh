#!/bin/sh
# Prepare a Debian machine for the container tests, as root: install builder and runtime from Debian's packages, and create
# a root file system that replaces the official Python image, which is not available everywhere. It has what the Dockerfile
# needs (Python 3.13 and pip on PATH), but not the same size and packages. Takes about two minutes, once; kept in the cache.
set -eu

suite=trixie
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ollama-throughput-exporter/containers
rootfs=$cache/python-3.13-$suite

if [ "$(id -u)" != 0 ] || ! [ -e /etc/debian_version ]; then
    echo "The container tests need Debian and root." >&2
    exit 1
fi

missing=
for package in debootstrap buildah runc podman netavark aardvark-dns catatonit iptables; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
if [ -n "$missing" ]; then
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $missing >/dev/null
fi

[ -e "$rootfs" ] && exit 0
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/$' | head -n 1)
work=$rootfs.new
rm -rf "$work"
mkdir -p "$cache"
# The script of sid also works for suites that this version of debootstrap does not know.
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,wget "$suite" "$work" "$mirror" \
    /usr/share/debootstrap/scripts/sid >"$cache/debootstrap.log"
# pip as in the official image: on PATH, and removable separately.
rm "$work"/usr/lib/python3*/EXTERNALLY-MANAGED
chroot "$work" sh -c '
    ln -s /usr/bin/python3 /usr/local/bin/python
    python3 -m venv /tmp/venv
    /tmp/venv/bin/python -m pip install --quiet --no-index --find-links /usr/share/python-wheels \
        --target "$(python3 -c "import site; print(site.getsitepackages()[0])")" pip
    rm -rf /tmp/venv /usr/lib/python3*/ensurepip /var/cache/apt/archives/*.deb /var/lib/apt/lists/*'
mv "$work" "$rootfs"
