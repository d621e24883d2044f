"""Archives of layers: C and Python split them alike, and what is stored gives the archive and its index again.

And several in one input, with SEPARATOR between: layers, merged by C to what the tree of them is.
"""

from __future__ import annotations

import io
import random
from unittest.mock import patch

from composefs import _native
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump
from composefs.erofs import VERSIONS
from composefs.erofs.load import load_tree
from composefs.erofs.writer import write_image
from composefs.errors import ComposefsError, FormatError
from composefs.oci.index import LayerIndex, read_index
from composefs.oci.merge import Merger, merge_layers
from composefs.oci.plain import plain_dump, plain_image
from composefs.splitstream import ContentType, SplitstreamReader
from composefs.transform import transform_for_oci
from composefs.xattrs import XattrFilter
from tests.fuzz.mutations import havoc
from tests.fuzz.target import Target, chance_of
from tests.golden import vectors
from tests.layers import batches_of, slow_index
from tests.splitting import outcome

from generator.tar import BLOCK, GNU, USTAR, V7, Archive, base256, pax_records  # isort: skip

SEPARATOR = b"\xfe" * BLOCK
_GOLDEN_MAX = 24 << 10  # bytes of a golden layer that has something special

_FIELDS = ((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8))
_FIELDS += ((265, 32), (297, 32), (329, 8), (337, 8), (345, 155))
_SIZE = (124, 12)
_SIZES = (0, 1, 63, 64, 65, 511, 512, 513, 4096, 1 << 20, (1 << 20) + 1, 1 << 31, 1 << 33, (1 << 36) - 1)
_NUMBERS = [b"%011o\0" % number for number in _SIZES]
_NUMBERS += [base256(number, 12) for number in (*_SIZES, -1, 1 << 62, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 90)]
_NUMBERS += [b"", b" 7", b"+7\0", b"-7\0", b"8\0", b"0x7\0", b"7 \0 7", b"77777777", b"\xff" * 12]
_NAMES = [
    b"a", b"usr", b"usr/bin", b"/", b"", b".", b"..", b"../x", b"x/../y", b"/abs", b".wh.a", b".wh..wh..opq", b".wh.",
    b"usr/.wh.bin", b"n" * 100, b"n" * 99, b"a" + b"/" * 99, b"\xff\\\n", b"p/" * 50,
]  # fmt: skip
_KEYS = [
    b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.xattr.user.x", b"SCHILY.xattr.", b"comment",
    b"GNU.sparse.name", b"GNU.sparse.major", b"GNU.sparse.map", b"\xff", b"hdrcharset",
    b"SCHILY.xattr.security.selinux",
]  # fmt: skip
_VALUES = [
    b"", b"0", b"1", b"-1", b"+5", b"64", b"65", b"18446744073709551615", b"18446744073709551616", b"1.5", b"1.",
    b"9" * 1000, b"a", b"usr/bin", b"..", b"\0", b"\n", b"v" * 3000, b"1.999999999999", b"1.-1", b"1e9",
]  # fmt: skip
_RAW_RECORDS = [
    b"0 \n",
    b"5 a=\n",
    b"99 a=b\n",
    b"-6 a=b\n",
    b"+6 a=b\n",
    b"6 ab\n\n",
    b"1" * 25 + b" a=b\n",
    b"\0" * 20,
]
_KINDS = [b"0", b"\0", b"7", b"1", b"2", b"3", b"4", b"5", b"6", b"x", b"g", b"L", b"K", b"S", b"Z", b"\xff"]


def check_archive(data: bytes) -> bool:
    """Split by C and by Python, cut at random; read again what was stored."""
    chance = chance_of(data)
    algorithm = chance.choice(list(Algorithm))
    sizes = [chance.choice((512, 1024, 3072, chance.randrange(1, 3000))) for _ in range(3)]
    with patch.object(_native.TarCutter, "cut", lambda *_: None):
        wanted = outcome(algorithm, data, [len(data) or 1])
    assert outcome(algorithm, data, sizes) == wanted, "cut, and by C"
    if isinstance(wanted[0], str):
        return False
    stream, batches, _, objects, _ = wanted
    reader = SplitstreamReader(io.BytesIO(stream), algorithm, "stream", ContentType.LAYER)
    assert reader.size == len(data), "size in the stream"
    merged = reader.merged(lambda digest: io.BytesIO(objects[digest.raw]))
    assert b"".join(map(bytes, merged)) == data, "merged content"
    assert slow_index(reader, "layer L") == batches, "index, entry by entry"
    assert list(read_index(reader, "layer L")) == batches, "index, many at a time"
    return True


