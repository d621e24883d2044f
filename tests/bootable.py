"""What images have to boot, right and wrong: trees that unit tests take apart and cfsctl judges."""

import os
import struct
from pathlib import Path

from composefs.errors import FormatError, TreeError
from composefs.tree import Backed, Directory, Inline, Leaf, Special, Stat, Symlink

PLAIN = Stat(0o755, 0, 0, 7, 8)
USR = Stat(0o711, 3, 4, 1600000000, 123456789)


def node_of(value):
    """Return bytes as a file, a dict as a directory, text as a symbolic link, and a node as it is."""
    if isinstance(value, bytes):
        return Leaf(PLAIN, Inline(value))
    if isinstance(value, str):
        return Leaf(PLAIN, Symlink(value.encode()))
    if isinstance(value, dict):
        return Directory(PLAIN, {name: node_of(below) for name, below in value.items()})
    return value


def tree(paths=(), **without):
    """Return a tree that can be made bootable, with what *paths* gives by path; None takes something away."""
    root = Directory(PLAIN, {name: Directory(PLAIN) for name in (b"boot", b"sysroot", b"usr")})
    root.entries[b"usr"].stat = USR
    for path, value in dict(paths).items():
        *parents, name = path.strip(b"/").split(b"/")
        directory = root
        for parent in parents:
            directory = directory.entries.setdefault(parent, Directory(PLAIN))
        if value is None:
            del directory.entries[name]
        else:
            directory.entries[name] = node_of(value)
    return root


def write(directory: Path, paths) -> bool:
    """Write the tree of *paths* to *directory*, or return that a directory cannot hold it."""
    return _write(os.fsencode(directory), tree(paths))


def _write(path: bytes, directory: Directory) -> bool:
    possible = True
    for name, node in directory.entries.items():
        below = os.path.join(path, name)
        if isinstance(node, Directory):
            os.mkdir(below)
            possible &= _write(below, node)
            continue
        match node.content:
            case Inline(data):
                Path(os.fsdecode(below)).write_bytes(data)
            case Symlink(target):
                os.symlink(target, below)
            case Special(kind):
                os.mknod(below, kind | 0o644)
            case _:
                possible = False
    return possible


def pe(*sections, count=None, magic=b"PE\0\0", optional=7, data=b"x" * 16):
    """Return a PE file with *sections*, which are a name and perhaps size and place of the data."""
    count = len(sections) if count is None else count
    at = 70
    end = at + 24 + optional + 40 * len(sections)
    headers = b"".join(struct.pack("<8sI4x4xI16x", name, *(place or (len(data), end))) for name, *place in sections)
    return b"".join(
        [
            struct.pack("<60xI6x", at),
            struct.pack("<4s2xH12xH2x", magic, count, optional),
            b"o" * optional,
            headers,
            data,
        ]
    )


def android(version=2, page=2048, size=1660, magic=b"ANDROID!"):
    header = bytearray(1660)
    header[:8] = magic
    struct.pack_into("<II", header, 36, page, version)
    struct.pack_into("<I", header, 1644, size)
    return bytes(header)


UKI = pe((b".linux",), (b".initrd",))


