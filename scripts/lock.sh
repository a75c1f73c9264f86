#!/bin/sh
# Write the lock files anew: `make lock`. Takes the newest versions that pyproject.toml allows;
# `make lock ARGS=` keeps what is pinned and only adds or drops what pyproject.toml asks for.
#
# pip-tools works in an environment of its own, on the oldest Python that is supported, since
# that one needs every backport. No index and no path of this machine gets into the files.
set -eu
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "make lock: needs Python 3.11, the oldest supported one: make lock PYTHON=python3.11" >&2
    exit 1
}
"$python" -m venv "$place/venv"
PIP_CONFIG_FILE=/dev/null
export PIP_CONFIG_FILE
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL PIP_CONSTRAINT
"$place/venv/bin/pip" install --quiet pip-tools
compile() {
    "$place/venv/bin/pip-compile" --quiet --generate-hashes --allow-unsafe --strip-extras \
        --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
        --no-header --newline=lf "$@"
    echo "${1#*=} written"
}
compile --output-file=requirements/runtime.lock --extra=postgres "$@" pyproject.toml
compile --output-file=requirements/dev.lock --all-extras --constraint=requirements/runtime.lock \
    "$@" pyproject.toml
sed -n '/^\[build-system\]/,/^\[project\]/s/^requires = \["\(.*\)"\]/\1/p' pyproject.toml \
    > "$place/build.in"
echo editables >> "$place/build.in"
compile --output-file=requirements/build.lock --constraint=requirements/dev.lock --no-annotate \
    "$@" "$place/build.in"
echo pip > "$place/pip.in"
compile --output-file=requirements/pip.lock --no-annotate "$@" "$place/pip.in"
