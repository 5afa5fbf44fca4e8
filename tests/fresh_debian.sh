#!/bin/sh
# Runs `make test` and `make demo` as an ordinary user in a clean clone of HEAD, on a Debian that has only make, git and
# Python. It finds requirements that are met elsewhere only because someone installed something by hand.
# Needs Debian, root and debootstrap (which it installs). SUITE chooses the release: bookworm (default), trixie, forky, ...
# The base system is made once, in a minute or two, and kept in the cache folder; each run uses a copy.
set -eu

suite=${SUITE:-bookworm}
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ollama-throughput-exporter/fresh
base=$cache/$suite
demo_seconds=90

# skip REASON: ends this script successfully with a line that .ci/run repeats at its end.
skip() {
    echo "SKIPPED make test-fresh: $1" >&2
    exit 0
}

make_base() {
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/$' | head -n 1)
    rm -rf "$base.new"
    mkdir -p "$cache"
    # All recent suites use debootstrap's script for sid. Naming it makes an older debootstrap accept newer suites.
    debootstrap --variant=minbase --include=python3,python3-venv,make,git,ca-certificates "$suite" "$base.new" "$mirror" \
        /usr/share/debootstrap/scripts/sid >"$cache/debootstrap.log" 2>&1 || return 1
    chroot "$base.new" useradd --create-home user
    mv "$base.new" "$base"
}

[ "$(id -u)" = 0 ] || skip "debootstrap needs root. Run it with sudo."
[ -e /etc/debian_version ] || skip "it needs Debian, for debootstrap."
git rev-parse --is-inside-work-tree >/dev/null 2>&1 || skip "this is not a git checkout that can be cloned."
if ! command -v debootstrap >/dev/null; then
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends debootstrap) \
        >/dev/null || skip "debootstrap could not be installed. Run: apt-get install debootstrap"
fi
if ! [ -e "$base" ]; then
    echo "Installing Debian $suite into $base. This takes a minute or two, once." >&2
    make_base || skip "debootstrap could not install Debian $suite. Is the mirror reachable? See $cache/debootstrap.log."
fi

root=$(mktemp -d "$cache/run.XXXXXX")
finish() {
    umount -l "$root/proc" "$root/dev" 2>/dev/null || true
    rm -rf --one-file-system "$root"
}
trap finish EXIT
trap 'exit 130' INT TERM
cp -a "$base/." "$root"
# Copy this machine's network settings: name servers, certificates, pip's configuration.
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$file" ] || cp -L "$file" "$root$file"
done
mount -t proc proc "$root/proc" || skip "/proc cannot be mounted in $root. A container needs the capability SYS_ADMIN."
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
git clone -q "$(git rev-parse --show-toplevel)" "$root/home/user/checkout"
chroot "$root" chown -R user:user /home/user/checkout

# as_user COMMAND...: runs a command in the clone, with nothing of this shell's environment.
as_user() {
    chroot "$root" /usr/sbin/runuser -u user -- env -i HOME=/home/user LANG=C.UTF-8 \
        PATH=/usr/local/bin:/usr/bin:/bin PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_DEFAULT_TIMEOUT=180 \
        sh -c 'cd /home/user/checkout && exec "$@"' sh "$@" </dev/null
}

status=0
as_user make test || status=$?
demo=0
as_user timeout --foreground $demo_seconds make demo >"$root/demo.log" 2>&1 || demo=$?
cat "$root/demo.log"
# 124: the demo was still running when `timeout` stopped it, as expected. In the foreground, make alone gets the signal,
# and passes it on once; a second one would force the shutdown.
if [ $demo != 124 ] || ! grep -q 'tokens/s' "$root/demo.log" || grep -q Traceback "$root/demo.log"; then
    echo "make demo: exit status $demo, or no reading, or a traceback" >&2
    [ $status != 0 ] || status=1
fi
echo "Debian $suite, ordinary user: make test and make demo ended with $status"
exit $status
