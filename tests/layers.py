"""Layers without a repository: archives to indexes, and trees as a test reads them."""

from composefs import verity
from composefs.digest import Algorithm
from composefs.oci.index import Batch, Indexer, LayerIndex
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
