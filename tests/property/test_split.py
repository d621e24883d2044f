"""Splitting many entries at a time is splitting one after another: the same stream, index, objects, or error."""

import io
import itertools
import struct
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from composefs import _native, splitstream
from composefs.digest import Algorithm
from composefs.errors import FormatError
from composefs.oci import index
from composefs.oci import split as split_module
from composefs.oci.index import Indexer
from composefs.oci.rows import Rows
from composefs.splitstream import ContentType, SplitstreamWriter
from composefs.tar import Content, TarSplitter
from composefs.tasks import do_now
from composefs.verity import compute_digest
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.property.test_rows import FIELDS, HARMLESS, KINDS, NAMES, TAILS
from tests.splitting import Later, outcome

from generator.tar import Archive, pattern  # isort: skip

CUTTER = _native.TarCutter
SIZES = st.sampled_from([0, 0, 1, 63, 64, 65, 100, 512, 1000, 4096, 4097, 9000])
MEMBERS = st.tuples(NAMES, KINDS, SIZES, st.integers(0, 3), st.one_of(HARMLESS, HARMLESS, HARMLESS, FIELDS))
BEFORE = st.sampled_from([*[""] * 8, "name", "link", "global", "zeros", "end"])
ANYWHERE = st.lists(st.integers(1, 3000), max_size=4).map(lambda sizes: [*sizes, 700])
BLOCKS = st.lists(st.sampled_from([512, 1024, 3072]), min_size=1, max_size=4)
CUTS = st.one_of(ANYWHERE, BLOCKS)  # bytes


@st.composite
def archives(draw):
    """Archives of which most entries are plain, some refused, some behind the end; files are repeated now and then."""
    archive = Archive()
    for (name, kind, size, seed, fields), before in draw(st.lists(st.tuples(MEMBERS, BEFORE), max_size=12)):
        if before == "name":
            archive.gnu_long_name("long/" + "n" * 200)
        elif before == "link":
            archive.gnu_long_link("t" * 200)
        elif before == "global":
            archive.extended({"comment": "of all"}, b"g")
        elif before in ("zeros", "end"):
            archive.raw(bytes(512 if before == "zeros" else 1024))
        archive.entry(name, kind, pattern(size, seed), **({"link": "target"} | fields))
    return archive.end(0) + draw(TAILS)


