#!/bin/sh
# Create .venv from requirements.lock, or bring it up to date. Does nothing when the lock hasn't changed.
# Prints one line and ends with 1 when something is missing that it can't install.
set -eu
cd "$(dirname "$0")/.."
# The old .venv, which make puts first, must not be the Python that makes the new one.
PATH=$(printf %s "$PATH" | sed "s|$PWD/.venv/bin:||g")

fail() {
    echo "venv: $*" >&2
    exit 1
}

# Root, or a sudo that doesn't ask.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Debian keeps ensurepip, without which a venv has no pip, in a package of its own.
usable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3.11 python3 /usr/bin/python3}; do
        if path=$(command -v "$candidate") && usable "$path"; then
            echo "$path"
            return 0
        fi
    done
    return 1
}

mkdir -p build
log=build/venv.log
wanted=$(cat requirements.lock scripts/make_venv.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/.lock-hash 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

if ! python=$(find_python); then
    echo "venv: installing python3-venv"
    { as_root apt-get update && as_root apt-get install -y --no-install-recommends python3-venv; } >"$log" 2>&1 </dev/null ||
        fail "needs Python 3.11 or newer with its venv module. As root: apt install python3-venv (tried: $log)"
    python=$(find_python) || fail "needs Python 3.11 or newer; python3 here is $(python3 --version 2>&1 || true)"
fi

# The hash is written last, so that an interrupted installation starts from nothing.
echo "venv: installing the locked packages with $($python --version)"
rm -rf .venv
"$python" -m venv .venv >"$log" 2>&1 || fail "$python -m venv .venv failed: $(tail -n 1 "$log")"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: --require-hashes \
    --requirement requirements.lock >"$log" 2>&1 </dev/null ||
    fail "pip could not install requirements.lock: $(grep -E '^ *ERROR' "$log" | tail -n 1) (see $log)"
echo "$wanted" >.venv/.lock-hash
