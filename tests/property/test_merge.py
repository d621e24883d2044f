"""Merging agrees with a slow model of it, and does not depend on how the layers come in."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composefs.digest import Algorithm
from composefs.errors import FormatError
from composefs.oci.index import LayerIndex, read_index
from composefs.oci.merge import OrderedMerger, find_origins, merge_layers
from composefs.splitstream import ContentType, SplitstreamReader, SplitstreamWriter
from composefs.tar import Inline, TarSplitter
from composefs.tree import Directory, walk
from composefs.verity import compute_digest
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layers import batches_of, index_of

from generator.tar import Archive  # isort: skip

NAMES = st.sampled_from(["a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh.", "..", "."])
PLAIN_NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(PLAIN_NAMES, max_size=2).flatmap(lambda above: NAMES.map(lambda name: "/".join([*above, name])))
TARGETS = st.lists(PLAIN_NAMES, min_size=1, max_size=3).map("/".join)
KINDS = st.sampled_from(["directory"] * 6 + ["file", "large", "symlink", "hard link", "fifo", "odd"])
MEMBERS = st.tuples(KINDS, PATHS, TARGETS, st.integers(0, 3))
LAYERS = st.lists(st.lists(MEMBERS, max_size=15), min_size=1, max_size=4)
BASE = [("directory", path, "", 0) for path in ("a", "a/a", "a/b", "b", "b/a")]  # something to stand in


def build(members):
    """Return an archive of *members*."""
    archive = Archive()
    for kind, path, target, number in members:
        fields = {"mode": 0o600 + number, "mtime": number}
        match kind:
            case "directory":
                archive.directory(path, **fields)
            case "file":
                archive.file(path, b"%d" % number, **fields)
            case "large":
                archive.file(path, b"%d" % number * 70, **fields)
            case "symlink":
                archive.symlink(path, target, **fields)
            case "hard link":
                archive.hardlink(path, target, **fields)
            case "fifo":
                archive.fifo(path, **fields)
            case "odd":
                archive.file(f"./{path}//", b"odd", **fields)
    return archive.end()


class Model:
    """A tree as a flat dictionary: path -> kind, metadata, identity."""

    def __init__(self):
        self.nodes = {(): ["d", (0, 0), None]}

    def apply(self, kind, path, target, number):
        """Apply an entry, and return whether that can be done; if not, nothing is changed."""
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        stat = (0o600 + number, number)
        link = None
        if kind == "hard link":
            link = self.nodes.get(tuple(target.split("/")))
            above = [self.nodes.get(tuple(target.split("/")[:depth])) for depth in range(target.count("/") + 1)]
            if link is None or link[0] == "d" or any(node is None or node[0] != "d" for node in above):
                return False
        if not parts or parts[-1] == "..":
            if kind != "directory":
                return False
            self.nodes[()][1] = stat
            return True
        *above, name = parts
        if any(self.nodes.get(tuple(above[:depth]), ["-"])[0] != "d" for depth in range(len(above) + 1)):
            return False
        if name == ".wh..wh..opq":
            self.remove(lambda path: len(path) > len(above) and path[: len(above)] == tuple(above))
        elif name.startswith(".wh."):
            gone = (*above, name.removeprefix(".wh."))
            self.remove(lambda path: path[: len(gone)] == gone)
        elif kind == "directory" and self.nodes.get(parts, ["-"])[0] == "d":
            self.nodes[parts][1] = stat
        else:
            self.remove(lambda path: path[: len(parts)] == parts)
            self.nodes[parts] = link or ["d" if kind == "directory" else "-", stat, object()]
        return True

    def remove(self, is_gone):
        for path in [path for path in self.nodes if is_gone(path)]:
            del self.nodes[path]


def shape(root):
    """Return kind and metadata by path, and which paths are one leaf."""
    found, leaves = {}, {}
    for path, node in walk(root):
        parts = tuple(part.decode() for part in path.split(b"/") if part)
        found[parts] = ("d" if isinstance(node, Directory) else "-", (node.stat.mode, node.stat.mtime))
        if not isinstance(node, Directory):
            leaves.setdefault(id(node), set()).add(parts)
    return found, {frozenset(names) for names in leaves.values()}


def possible(described):
    """Yield layers of what can be had of *described*, and after each, layers that end in an entry that cannot."""
    model = Model()
    layers = []
    for number, members in enumerate(described):
        layers.append([])
        for member in [*(BASE if number == 0 else []), *members]:
            if model.apply(*member):
                layers[-1].append(member)
            else:
                yield model, [*layers[:-1], [*layers[-1], member]], False
    yield model, layers, True


def indexes(layers):
    return [index_of(build(members), f"layer {number}") for number, members in enumerate(layers)]


@settings(max_examples=300)
@given(LAYERS)
def test_model(described):
    """Trees are those of the model; an entry that cannot be had is refused, and named."""
    for model, layers, is_possible in possible(described):
        if is_possible:
            check(model, *shape(merge_layers(indexes(layers))))
            continue
        with pytest.raises(FormatError) as caught:
            merge_layers(indexes(layers))
        assert caught.value.source == f"layer {len(layers) - 1}"
        assert caught.value.offset == len(build(layers[-1][:-1])) - 1024


def check(model, nodes, leaves):
    """The tree is that of *model*, hard links included."""
    assert nodes == {path: (kind, stat) for path, (kind, stat, _) in model.nodes.items()}
    groups = {}
    for path, (kind, _, identity) in model.nodes.items():
        if kind == "-":
            groups.setdefault(id(identity), set()).add(path)
    assert leaves == {frozenset(names) for names in groups.values()}


def last(described):
    """Return the layers of what can be had of *described*."""
    *_, (_, layers, _) = possible(described)
    return layers


@settings(max_examples=100)
@given(LAYERS, st.permutations(range(4)), st.integers(1, 2000))
def test_ways(described, order, cut):
    """The order in which layers come in, the cuts, and the way through a stream make no difference."""
    archives = [build(members) for members in last(described)]
    wanted = shape(merge_layers(map(index_of, archives)))

    assert shape(merge_layers(LayerIndex("layer", batches_of(archive, cut=cut)) for archive in archives)) == wanted
    assert shape(merge_layers(LayerIndex("layer", from_stream(archive)) for archive in archives)) == wanted
    merger = OrderedMerger([str(number) for number in range(len(archives))])
    for number in order:
        if number < len(archives):
            merger.add(str(number), index_of(archives[number]))
    merged = merger.merged()
    assert shape(merged.list().tree()) == shape(merged.list().tree()) == wanted


def from_stream(archive):
    """Yield the index of an archive by way of its stream."""
    writer = SplitstreamWriter(Algorithm.SHA256, ContentType.LAYER, io.BytesIO)
    for event in TarSplitter("layer x").feed(archive):
        if isinstance(event, Inline):
            writer.inline(event.data)
        else:
            writer.external(compute_digest(event.data, Algorithm.SHA256).raw, event.entry.size)
    stream = io.BytesIO(b"".join(writer.finish()))
    yield from read_index(SplitstreamReader(stream, Algorithm.SHA256, "stream", ContentType.LAYER), "layer x")


@settings(max_examples=150)
@given(LAYERS)
def test_origins(described):
    """What stands at a path is what it was after the layer that is said to have brought it."""
    layers = indexes(last(described))
    trees = [shape(merge_layers(layers[:count]))[0] for count in range(len(layers) + 1)]
    origins = find_origins(layers)

    for parts, node in trees[-1].items():
        if parts:
            origin = origins[("/" + "/".join(parts)).encode()]
            assert all(tree.get(parts) == node for tree in trees[origin + 1 :])