def check_layers(data: bytes) -> bool:
    """Merge, and make images and dumps, in columns and by a tree."""
    try:
        layers = [LayerIndex(f"layer {number}", batches_of(part)) for number, part in enumerate(data.split(SEPARATOR))]
    except FormatError:
        return False
    merger, error = Merger(), None
    try:
        for layer in layers:
            merger.apply(layer)
    except FormatError as refused:
        error = refused
    try:
        root = merge_layers(layers)
    except FormatError as refused:
        assert error is not None
        assert str(refused) == str(error), "the same refusal"
        return False
    dump = b"".join(format_dump(root))
    assert b"".join(map(bytes, merger.list().dump(lambda name: True))) == dump, "the dump of the columns"
    xattrs = chance_of(data).choice(list(XattrFilter))
    try:
        transform_for_oci(root, xattrs)
    except ComposefsError:
        return False
    dump = b"".join(format_dump(root))
    for version in VERSIONS:
        _check_image(layers, version, root, xattrs)
    merger = _merged(layers)
    assert b"".join(map(bytes, plain_dump(merger, xattrs))) == dump, "the dump after the transform"
    return True


def _check_image(layers, version, root, xattrs):
    try:
        wanted = write_image(root, version)
    except ComposefsError as refused:
        try:
            plain_image(_merged(layers), version, xattrs)
        except ComposefsError as error:
            assert str(error) == str(refused), "the same refusal of the image"
            return
        raise AssertionError(f"an image in columns, but no tree: {refused}") from refused
    assert plain_image(_merged(layers), version, xattrs) == wanted, f"image of version {version}"
    check_written(wanted, version)


def check_written(image: bytes | bytearray, version: int) -> None:
    """What an image that we wrote is read as can be written again, and is read as that: only the first time loses some.

    It loses whiteouts that are stubs, nanoseconds, xattrs for overlayfs, bits of modes: as in the reference.
    """
    tree = load_tree(image)
    assert b"".join(format_dump(load_tree(write_image(tree, version)))) == b"".join(format_dump(tree))


def _merged(layers):
    merger = Merger()
    for layer in layers:
        merger.apply(layer)
    return merger


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Break headers, mostly such that their sums are right; put in extensions; move blocks."""
    return chance.choice(_MUTATIONS)(chance, data)


def _any(chance, data):
    return havoc(chance, data, _NAMES + _NUMBERS + _RAW_RECORDS)


def _headers(data):
    return [at for at in range(0, len(data) - BLOCK + 1, BLOCK) if data[at + 257 : at + 262] == b"ustar"]


def _field(chance, data):
    """Change one field of a header."""
    starts = _headers(data)
    if not starts:
        return _any(chance, data)
    start = chance.choice(starts)
    block = bytearray(data[start : start + BLOCK])
    for _ in range(chance.choice((1, 1, 2))):
        at, size = chance.choice((*_FIELDS, _SIZE, _SIZE))
        value = _value_of(chance, at, size)
        block[at : at + size] = value
    return data[:start] + (with_sum(block) if chance.randrange(10) else bytes(block)) + data[start + BLOCK :]


def _value_of(chance, at, size):
    if chance.randrange(8) == 0:
        return chance.randbytes(size)
    if at in (0, 157, 345):
        return chance.choice(_NAMES)[:size].ljust(size, chance.choice((b"\0", b"\0", b"x")))
    if at == 156:
        return chance.choice(_KINDS)
    if at == 257:
        return chance.choice((USTAR, GNU, V7, b"ustar\0\0\0"))
    return chance.choice(_NUMBERS)[-size:].ljust(size, chance.choice((b"\0", b" ")))


def with_sum(block: bytearray) -> bytes:
    """Return the header *block* with the sum that it has."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _extension(chance, data):
    """Put an extension before some block."""
    archive, kind = Archive(), chance.randrange(4)
    if kind == 0:
        archive.gnu_long_name(chance.choice((*_NAMES, b"long/" + b"n" * 500)))
    elif kind == 1:
        archive.gnu_long_link(chance.choice((*_NAMES, b"t" * 5000)))
    else:
        records = [(chance.choice(_KEYS), chance.choice(_VALUES)) for _ in range(chance.randrange(1, 4))]
        content = pax_records(records)
        if chance.randrange(3) == 0:
            content = havoc(chance, content, _RAW_RECORDS)
        archive.entry(b"pax", b"g" if kind == 3 and chance.randrange(2) else b"x", content)
    at = chance.choice(_headers(data) or [0])
    return data[:at] + archive.end(0) + data[at:]


