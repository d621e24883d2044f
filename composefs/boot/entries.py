"""What an image has that can be booted, and whether it is as it has to be.

Type 1 entries and unified kernel images are those of the Boot Loader Specification; kernels below /usr/lib/modules and
aboot payloads (Android boot images) are found where their installers put them.  Symbolic links are never followed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from struct import Struct
from typing import TypeAlias, TypeGuard

from composefs import limits
from composefs.errors import FormatError, LimitError, NotFoundError, TreeError
from composefs.selinux import WHITE_SPACE
from composefs.tree import Backed, Directory, Inline, Leaf, Node, Object

ReadContent: TypeAlias = Callable[[Leaf], bytes]

_LOADER_ENTRIES = b"/boot/loader/entries"
_MODULES = b"/usr/lib/modules"
_FILE_KEYS = ("linux", "initrd", "efi")  # of a Type 1 entry: their values name files
_SEPARATORS = (" ", "\t", "\f", "\r")  # behind such a key

# magic; sizes and addresses of kernel, ramdisk and second stage; address of tags; page size; header version;
# OS version; board name; command line; id; rest of the command line; recovery DTBO size and offset; header size;
# DTB size and address
_ANDROID = Struct("<8s6II3I16s512s32s1024sIQIIQ")
assert _ANDROID.size == 1660
_ANDROID_MAGIC = b"ANDROID!"

_PE_OFFSET = Struct("<60xI")  # at the end of the DOS header
_COFF = Struct("<4s2xH12xH2x")  # magic, number of sections, size of the optional header
assert _COFF.size == 24
_SECTION = Struct("<8sI4x4xI16x")  # name, virtual size, offset of the data
assert _SECTION.size == 40


def check_entries(root: Directory, read_content: ReadContent) -> None:
    """Check what the tree has that can be booted.

    Raises:
        TreeError: something is not what it has to be, or names what does not exist.
        FormatError: the contents of something are wrong.
    """
    found = [*_type1_entries(root, read_content), *_unified_kernels(root), *_modules_kernels(root)]
    aboot = _aboot_payload(root, read_content)
    if aboot is not None and found:
        other = found[0].decode("utf-8", "backslashreplace")
        raise TreeError(aboot, f"an aboot payload cannot be combined with other boot artifacts, here {other}")


def _type1_entries(root: Directory, read_content: ReadContent) -> Iterator[bytes]:
    """Check the Type 1 entries, and yield their paths."""
    for name, node in _entries(root, _LOADER_ENTRIES):
        if not name.endswith(b".conf"):
            continue
        path = _LOADER_ENTRIES + b"/" + name
        data = contents(regular(node, path), path, read_content, limits.BOOT_ENTRY_SIZE)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise FormatError(path.decode("utf-8", "backslashreplace"), error.start, "not UTF-8") from None
        for line in text.split("\n"):
            for key in _FILE_KEYS:
                rest = line.removeprefix(key)
                if rest != line and rest.startswith(_SEPARATORS):
                    _check_named_file(root, path, rest.lstrip(WHITE_SPACE).encode())
        yield path


def _check_named_file(root: Directory, entry: bytes, path: bytes) -> None:
    """Check that *path*, which the boot entry at *entry* names, is a regular file."""
    try:
        if path.startswith(b"./"):
            raise TreeError(path, "is not an absolute path")
        regular(root.node(path), path)
    except (NotFoundError, TreeError) as error:
        raise TreeError(entry, f"names a file that cannot be had: {error}") from None


def _unified_kernels(root: Directory) -> Iterator[bytes]:
    """Check the PE files, which are told by their names, and yield the paths of those that are not addons."""
    places = [b"/boot/EFI/Linux", b"/boot/loader/addons"]
    places += [_MODULES + b"/" + version for version, node in _entries(root, _MODULES) if isinstance(node, Directory)]
    stack = [(place + b"/" + name, node) for place in places for name, node in _entries(root, place)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, Directory):
            stack += [(path + b"/" + name, child) for name, child in node.entries.items()]
        elif path.endswith(b".efi"):
            regular(node, path)
            if not path.endswith(b".addon.efi"):
                yield path


def _modules_kernels(root: Directory) -> Iterator[bytes]:
    """Yield the paths of the kernels below /usr/lib/modules; a vmlinuz that is no regular file is none."""
    for version, node in _entries(root, _MODULES):
        kernel = node.entries.get(b"vmlinuz") if isinstance(node, Directory) else None
        if kernel is not None and _is_regular(kernel):
            path = _MODULES + b"/" + version + b"/vmlinuz"
            _check_version(path, version)
            yield path


def _aboot_payload(root: Directory, read_content: ReadContent) -> bytes | None:
    """Check the aboot payload, and return its path."""
    payloads: list[tuple[bytes, Leaf]] = []
    tables: set[bytes] = set()
    for name, node in _entries(root, b"/boot"):
        kind, _, version = name.removesuffix(b".img").partition(b"-")
        if kind not in (b"aboot", b"vbmeta") or not name.endswith(b".img") or b"-" not in name:
            continue
        path = b"/boot/" + name
        if not version:
            raise TreeError(path, "has no kernel version in its name")
        _check_version(path, version)
        leaf = regular(node, path)
        if kind == b"aboot":
            payloads.append((version, leaf))
        else:
            tables.add(version)
    for version in sorted(tables.difference(version for version, _ in payloads)):
        raise TreeError(b"/boot/vbmeta-" + version + b".img", "has no matching aboot payload")
    if not payloads:
        return None
    if len(payloads) > 1:
        raise TreeError("/boot", f"wanted at most one aboot payload, got {len(payloads)}")
    ((version, payload),) = payloads
    path = b"/boot/aboot-" + version + b".img"
    source = path.decode("utf-8", "backslashreplace")
    data = contents(payload, path, read_content, limits.BOOT_PAYLOAD_SIZE)
    if data.startswith(_ANDROID_MAGIC):
        _check_android(source, data)
        return path
    _check_pe(source, data)
    if tables:
        raise TreeError(path, "is a unified kernel image, which cannot have a vbmeta image")
    return path


def _check_version(path: bytes, version: bytes) -> None:
    try:
        version.decode()
    except UnicodeDecodeError:
        raise TreeError(path, "has a kernel version that is not UTF-8") from None


def _check_android(source: str, data: bytes) -> None:
    """Check the header of an Android boot image: bootimg.h of AOSP's mkbootimg, boot_img_hdr_v2."""
    if len(data) < _ANDROID.size:
        raise FormatError(source, len(data), f"Android boot image header: wanted {_ANDROID.size} bytes")
    fields = _ANDROID.unpack_from(data)
    page, version, size = fields[8], fields[9], fields[17]
    if version != 2:
        raise FormatError(source, 40, f"Android boot image header: wanted version 2, got {version}")
    if not _ANDROID.size <= size <= page:
        what = f"Android boot image header: its size {size} is not from {_ANDROID.size} to a page, {page}"
        raise FormatError(source, 1644, what)


