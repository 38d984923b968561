#!/bin/sh
# Write requirements.lock anew from requirements.in: newest versions, with the hash of every file of each.
# Only the index is used, not this machine's own package folders, whose builds have other hashes.
set -eu
cd "$(dirname "$0")/.."
tools=build/pip-tools
[ -x "$tools/bin/pip-compile" ] || {
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet pip-tools
}
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL
PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND="make lock" "$tools/bin/pip-compile" --quiet --upgrade --rebuild \
    --generate-hashes --strip-extras --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-options \
    --output-file requirements.lock requirements.in
git --no-pager diff --stat -- requirements.lock