def _blocks(chance, data):
    """Move, repeat or remove whole blocks."""
    count = len(data) // BLOCK
    if not count:
        return _any(chance, data)
    first, size = chance.randrange(count) * BLOCK, chance.choice((1, 1, 2, 3, 8)) * BLOCK
    part, rest = data[first : first + size], data[:first] + data[first + size :]
    at = chance.randrange(count) * BLOCK
    match chance.randrange(4):
        case 0:
            return rest
        case 1:
            return rest[:at] + part + rest[at:]
        case 2:
            return data[:at] + chance.choice((bytes(BLOCK), bytes(2 * BLOCK))) + data[at:]
        case _:
            return data[:at] + part * chance.choice((1, 1, 3)) + data[at:]


def _entry(chance, data):
    """Put in an entry of some kind."""
    archive = Archive()
    size = chance.choice((0, 0, 1, 64, 65, 700))
    kind = chance.choice(_KINDS)
    archive.entry(
        chance.choice(_NAMES), kind, b"c" * size, link=chance.choice(_NAMES), magic=chance.choice((USTAR, GNU))
    )
    at = chance.choice([*_headers(data), len(data)])
    return data[:at] + archive.end(0) + data[at:]


_MUTATIONS = [_any, _any, _field, _field, _field, _field, _extension, _extension, _blocks, _entry]


def _mutate_layers(chance: random.Random, data: bytes) -> bytes:
    if chance.randrange(8):
        return mutate(chance, data)
    at = chance.choice([*_headers(data), len(data)])
    if chance.randrange(3):
        return data[:at] + SEPARATOR + data[at:]
    layers = data.split(SEPARATOR)
    chance.shuffle(layers)
    return SEPARATOR.join(layers)


def _seeds() -> dict[str, bytes]:
    kinds = Archive().directories("usr", "usr/bin", "etc", "run").file("usr/bin/small", b"s" * 64)
    kinds.file("usr/bin/large", b"l" * 1000).hardlink("etc/hard", "usr/bin/large").symlink("etc/link", "../usr")
    kinds.character("etc/device", 5, 70000).block("etc/block", 8, 1).fifo("etc/fifo").file("run/gone", b"")
    extensions = Archive().directory("usr", pax={"mtime": "5.25", "SCHILY.xattr.user.x": "y"})
    extensions.gnu_long_name("usr/" + "n" * 120).file("cut", b"1" * 65).gnu_long_link("t" * 120).symlink("usr/l", "cut")
    extensions.extended({"comment": "of all"}, b"g").file("usr/p", b"p", pax={"path": "usr/pax", "uid": "70000"})
    extensions.file("usr/b", b"", uid=base256(70000, 8), mtime=base256(-5, 12))
    old = Archive().file("v7", b"old", magic=V7).file("gnu", b"g" * 65, magic=GNU).directory("d", prefix="p/q")
    ends = Archive().file("a", b"x" * 513).raw(bytes(512)).file("b").raw(bytes(1024)).raw(b"behind the end")
    return {
        "kinds.tar": kinds.end(),
        "extensions.tar": extensions.end(),
        "old-forms.tar": old.end(),
        "ends.tar": ends.end(0),
        "empty.tar": bytes(1024),
    }


def _layer_seeds() -> dict[str, bytes]:
    lower = Archive().directories("usr", "run", "usr/lib", "opt").file("usr/a", b"a").file("usr/lib/b", b"b" * 100)
    lower.symlink("usr/link", "a").hardlink("usr/c", "usr/a").file("opt/x").file("run/y", b"gone")
    upper = Archive().directory("usr", mode=0o700, pax={"SCHILY.xattr.user.overlay.opaque": "y"})
    upper.file("usr/.wh.a").file("opt/.wh..wh..opq").file("opt/new", b"n").directory("usr/lib").fifo("usr/link")
    upper.character("usr/wh", 0, 0).file("usr/lib/t", b"", pax={"SCHILY.xattr.security.capability": "c"})
    one = Archive().directories("usr", "00", "ff").file("usr/f", b"f" * 65, pax={"SCHILY.xattr.security.selinux": "l"})
    return {
        "two-layers.tar": lower.end() + SEPARATOR + upper.end(),
        "three-layers.tar": SEPARATOR.join((lower.end(), one.end(), upper.end())),
        "stubs.tar": one.end(),
    }


def _golden() -> list[bytes]:
    found = {archive for name in vectors.image_names() for archive in vectors.layer_archives(name)}
    return sorted(archive for archive in found if len(archive) <= _GOLDEN_MAX)


TAR = Target("tar", check_archive, mutate, _seeds, _golden, share=6)
LAYERS = Target("layers", check_layers, _mutate_layers, _layer_seeds, _golden, share=2)
