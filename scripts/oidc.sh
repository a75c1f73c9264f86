#!/bin/sh
# Install the OAuth server that the tests sign in to, in the versions of its lock file: `make test`.
#
# It goes into .cache/oidc and nowhere else; npm compares each package with the lock's checksum,
# and runs no script of a package.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
source=$here/tests/servers/oidc
target=$here/.cache/oidc

if cmp -s "$source/package-lock.json" "$target/package-lock.json"; then
    exit 0
fi

echo "Installing the OAuth server of the tests (once, about 10 s) ..."
fresh=$target.new
rm -rf "$fresh"
mkdir -p "$fresh"
cp "$source/package.json" "$source/package-lock.json" "$fresh"
if ! npm ci --prefix "$fresh" --ignore-scripts --no-audit --no-fund \
        > "$fresh/log" 2>&1 < /dev/null; then
    cat "$fresh/log" >&2
    echo "mailbridge set-up: npm could not install it; its output stands above" >&2
    exit 1
fi
rm -rf "$target"
mv "$fresh" "$target"
