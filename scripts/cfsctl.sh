#!/bin/sh
# Print the path of cfsctl 0.9.4, the reference we measure and test against.
#
# The one in the cache, else the one in PATH, else built into the cache by cargo.  It also goes by the names mkcomposefs and
# composefs-info, which lie beside it.  Where it cannot be had: one line on standard error, exit 1.
set -eu

version=0.9.4
root=${XDG_CACHE_HOME:-$HOME/.cache}/composefs-dev/cfsctl-$version

is_right() {
	[ "$("$1" --version 2>/dev/null)" = "cfsctl $version" ]
}

mkdir -p "$root/bin"
if is_right "$root/bin/cfsctl"; then
	:
elif found=$(command -v cfsctl) && is_right "$found"; then
	ln -sfn "$found" "$root/bin/cfsctl" # linked, so that the other names can lie beside it
else
	if ! command -v cargo >/dev/null; then
		echo "cfsctl $version is not here, and cargo, which would build it, is not either" >&2
		exit 1
	fi
	echo "building cfsctl $version, once; this takes some minutes" >&2
	if ! log=$(cargo install composefs-ctl --version "$version" --locked --root "$root" 2>&1); then
		echo "cargo cannot build cfsctl $version: $(printf '%s' "$log" | grep -m 1 '^error' || echo 'no error given')" >&2
		exit 1
	fi
fi
ln -sfn cfsctl "$root/bin/mkcomposefs"
ln -sfn cfsctl "$root/bin/composefs-info"
echo "$root/bin/cfsctl"