def _check_pe(source: str, data: bytes) -> None:
    """Check that *data* is a PE file whose sections `.linux` and `.initrd` are inside it; no other is looked at."""
    offset = 0
    try:
        (offset,) = _PE_OFFSET.unpack_from(data)
        magic, count, optional_size = _COFF.unpack_from(data, offset)
        if magic != b"PE\0\0":
            raise FormatError(source, offset, "not an aboot payload: no PE header")
        offset += _COFF.size + optional_size
        places = range(offset, offset + count * _SECTION.size, _SECTION.size)
        headers = [(place, *_SECTION.unpack_from(data, place)) for place in places]
    except struct.error:
        raise FormatError(source, offset, "not an aboot payload: its headers are cut off") from None
    sections = {name.rstrip(b"\0"): (place, size, start) for place, name, size, start in reversed(headers)}
    for name in (b".linux", b".initrd"):
        if name not in sections:
            raise FormatError(source, offset, f"not an aboot payload: no section {name.decode()}")
        place, size, start = sections[name]
        if start + size > len(data):
            raise FormatError(source, place, f"not an aboot payload: section {name.decode()} ends behind the file")


def _entries(root: Directory, path: bytes) -> list[tuple[bytes, Node]]:
    """Return what is in the directory at *path*, by name; nothing if it does not exist."""
    try:
        return sorted(root.directory(path).entries.items(), key=lambda entry: entry[0])
    except NotFoundError:
        return []


def _is_regular(node: Node) -> TypeGuard[Leaf]:
    return isinstance(node, Leaf) and isinstance(node.content, Inline | Object | Backed)


def regular(node: Node, path: bytes) -> Leaf:
    """Return *node*, which is at *path*.

    Raises:
        TreeError: it is no regular file.
    """
    if not _is_regular(node):
        raise TreeError(path, "is not a regular file")
    return node


def contents(leaf: Leaf, path: bytes, read_content: ReadContent, size_max: int) -> bytes:
    """Return the contents of the regular file at *path*.

    Raises:
        LimitError: it has more than *size_max* bytes, and is not in the image itself.
    """
    content = leaf.content
    if isinstance(content, Inline):
        return content.data
    if isinstance(content, Backed) and content.path is None and content.digest is None:
        return b""  # sparse, which the reference reads as nothing
    assert isinstance(content, Object | Backed)
    check_size(path, content.size, size_max)
    return read_content(leaf)


def check_size(path: bytes, size: int, size_max: int) -> None:
    """Check the size of the file at *path*, which is to be read at once.

    Raises:
        LimitError: it has more than *size_max* bytes.
    """
    if size > size_max:
        raise LimitError(path.decode("utf-8", "backslashreplace"), 0, "bytes", size_max, size)
