"""Break EROFS images.

Most mutations aim at fields that something depends on, which are found by reading the image before; the others hit
anywhere.  Values are such that lead elsewhere in the image, just behind its end, or nowhere.
"""

import contextlib
import functools
import random
import stat
import struct
from typing import NamedTuple

from composefs.erofs import ondisk
from composefs.erofs.reader import ErofsReader
from composefs.errors import FormatError
from tests.erofs_images import CHARACTER, LINK, REGULAR, ImageBuilder, xattr, xattr_area
from tests.fuzz.mutations import INTERESTING, havoc
from tests.golden import vectors

SIZE_MAX = 48 << 10  # bytes of images that are broken; larger ones have nothing else in them
_BROKEN = "xattr-shared-256"  # by composefs-rs

_INODES_MAX = 2000  # that are looked at

_HEADER_FIELDS = ((0, 4), (4, 4), (8, 4), (12, 4))
# All of the superblock but uuid and name.
_SUPERBLOCK_FIELDS = (
    (0, 4), (4, 4), (8, 4), (12, 1), (13, 1), (14, 2), (16, 8), (24, 8), (32, 4), (36, 4), (40, 4), (44, 4),
    (80, 4), (84, 2), (86, 2), (88, 2), (90, 1), (91, 1), (92, 4), (96, 8), (104, 1),
)  # fmt: skip
_COMPACT_FIELDS = ((0, 2), (2, 2), (4, 2), (6, 2), (8, 4), (16, 4), (20, 4), (24, 2), (26, 2))
_EXTENDED_FIELDS = ((0, 2), (2, 2), (4, 2), (8, 8), (16, 4), (20, 4), (24, 4), (28, 4), (32, 8), (40, 4), (44, 4))
_FORMATS = (0, 1, 2, 4, 5, 8, 9, 13)
_MODES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, 0)


class Field(NamedTuple):
    """A number in an image."""

    offset: int
    size: int


