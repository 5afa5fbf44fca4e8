#!/bin/sh
# Creates .venv with Python 3.11 or later ($PYTHON chooses one). As root on Debian it installs Python if there is none.
set -eu

find_python() {
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ] && [ -z "${PYTHON:-}" ] && [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
    echo "Installing python3 and python3-venv from Debian" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends python3 python3-venv >&2
    python=$(find_python)
fi
if [ -z "$python" ]; then
    echo "Python 3.11 or later with its venv module was not found${PYTHON:+ as PYTHON=$PYTHON}." >&2
    echo "On Debian or Ubuntu: sudo apt-get install python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3.12" >&2
    exit 1
fi
"$python" -m venv --clear .venv
