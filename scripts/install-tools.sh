#!/usr/bin/env bash
# Install by apt what `make check` needs and is not there. Where that cannot be, say what is missing; the tests that need
# it then skip by name, except in CI.
set -euo pipefail

# A command, or a file of the package, and the package.
needed="
cc                                  gcc
make                                make
fsverity                            fsverity
skopeo                              skopeo
umoci                               umoci
mkfs.ext4                           e2fsprogs
mkfs.xfs                            xfsprogs
mkfs.btrfs                          btrfs-progs
fsck.erofs                          erofs-utils
zsh                                 zsh
fish                                fish
strace                              strace
fusermount3                         fuse3
git                                 git
docker-registry                     docker-registry
nginx                               nginx-light
htpasswd                            apache2-utils
openssl                             openssl
podman                              podman
/usr/include/linux/fs.h             libc6-dev
aarch64-linux-gnu-gcc               gcc-aarch64-linux-gnu
/usr/aarch64-linux-gnu/lib/libc.a   libc6-dev-arm64-cross
qemu-aarch64                        qemu-user
"

missing=()
while read -r what package; do
    [ -n "$what" ] || continue
    PATH=$PATH:/usr/sbin:/sbin command -v "$what" >/dev/null || [ -e "$what" ] || missing+=("$package")
done <<<"$needed"
# Debian's own Python comes without them; others have both.
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
python3 -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null ||
    missing+=(python3-dev)

[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "not installed, since that needs root: ${missing[*]}" >&2
    [ -z "${CI:-}" ]
    exit
fi
echo "installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null