# What an image may have, with every doubtful case that the reference takes.
TAKEN = {
    "nothing": {},
    "type 1": {
        b"/boot/loader/entries/a.conf": b"title x\nlinux /usr/k\n\ninitrd\t /usr//i/ \xc2\xa0\ninitrd /usr/./k\n"
        b"efi usr/k\n",
        b"/usr/k": b"k",
        b"/usr/i": {b" \xc2\xa0": b"i"},
    },
    "type 1, other lines": {
        b"/boot/loader/entries/a.conf": b" linux /none\nLinux /none\nlinuxefi /none\nlinux\n"
        b"options linux /none\nlinux\v/none",
    },
    "type 1, other names": {b"/boot/loader/entries/a.conf~": {}, b"/boot/loader/entries/a": b"\xff"},
    "type 1, sparse": {b"/boot/loader/entries/a.conf": Leaf(PLAIN, Backed(100))},
    "unified": {
        b"/boot/EFI/Linux/d/e/x.efi": b"",
        b"/boot/EFI/Linux/x.efi.extra.d/a.addon.efi": b"",
        b"/boot/loader/addons/a.addon.efi": b"",
        b"/usr/lib/modules/6.1/x.efi": b"",
        b"/boot/EFI/Linux/link": "nowhere",
    },
    "modules": {b"/usr/lib/modules/6.1/vmlinuz": b"", b"/usr/lib/modules/file": b"", b"/usr/lib/modules/5": {}},
    "modules, none": {
        b"/usr/lib/modules/1/vmlinuz": {},
        b"/usr/lib/modules/2/vmlinuz": "x",
        b"/usr/lib/modules/3/initramfs.img": {},
        b"/usr/lib/modules/\xff/x": b"",
    },
    "android": {b"/boot/aboot-6.1.img": android(), b"/boot/vbmeta-6.1.img": b""},
    "android, large header": {b"/boot/aboot-6.1.img": android(size=4096, page=4096)},
    "unified payload": {b"/boot/aboot-6.1.img": UKI},
    # Neither what other sections say of themselves nor a second one of the same name is looked at.
    "unified payload, odd": {
        b"/boot/aboot-6.1.img": pe((b".bss", 1 << 30, 0), (b".linux",), (b".initrd",), (b".linux", 1 << 30, 9))
    },
    "payload with addons": {b"/boot/aboot-6.1.img": android(), b"/boot/EFI/Linux/a.addon.efi": b""},
    "no payload": {
        b"/boot/aboot-6.1.img.bak": b"",
        b"/boot/aboot.img": b"",
        b"/boot/vbmeta.img": b"",
        b"/boot/Aboot-1.img": b"",
        b"/usr/lib/modules/6.1/aboot-1.img": b"",
    },
}


