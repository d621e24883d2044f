"""A directory with everything in it, and what is to be seen of one."""

import hashlib
import os
import socket
import stat
import struct
from pathlib import Path

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw, version 2
# An access list of version 2: owner rwx, uid 1000 r-x, group r-x, mask rwx, others r-x.
_ENTRIES = ((1, 7, 0xFFFFFFFF), (2, 5, 1000), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF))
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in _ENTRIES)
NAMES = [b"\xff\xfe", b"new\nline", b" blank ", b"\\backslash", b"-dash", b"n" * 255, "caf\u00e9".encode(), b"\x1b[2J"]


def file_data(size: int) -> bytes:
    """Return *size* bytes, others for each size."""
    return bytes((7 * index + size) & 0xFF for index in range(size))


def make_everything(root: Path) -> None:
    """Make a tree below the new directory *root*: every type, name, mode, time and attribute; that takes root."""
    for name in ("usr/bin", "usr/lib/deep/er/still", "etc", "dev", "run", "var/empty"):
        (root / name).mkdir(parents=True)
    base = os.fsencode(root)
    for size in (0, 1, 63, 64, 65, 4095, 4096, 4097, 300_000):
        (root / f"usr/lib/size-{size}").write_bytes(file_data(size))
    for index, name in enumerate(NAMES):
        with open(base + b"/var/" + name, "wb") as file:
            file.write(file_data(60 + index))
    (root / "usr/bin/tool").write_bytes(file_data(5000))
    for other in ("usr/bin/tool2", "etc/tool3", "usr/lib/deep/er/still/tool4"):
        os.link(root / "usr/bin/tool", root / other)
    (root / "usr/bin/same").write_bytes(file_data(5000))  # the same object, another file
    for name, target in {"absolute": "/etc", "up": "../../..", "nowhere": "nothing", "loop": "loop"}.items():
        (root / "usr" / name).symlink_to(target)
    os.symlink(b"\xff\n", base + b"/usr/odd")
    os.link(root / "usr/nowhere", root / "usr/nowhere2", follow_symlinks=False)
    with (root / "var/sparse").open("wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(file_data(100))
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "dev/large", stat.S_IFBLK | 0o600, os.makedev(4095, 0xFFFFF))
    os.mknod(root / "dev/whiteout", stat.S_IFCHR | 0o644, os.makedev(0, 0))
    os.mkfifo(root / "dev/fifo")
    os.link(root / "dev/fifo", root / "dev/fifo2")
    with socket.socket(socket.AF_UNIX) as bound:
        directory = os.open(root / "dev", os.O_PATH)  # the path of a socket may be short only
        bound.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    _set_metadata(root)


def _set_metadata(root: Path) -> None:
    os.chown(root / "usr/bin/tool", 1000, 70_000)
    os.chown(root / "usr/nowhere", 5, 6, follow_symlinks=False)
    os.chown(root / "var/empty", 0xFFFFFFFE, 12)
    os.chmod(root / "usr/bin/same", 0o6755)
    os.chmod(root / "var/sparse", 0)
    os.chmod(root / "var/empty", 0o1777)
    os.chmod(root / "usr/lib/deep/er", 0o500)
    os.chmod(root, 0o751)
    os.setxattr(root / "usr/bin/same", "security.capability", CAPABILITY)
    os.setxattr(root / "usr/bin/tool", "user.key", b"value\0\xff")
    os.setxattr(root / "usr/bin/tool", "user.empty", b"")
    os.setxattr(root / "usr/lib/size-0", "system.posix_acl_access", ACL)
    os.setxattr(root / "var", "system.posix_acl_default", ACL)
    os.setxattr(root / "etc", "trusted.mark", b"x" * 300)
    os.setxattr(root / "usr/absolute", "trusted.on-link", b"1", follow_symlinks=False)
    os.setxattr(root / "dev/null", "trusted.on-device", b"2")
    os.setxattr(root, "trusted.root", b"3")
    # The deepest first: what is made in a directory changes its time.
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        seconds = (-1, 0, 1_700_000_000, 1 << 33)[number % 4]
        nanoseconds = seconds * 1_000_000_000 + number * 1_000_003
        os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)
    os.utime(root, ns=(1, 123_456_789))


def make_archivable(root: Path) -> None:
    """Remove below *root*, and of it, what an archive of an OCI layer does not hold: sockets, times before 1970."""
    for path in [*root.rglob("*"), root]:
        if path.is_socket():
            path.unlink()
        elif path.lstat().st_mtime < 0:
            os.utime(path, (0, 0), follow_symlinks=False)


def times(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return times and size of everything at *root* and below it, some of which any change would change."""
    found = {}
    for path, directories, files in os.walk(root):
        for name in (".", *directories, *files):
            info = os.lstat(os.path.join(path, name))
            found[os.path.join(path, name)] = info.st_mtime_ns, info.st_ctime_ns, info.st_size
    return found


def snapshot(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Return everything that there is to be seen at *root* and below it, by path."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    todo = [os.fsencode(root)]
    while todo:
        path = todo.pop()
        info = os.lstat(path)
        place = path[len(os.fsencode(root)) :]
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _names(path)}
        content: object = None
        if stat.S_ISDIR(info.st_mode):
            todo += sorted((path + b"/" + name for name in os.listdir(path)), reverse=True)
        else:
            first.setdefault(info.st_ino, place)
        if stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                content = info.st_size, hashlib.sha256(file.read()).hexdigest()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        name_of = first.get(info.st_ino)
        links = info.st_nlink if name_of is not None else None
        owner = info.st_uid, info.st_gid
        found[place] = (oct(info.st_mode), owner, info.st_mtime_ns, info.st_rdev, links, name_of, xattrs, content)
    return found


def _names(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)
