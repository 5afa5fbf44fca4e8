#!/bin/sh
# Makes .venv with a supported Python ($PYTHON names one to use), and as root on Debian installs that Python if there is none.
set -eu

find_python() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
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
    echo "Python 3.11, 3.12 or 3.13 with its venv module is needed and was not found${PYTHON:+ as PYTHON=$PYTHON}." >&2
    echo "On Debian or Ubuntu: sudo apt-get install python3 python3-venv. Another place: make PYTHON=/path/to/python3.12" >&2
    exit 1
fi
"$python" -m venv --clear .venv
