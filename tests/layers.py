"""Layers without a repository: archives to indexes, and trees as a test reads them."""

import io
from collections.abc import Iterable

from composefs import verity
from composefs.digest import Algorithm
from composefs.oci.index import Batch, Indexer, LayerIndex, read_entries
from composefs.splitstream import ContentType, SplitstreamReader, SplitstreamWriter
from composefs.tar import Content, TarSplitter
from composefs.tree import Directory, Inline, Object, Special, Symlink, walk


def batches_of(archive: bytes, *, algorithm: Algorithm = Algorithm.SHA256, cut: int | None = None) -> list[Batch]:
    """Return the index of an archive that is fed in pieces of *cut* bytes."""
    batches: list[Batch] = []
    indexer = Indexer(batches.append)
    splitter = TarSplitter("layer", indexer.add)
    contents = bytearray()
    step = cut or len(archive) or 1
    for start in range(0, len(archive), step):
        for event in splitter.feed(archive[start : start + step]):
            if isinstance(event, Content):
                contents += event.data
                if len(contents) == event.entry.size:
                    indexer.add(event.entry, verity.compute_digest(contents, algorithm).raw)
                    contents.clear()
    splitter.close()
    indexer.flush()
    return batches


def index_of(archive: bytes, label: str = "layer", algorithm: Algorithm = Algorithm.SHA256) -> LayerIndex:
    """Return the index of the layer *label*."""
    return LayerIndex(label, batches_of(archive, algorithm=algorithm))


def described(root: Directory) -> dict[str, str]:
    """Return a word for each path of a tree: `d`, `-CONTENT`, `l TARGET`, or the mode of something special."""
    found = {}
    for path, node in walk(root):
        name = path.decode("latin-1")
        if isinstance(node, Directory):
            found[name] = "d"
            continue
        match node.content:
            case Inline(data):
                found[name] = "-" + data.decode("latin-1")
            case Object(size, _):
                found[name] = f"-{size} bytes"
            case Symlink(target):
                found[name] = "l " + target.decode("latin-1")
            case Special(type_, rdev):
                found[name] = f"{type_:o} {rdev:x}"
    return found


def chunks_of(archive: bytes, algorithm: Algorithm = Algorithm.SHA256) -> list[bytes | tuple[bytes, int]]:
    """Return the chunks of an archive as a layer is stored: inline bytes, or digest and size of an object."""
    found: list[bytes | tuple[bytes, int]] = []
    for event in TarSplitter("layer").feed(archive):
        if isinstance(event, Content):
            found.append((verity.compute_digest(event.data, algorithm).raw, event.entry.size))
        else:
            found.append(bytes(event.data))
    return found


def stored(chunks: Iterable[bytes | tuple[bytes, int]], algorithm: Algorithm = Algorithm.SHA256) -> SplitstreamReader:
    """Return a reader of the stream that *chunks* make."""
    writer = SplitstreamWriter(algorithm, ContentType.LAYER, io.BytesIO)
    for chunk in chunks:
        if isinstance(chunk, bytes):
            writer.inline(chunk)
        else:
            writer.external(*chunk)
    return SplitstreamReader(io.BytesIO(b"".join(writer.finish())), algorithm, "stream", ContentType.LAYER)


def slow_index(reader: SplitstreamReader, label: str) -> list[Batch]:
    """Return the index that `read_index` gives, made of one entry after another."""
    batches: list[Batch] = []
    indexer = Indexer(batches.append)
    for entry, content in read_entries(reader, label):
        indexer.add(entry, content)
    indexer.flush()
    return batches
