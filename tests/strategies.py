"""Random file systems, as values and on disk."""

import os
import stat
import struct
from pathlib import Path

from hypothesis import strategies as st

from composefs.tree import Directory, Inline, Leaf, Object, Special, Stat, Symlink, is_whiteout
from composefs.verity import compute_digest

# An access list of version 2: owner, uid 1000, group, mask, others.
_ACL_ENTRIES = ((1, 7, 0xFFFFFFFF), (2, 5, 1000), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF))
_ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in _ACL_ENTRIES)
_CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw, version 2

_OWNERS = st.sampled_from([0, 1, 1000, 65535, 65536, 0xFFFFFFFE])
_SECONDS = st.sampled_from([0, 1, 1700000000, 1700000000, 1 << 31, 1 << 33])
_NANOSECONDS = st.sampled_from([0, 0, 1, 999999999])
_NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"!", b"-", b".a", b"..a", b".wh.a", b"00", b"ff", b"FF", b"\xff", b" ", b"\\", b"="]),
    st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"/", b"s").replace(b"\0", b"z")),
    st.integers(1, 255).map(lambda size: b"n" * size),
).filter(lambda name: name not in (b".", b".."))
_SIZES = st.one_of(st.integers(0, 64), st.sampled_from([65, 4095, 4096, 4097, 9000]))
_TARGETS = st.one_of(
    st.sampled_from([b"a", b"../b", b"/usr/bin", b"\xff", b"x" * 64]),
    st.integers(1, 1024).map(lambda size: b"t" * size),
)
_DEVICES = st.sampled_from([os.makedev(0, 0), os.makedev(0, 0), os.makedev(1, 3), os.makedev(4095, 0xFFFFF)])
_XATTR_NAMES = (
    b"security.capability",
    b"security.selinux",
    b"security.x",
    b"trusted.a",
    b"trusted.overlay.opaque",
    b"trusted.overlay.metacopy",
    b"trusted.overlay.overlay.redirect",
)
_USER_XATTR_NAMES = (b"user.a", b"user.b", b"user.overlay.opaque", b"user.overlay.whiteout", b"user." + b"n" * 250)
_SHORT_VALUES = st.sampled_from([b"", b"y", b"label:s0", b"label:s0\0", b"value", b"v" * 100, b"w" * 3000])


def tree_values(draw, algorithm, max_nodes=24):
    """Return a random tree that can also be made on a tmpfs, by root."""
    stats = draw(st.lists(_stats(), min_size=1, max_size=4))
    root = Directory(_with_xattrs(draw, draw(st.sampled_from(stats)), is_user=True))
    directories, leaves = [root], []
    for _ in range(draw(st.integers(0, max_nodes))):
        parent = draw(st.sampled_from(directories))
        name = draw(_NAMES)
        if name in parent.entries:
            continue
        info = draw(st.sampled_from(stats))
        kind = draw(st.sampled_from("ddfffffflcbpsh"))
        if kind == "d":
            node = Directory(_with_xattrs(draw, info, is_user=True))
            directories.append(node)
        elif kind == "h" and leaves:
            node = draw(st.sampled_from(leaves))
        else:
            content = _content(draw, kind, algorithm)
            node = Leaf(_with_xattrs(draw, info, is_user=kind == "f", is_link=kind == "l"), content)
            if not is_whiteout(content):  # which may have one name only
                leaves.append(node)
        parent.entries[name] = node
    return root


def trees(algorithm, max_nodes=24):
    """Return a strategy of such trees."""
    return st.composite(lambda draw: tree_values(draw, algorithm, max_nodes))()


@st.composite
def _stats(draw):
    mode = draw(st.sampled_from([0o644, 0o755, 0o600, 0o7777, 0, 0o1777]))
    return Stat(mode, draw(_OWNERS), draw(_OWNERS), draw(_SECONDS), draw(_NANOSECONDS))


def _with_xattrs(draw, info, *, is_user, is_link=False):
    if draw(st.integers(0, 2)):
        return info if not is_link else info._replace(mode=0o777)
    names = _XATTR_NAMES + ((*_USER_XATTR_NAMES, b"system.posix_acl_access") if is_user else ())
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=5))
    xattrs = {}
    for name in sorted(chosen):
        fixed = {b"security.capability": _CAPABILITY, b"system.posix_acl_access": _ACL}
        if name in fixed and (is_user or name != b"security.capability"):
            xattrs[name] = fixed[name]
        elif name not in fixed:
            xattrs[name] = draw(_SHORT_VALUES)
    mode = 0o777 if is_link else info.mode
    if b"system.posix_acl_access" in xattrs:
        mode = mode & ~0o777 | 0o775  # what setting the list makes of the mode
    return info._replace(mode=mode, xattrs=xattrs)


def _content(draw, kind, algorithm):
    match kind:
        case "l":
            return Symlink(draw(_TARGETS))
        case "c" | "b":
            return Special(stat.S_IFCHR if kind == "c" else stat.S_IFBLK, draw(_DEVICES))
        case "p" | "s":
            return Special(stat.S_IFIFO if kind == "p" else stat.S_IFSOCK)
        case _:
            size = draw(_SIZES)
            data = file_data(size)
            return Inline(data) if size <= 64 else Object(size, compute_digest(data, algorithm).raw)


def file_data(size):
    """Return the content of the files of *size* bytes."""
    return bytes((7 * i + size) & 0xFF for i in range(size))


def write_tree(root: Directory, path: Path) -> None:
    """Make the tree *root* at *path*, which does not exist; that takes root, and a tmpfs."""
    made: dict[Leaf, bytes] = {}
    base = os.fsencode(path)
    os.mkdir(base)
    todo = [(base, root)]
    for directory_path, directory in todo:
        for name, node in directory.entries.items():
            where = directory_path + b"/" + name
            if isinstance(node, Directory):
                os.mkdir(where)
                todo.append((where, node))
            elif node in made:
                os.link(made[node], where, follow_symlinks=False)
            else:
                made[node] = where
                _make_leaf(where, node.content)
                _set_stat(where, node.stat, is_link=isinstance(node.content, Symlink))
    for where, directory in reversed(todo):
        _set_stat(where, directory.stat)


def _make_leaf(where, content):
    match content:
        case Inline(data):
            _write(where, data)
        case Object(size):
            _write(where, file_data(size))
        case Symlink(target):
            os.symlink(target, where)
        case Special(kind, rdev):
            os.mknod(where, kind | 0o600, rdev)


def _write(where, data):
    with open(where, "xb") as file:
        file.write(data)


def _set_stat(where, info, *, is_link=False):
    os.chown(where, info.uid, info.gid, follow_symlinks=False)
    if not is_link:
        os.chmod(where, info.mode)
    for name, value in info.xattrs.items():
        os.setxattr(where, name, value, follow_symlinks=False)
    if not is_link:
        os.chmod(where, info.mode)
    nanoseconds = info.mtime * 1_000_000_000 + info.nanoseconds
    os.utime(where, ns=(nanoseconds, nanoseconds), follow_symlinks=False)