@settings(max_examples=250)
@given(
    archives(),
    CUTS,
    st.sampled_from(Algorithm),
    st.sampled_from([64, 500, 1 << 23]),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_archives(archive, sizes, algorithm, gathered, batch_size, capacity):
    """By C or by Python, in whatever pieces and batches, now or later."""
    with (
        patch.object(split_module, "_GATHERED_MAX", gathered),
        patch.object(index, "BATCH_SIZE", batch_size),
        patch.object(CUTTER, "CAPACITY", CUTTER.CAPACITY),
    ):
        with patch.object(CUTTER, "cut", lambda *_: None):
            wanted = outcome(algorithm, archive, [len(archive) or 1])
            assert outcome(algorithm, archive, sizes) == wanted
        assert outcome(algorithm, archive, sizes) == wanted
        assert outcome(algorithm, archive, sizes, Later()) == wanted
        CUTTER.CAPACITY = capacity
        assert outcome(algorithm, archive, [len(archive) or 1]) == wanted


def entries_of(data):
    """Return the entries that Python finds before an error, each with what `Indexer.add` wants."""
    found, contents = [], bytearray()
    splitter = TarSplitter("layer", lambda *entry: found.append(entry))
    try:
        for event in splitter.feed(data):
            if isinstance(event, Content):
                contents = bytearray() if event.position == 0 else contents
                contents += event.data
                if len(contents) == event.entry.size:
                    found.append((event.entry, compute_digest(bytes(contents), Algorithm.SHA256).raw))
    except FormatError:
        pass
    return found


def place_after(data, count):
    """Return where an archive goes on after so many entries: offset and padding."""
    splitter = TarSplitter("layer")
    list(splitter.feed(data, 0, count))
    return splitter.boundary


@settings(max_examples=250)
@given(archives(), st.integers(0, 40_000), st.integers(1, 20), st.integers(0, 700), st.integers(0, 1 << 40))
def test_parts(archive, end, limit, lead, offset):
    """What C takes is what Python finds, from each boundary on, wherever the data end and whatever is before them."""
    data = archive[:end] if end < len(archive) else archive
    entries, first = entries_of(data), 0
    cutter = CUTTER(Algorithm.SHA256.kernel_id, Algorithm.SHA256.digest_size)
    while first <= len(entries):
        boundary = place_after(data, first) if first else (0, 0)
        if boundary is None:
            break
        start, padding = boundary
        place = (lead + start, offset + start, padding)
        part = cutter.cut(bytes(lead) + data, place, limit)
        if part is None:
            first += 1
            continue
        rows = Rows.of(part.texts)
        count = len(rows.kinds)
        assert count <= limit
        batches = [], []
        by_rows, by_entries = (Indexer(batch.append) for batch in batches)
        by_rows.add_rows(rows)
        for entry, content in entries[first : first + count]:
            by_entries.add(entry._replace(offset=entry.offset + offset), content)
        by_rows.flush(), by_entries.flush()
        assert batches[0] == batches[1]
        wanted = place_after(data, first + count)
        assert (part.offset - offset, part.padding) == wanted
        assert part.end == lead + wanted[0]
        assert list(struct.iter_unpack("=QQ", part.spans)) == [
            (lead + entry.offset + 512, entry.size)
            for (entry, _), kind in zip(entries[first : first + count], rows.kinds, strict=True)
            if kind == index.Kind.OBJECT
        ]
        first += count


BYTES = st.integers(0, 255)
PLACES = st.tuples(st.integers(0, 20_000), BYTES)


@settings(max_examples=250)
@given(archives(), st.lists(PLACES, min_size=1, max_size=6), CUTS)
def test_damage(archive, changes, sizes):
    """Any bytes anywhere give the same, by C and by Python."""
    damaged = bytearray(archive or bytes(512))
    for place, value in changes:
        damaged[place % len(damaged)] = value
    damaged = bytes(damaged)
    with patch.object(CUTTER, "cut", lambda *_: None):
        wanted = outcome(Algorithm.SHA256, damaged, sizes)

    assert outcome(Algorithm.SHA256, damaged, sizes) == wanted


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 900), st.integers(0, 5)), max_size=30),
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.integers(0, 600),
    st.sampled_from([1, 500, 1 << 17]),
    st.sampled_from([300, 1 << 22]),
    st.sampled_from(Algorithm),
)
def test_mixed(pieces, groups, tail, chunks_max, run_max, algorithm):
    """Inline data and objects give the same, many at once and one after the other, compressed now or later."""
    later = Later()
    together, each, deferred = (
        SplitstreamWriter(algorithm, ContentType.LAYER, io.BytesIO, do) for do in (do_now, do_now, later)
    )
    todo, count = list(pieces), itertools.cycle([*groups, 1])
    with patch.object(splitstream, "_CHUNKS_MAX", chunks_max), patch.object(splitstream, "_RUN_MAX", run_max):
        while todo:
            number = next(count)
            group, todo = todo[:number], todo[number:]
            data, spans, digests = bytearray(b"before"), [], []
            start = len(data)
            for gap, size, seed in group:
                inline, digest = pattern(gap, seed), bytes([seed]) * algorithm.digest_size
                each.inline(inline)
                each.external(digest, size)
                spans.append((len(data) + gap, size))
                digests.append(digest)
                data += inline + bytes(size)
            each.inline(pattern(tail))
            data += pattern(tail)
            packed = b"".join(struct.pack("=QQ", *span) for span in spans)
            for writer in (together, deferred):
                writer.mixed(memoryview(data + b"after"), start, len(data), packed, b"".join(digests))
        later.now()
        wanted = b"".join(each.finish())

        assert b"".join(together.finish()) == wanted
        assert b"".join(deferred.finish()) == wanted
    assert together.inline_size == deferred.inline_size == each.inline_size