class Survey(NamedTuple):
    """What is where in an image."""

    superblock: list[Field]
    inodes: list[int]  # offsets
    inode_fields: list[Field]
    xattr_fields: list[Field]
    dirents: list[int]  # offsets
    values: list[int]  # that occur: nids, block numbers, references


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Break an image a little."""
    if len(data) < ondisk.INODES_OFFSET:
        return havoc(chance, data)
    image, source = bytearray(data), survey(data)
    chance.choices(_MUTATIONS, _WEIGHTS)[0](chance, image, source)
    return bytes(image)


@functools.cache
def golden(algorithm: str = "*") -> list[bytes]:
    """Return the golden images, all or those of one *algorithm*, that are small, the smallest ones four times."""
    found = []
    for path in sorted(vectors.ROOT.rglob(f"{algorithm}/*.erofs.gz")):
        data = vectors.read(path)
        if len(data) <= SIZE_MAX and path.parts[-3] != _BROKEN:
            found += [data] * (4 if len(data) <= 8192 else 1)
    return found


def handmade() -> dict[str, bytes]:
    """Return, by name, images with what no golden one has together in few bytes."""
    found = {}
    for version in (1, 2):
        builder = ImageBuilder(version, blocks=[b"d" * 4096, b"e" * 904])
        builder.shared += xattr(6, b"selinux", b"label") + xattr(4, b"overlay.overlay.x", b"y") * 2
        shared = xattr_area(xattr(1, b"local", b"value"), references=(0, 4, 10))
        names = [
            (b"blocks", builder.inode(REGULAR, size=5000 if version == 1 else 400, address=16)),
            (b"device", builder.inode(CHARACTER, address=259)),
            (b"file", builder.inode(REGULAR, b"tail", xattrs=shared, links=2)),
            (b"link", builder.inode(LINK, b"../target", xattrs=shared)),
        ]
        names.append((b"other", names[2][1]))
        root = builder.next_nid() + 16
        below = [(b"d%d" % index, builder.directory([], parent=root)) for index in range(2)]
        builder.data = builder.data.ljust(root * 32, b"\0")
        found[f"handmade-v{version}.erofs"] = builder.finish(builder.directory(names + below, links=4))
    return found


@functools.lru_cache(maxsize=1024)
def survey(data: bytes) -> Survey:
    """Return the places of the fields of an image; of a broken one those that are found."""
    found = Survey([Field(offset, size) for offset, size in _HEADER_FIELDS], [], [], [], [], [])
    found.superblock.extend([Field(ondisk.SUPERBLOCK_OFFSET + offset, size) for offset, size in _SUPERBLOCK_FIELDS])
    with contextlib.suppress(FormatError, struct.error, IndexError):
        _survey_inodes(data, found)
    if not found.inodes:
        found.inodes.append(ondisk.INODES_OFFSET)
    found.values.extend((len(data) // 32, len(data) // 4096, len(data)))
    return found


def _survey_inodes(data, found):
    reader = ErofsReader(data)
    pending, seen = [reader.root], {reader.root.nid}
    while pending and len(found.inodes) < _INODES_MAX:
        inode = pending.pop()
        found.inodes.append(inode.offset)
        layout = _EXTENDED_FIELDS if data[inode.offset] & ondisk.FORMAT_EXTENDED else _COMPACT_FIELDS
        found.inode_fields.extend([Field(inode.offset + offset, size) for offset, size in layout])
        found.xattr_fields.extend(_xattr_fields(data, inode))
        found.values.extend([inode.nid, inode.address, inode.size])
        if inode.type == stat.S_IFDIR:
            for offset, size in reader.directory_blocks(inode):
                first = int.from_bytes(data[offset + 8 : offset + 10], "little")
                found.dirents.extend(range(offset, offset + min(first, size), ondisk.DIRENT.size))
            for _, nid, _ in reader.entries(inode):
                if nid not in seen:
                    seen.add(nid)
                    pending.append(reader.inode(nid))


def _xattr_fields(data, inode):
    if inode.xattrs_offset == inode.tail_offset:
        return
    start = inode.xattrs_offset
    yield Field(start + 4, 1)
    offset = start + ondisk.XATTR_HEADER.size
    for _ in range(data[start + 4]):
        yield Field(offset, 4)
        offset += 4
    while offset < inode.tail_offset:
        suffix_size, _, value_size = ondisk.XATTR_ENTRY.unpack_from(data, offset)
        yield from (Field(offset, 1), Field(offset + 1, 1), Field(offset + 2, 2))
        offset += -(-(4 + suffix_size + value_size) // 4) * 4


def _set(image, field, value):
    if field.offset + field.size <= len(image):
        value &= (1 << 8 * field.size) - 1
        image[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")


def _value(chance, image, field, source):
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice(source.values)
    if kind == 1:
        old = int.from_bytes(image[field.offset : field.offset + field.size], "little")
        return old + chance.choice((-32, -12, -8, -4, -1, 1, 4, 8, 12, 32))
    if kind == 2:
        return chance.getrandbits(8 * field.size)
    return chance.choice(INTERESTING)


def _flip(chance, image, source):
    image[chance.randrange(len(image))] ^= 1 << chance.randrange(8)


def _replace(chance, image, source):
    size = chance.choice((1, 2, 4, 8))
    offset = chance.randrange(0, len(image) - size + 1, size)
    field = Field(offset, size)
    _set(image, field, _value(chance, image, field, source))


def _superblock(chance, image, source):
    field = chance.choice(source.superblock)
    _set(image, field, _value(chance, image, field, source))


def _inode(chance, image, source):
    offset = chance.choice(source.inodes)
    kind = chance.randrange(8)
    if kind == 0:
        _set(image, Field(offset, 2), chance.choice(_FORMATS))
    elif kind == 1:
        _set(image, Field(offset + 4, 2), chance.choice(_MODES) | chance.choice((0, 0o644, 0o7777)))
    elif kind == 2:  # another inode in its place
        other = chance.choice(source.inodes)
        image[offset : offset + 32] = image[other : other + 32].ljust(32, b"\0")
    else:
        field = chance.choice(source.inode_fields or source.superblock)
        _set(image, field, _value(chance, image, field, source))


def _root(chance, image, source):
    """Break the inode of the root, or the first entries in it."""
    offset = source.inodes[0]
    fields = [field for field in source.inode_fields if offset <= field.offset < offset + 64]
    field = chance.choice(fields or source.superblock)
    _set(image, field, _value(chance, image, field, source))


def _xattr(chance, image, source):
    if source.xattr_fields:
        field = chance.choice(source.xattr_fields)
        _set(image, field, _value(chance, image, field, source))


def _dirent(chance, image, source):
    if not source.dirents:
        return
    offset = chance.choice(source.dirents)
    kind = chance.randrange(4)
    if kind == 0:
        _set(image, Field(offset, 8), chance.choice(source.inodes) // 32)  # loops, several names, other types
    elif kind == 1:
        other = chance.choice(source.dirents)
        image[offset : offset + 12] = image[other : other + 12].ljust(12, b"\0")
    else:
        field = Field(offset + chance.choice((0, 8)), chance.choice((1, 2, 8)))
        _set(image, field, _value(chance, image, field, source))


def _overlap(chance, image, source):
    """Let several inodes own the same blocks, of a size as large as may be."""
    address, size = chance.choice(source.values), chance.choice((4096, 8192, len(image), len(image) // 2, 1 << 20))
    mode = chance.choice((stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK)) | 0o755
    for offset in chance.sample(source.inodes, min(len(source.inodes), chance.randrange(1, 40))):
        is_extended = image[offset : offset + 1] == b"\1" or image[offset : offset + 1] == b"\5"
        _set(image, Field(offset, 2), 1 if is_extended else 0)
        _set(image, Field(offset + 4, 2), mode)
        _set(image, Field(offset + 8, 8 if is_extended else 4), size)
        _set(image, Field(offset + 16, 4), address)


def _stretch(chance, image, source):
    """Let several inodes have all that follows for their xattrs."""
    words = chance.choice((2, 100, 1000, 16384, 65535, len(image) // 8))
    for offset in chance.sample(source.inodes, min(len(source.inodes), chance.randrange(1, 40))):
        _set(image, Field(offset + 2, 2), words)


def _cut(chance, image, source):
    del image[chance.randrange(len(image)) :]


def _splice(chance, image, source):
    """Put a part of this image or of another one elsewhere."""
    other = image if chance.random() < 0.5 else chance.choice(golden())
    size = chance.choice((4, 12, 32, 64, 512, 4096))
    start = chance.randrange(0, max(1, len(other) - size), 4)
    offset = chance.randrange(0, len(image), 4)
    image[offset : offset + size] = other[start : start + size]


def _insert(chance, image, source):
    offset = chance.randrange(0, len(image), 4)
    image[offset:offset] = bytes(chance.choice((1, 4, 12, 32, 4096)))


def _clear(chance, image, source):
    offset = chance.randrange(len(image))
    size = chance.choice((4, 32, 512, 4096))
    image[offset : offset + size] = bytes([chance.choice((0, 0, 0xFF))]) * len(image[offset : offset + size])


_MUTATIONS, _WEIGHTS = zip(
    (_flip, 3), (_replace, 3), (_superblock, 2), (_inode, 8), (_root, 4), (_xattr, 6), (_dirent, 8), (_overlap, 3),
    (_stretch, 2), (_cut, 1), (_splice, 3), (_insert, 1), (_clear, 2),
    strict=True,
)  # fmt: skip