ENTRY = b"/boot/loader/entries/a.conf"
ABOOT = b"/boot/aboot-6.1.img"
REFUSED = {
    "type 1, directory": ({ENTRY: {}}, TreeError, "a.conf: is not a regular file"),
    "type 1, link": ({ENTRY: "b.conf"}, TreeError, "a.conf: is not a regular file"),
    "type 1, not UTF-8": ({ENTRY: b"title \xff"}, FormatError, "a.conf, offset 6: not UTF-8"),
    "type 1, missing": ({ENTRY: b"linux /k"}, TreeError, "a.conf: names a file that cannot be had: /k not found"),
    "type 1, two in one": ({ENTRY: b"initrd /a /b", b"/a": b"", b"/b": b""}, TreeError, "/a /b not found"),
    "type 1, empty": ({ENTRY: b"linux "}, TreeError, "names a file that cannot be had"),
    "type 1, up": ({ENTRY: b"efi /usr/../k", b"/k": b""}, TreeError, "goes up"),
    "type 1, relative": ({ENTRY: b"efi ./k", b"/k": b""}, TreeError, "./k: is not an absolute path"),
    "type 1, directory named": ({ENTRY: b"efi /usr"}, TreeError, "/usr: is not a regular file"),
    "type 1, link named": ({ENTRY: b"efi /k", b"/k": "usr"}, TreeError, "/k: is not a regular file"),
    "type 1, through a link": ({ENTRY: b"efi /l/k", b"/usr/k": b"", b"/l": "usr"}, TreeError, "no directory"),
    "entries are a file": ({b"/boot/loader/entries": b""}, TreeError, "entries: is not a directory"),
    "EFI is a link": ({b"/boot/EFI": "efi"}, TreeError, "goes through something that is no directory"),
    "unified, link": ({b"/boot/EFI/Linux/d/a.efi": "b"}, TreeError, "/boot/EFI/Linux/d/a.efi: is not a regular file"),
    "addon, link": ({b"/boot/loader/addons/a.addon.efi": "b"}, TreeError, "a.addon.efi: is not a regular file"),
    "unified in modules, fifo": (
        {b"/usr/lib/modules/6/a.efi": Leaf(PLAIN, Special(0o010000))},
        TreeError,
        "/usr/lib/modules/6/a.efi: is not a regular file",
    ),
    "modules are a link": ({b"/usr/lib": "lib64"}, TreeError, "goes through something that is no directory"),
    "version": ({b"/usr/lib/modules/\xff/vmlinuz": b""}, TreeError, "vmlinuz: has a kernel version that is not UTF-8"),
    "aboot, no version": ({b"/boot/aboot-.img": android()}, TreeError, "/boot/aboot-.img: has no kernel version"),
    "aboot, version": ({b"/boot/aboot-\xff.img": android()}, TreeError, "has a kernel version that is not UTF-8"),
    "aboot, directory": ({ABOOT: {}}, TreeError, "/boot/aboot-6.1.img: is not a regular file"),
    "aboot, two": (
        {ABOOT: android(), b"/boot/aboot-6.2.img": android()},
        TreeError,
        "at most one aboot payload, got 2",
    ),
    "vbmeta alone": ({b"/boot/vbmeta-6.img": b""}, TreeError, "/boot/vbmeta-6.img: has no matching aboot payload"),
    "vbmeta, other version": ({ABOOT: android(), b"/boot/vbmeta-6.img": b""}, TreeError, "no matching aboot payload"),
    "vbmeta, link": ({ABOOT: android(), b"/boot/vbmeta-6.1.img": "x"}, TreeError, "vbmeta-6.1.img: is not a regular"),
    "vbmeta of a unified kernel": ({ABOOT: UKI, b"/boot/vbmeta-6.1.img": b""}, TreeError, "cannot have a vbmeta image"),
    "aboot and modules": (
        {ABOOT: android(), b"/usr/lib/modules/6.1/vmlinuz": b""},
        TreeError,
        "/boot/aboot-6.1.img: an aboot payload cannot be combined .*/usr/lib/modules/6.1/vmlinuz",
    ),
    "aboot and type 1": ({ABOOT: android(), ENTRY: b""}, TreeError, "cannot be combined .*/boot/loader/entries/a.conf"),
    "aboot and unified": ({ABOOT: UKI, b"/boot/EFI/Linux/a.efi": b""}, TreeError, "combined .*/boot/EFI/Linux/a.efi"),
    "aboot, sparse": ({ABOOT: Leaf(PLAIN, Backed(5000))}, FormatError, "headers are cut off"),
    "android, cut": ({ABOOT: android()[:-1]}, FormatError, "offset 1659: Android boot image header: wanted 1660 bytes"),
    "android, version": ({ABOOT: android(version=3)}, FormatError, "offset 40: .*wanted version 2, got 3"),
    "android, small": (
        {ABOOT: android(size=1659)},
        FormatError,
        "offset 1644: .*1659 is not from 1660 to a page, 2048",
    ),
    "android, page": ({ABOOT: android(page=1659)}, FormatError, "offset 1644: .*1660 is not from 1660 to a page, 1659"),
    "unified, empty": ({ABOOT: b""}, FormatError, "offset 0: not an aboot payload: its headers are cut off"),
    "unified, magic": ({ABOOT: pe(magic=b"NE\0\0")}, FormatError, "offset 70: not an aboot payload: no PE header"),
    "unified, no initrd": ({ABOOT: pe((b".linux",), (b".init",))}, FormatError, "no section .initrd"),
    "unified, no linux": ({ABOOT: pe((b".initrd",))}, FormatError, "no section .linux"),
    "unified, headers": ({ABOOT: pe((b".linux",), (b".initrd",), count=60)}, FormatError, "offset 101: .*are cut off"),
    "unified, data": (
        {ABOOT: pe((b".linux",), (b".initrd", 17, 181))},
        FormatError,
        "offset 141: .*section .initrd ends behind the file",
    ),
}
