"""Input at a limit is taken, and refused just above it: the message says what, how much, and how much at most."""

import io
import json
import pickle
import re
from pathlib import Path

import pytest

from composefs import Algorithm, Repository, import_image, limits
from composefs.cli import main, options
from composefs.dialect import Dialect
from composefs.dumpfile import parse_dump
from composefs.dumpfile.parser import read_lines
from composefs.erofs.check import collect_objects
from composefs.erofs.load import load_tree
from composefs.erofs.reader import ErofsReader
from composefs.erofs.superblock import read_image, read_superblock
from composefs.erofs.writer import write_image
from composefs.errors import FormatError, LimitError
from composefs.image import Image
from composefs.json_text import parse_json
from composefs.oci.diff_ids import StoredLayer, prove_layers
from composefs.oci.index import read_index
from composefs.oci.layout import OciLayout, open_layout
from composefs.oci.manifest import Config, Manifest
from composefs.oci.merge import merge_layers
from composefs.oci.names import layer_name
from composefs.oci.progress import Board
from composefs.oci.transfer import CopyJob, copy_layer
from composefs.repository.meta import Meta
from composefs.splitstream import ContentType, SplitstreamReader, SplitstreamWriter
from composefs.tar import TarSplitter
from tests import layouts
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.images import directory, inline, store
from tests.layers import chunks_of, index_of, stored
from tests.layouts import Layout, files_layer, image_layout, noise

from generator.tar import Archive  # isort: skip

ROOT = Path(__file__).parents[2]


def refused(what, call, *arguments):
    """Return the error by which *call* refuses, which says *what*."""
    with pytest.raises(LimitError) as caught:
        call(*arguments)
    error = caught.value
    assert error.what == what
    assert isinstance(error, FormatError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


# Layers


@pytest.mark.parametrize(
    ("blob", "archive"),
    [
        (0, 1 << 34),
        (1 << 26, 1 << 34),  # a gigabyte would be gzip's best, and 16 GiB that of anything
        ((1 << 26) + 1, (1 << 34) + 256),
        (40 << 30, 1 << 40),  # a model of 40 GB in one layer does not compress; it has all the room there is
    ],
)
def test_size_of_an_archive(blob, archive):
    """It grows with the blob, within bounds; real layers stay below, also of ten gigabytes of zeros."""
    assert limits.archive_size(blob) == archive


@pytest.fixture
def repository(tmp_path):
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        yield repository


def zeros(tmp_path, compression):
    """Return a layout with a layer of zeros, the layer, and the size of its archive."""
    layer = files_layer({"usr/zeros": bytes(1 << 20)}, compression)
    archive = layouts.tar(layouts.rooted({"usr/zeros": bytes(1 << 20)}))
    return image_layout(tmp_path / compression, [layer]), layer, len(archive)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_inflated_by_ratio(tmp_path, repository, monkeypatch, compression):
    """What a blob inflates to is bounded by a ratio, unless it is little."""
    layout, layer, size = zeros(tmp_path, compression)
    assert size > 100 * layer.size
    monkeypatch.setattr(limits, "ARCHIVE_RATIO", 100)
    monkeypatch.setattr(limits, "ARCHIVE_SIZE_AT_ANY_RATIO", size)
    import_image(repository, str(layout), workers=1)

    Repository.init(tmp_path / "other", Algorithm.SHA256, require_verity=False)
    monkeypatch.setattr(limits, "ARCHIVE_SIZE_AT_ANY_RATIO", size - 1)
    most = max(size - 1, 100 * layer.size)
    with Repository.open(tmp_path / "other") as other:
        what = f"more than {most} bytes of archive in a blob of {layer.size} bytes"
        error = refused(what, lambda: import_image(other, str(layout), workers=1))

    assert (error.source, error.raised_by) == (f"layer {layer.diff_id}", "max_layer_size")
    assert error.limit == most
    assert 0 < error.offset <= layer.size


def test_inflated_by_order(tmp_path, repository, monkeypatch):
    """Who says how large layers may be is obeyed, whatever the limits are, in both directions."""
    layout, layer, size = zeros(tmp_path, "gzip")
    what = f"more than {size - 1} bytes of archive in a blob of {layer.size} bytes"
    refused(what, lambda: import_image(repository, str(layout), workers=1, max_layer_size=size - 1))

    monkeypatch.setattr(limits, "ARCHIVE_SIZE_AT_ANY_RATIO", 1)
    monkeypatch.setattr(limits, "ARCHIVE_RATIO", 1)
    import_image(repository, str(layout), workers=1, max_layer_size=size)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_inflated_beyond_any_order(tmp_path, repository, monkeypatch, compression):
    """What no stream could be read of is not imported, whoever says so; an uncompressed layer is not even opened."""
    layout, layer, size = zeros(tmp_path, compression)
    monkeypatch.setattr(limits, "ARCHIVE_SIZE", size - 1)
    what = f"more than {size - 1} bytes of archive in a blob of {layer.size} bytes"
    what = f"{size} bytes of blob, more than {size - 1}" if compression == "none" else what

    error = refused(what, lambda: import_image(repository, str(layout), workers=1, max_layer_size=2 * size))

    assert error.raised_by is None
    monkeypatch.setattr(limits, "ARCHIVE_SIZE", size)
    import_image(repository, str(layout), workers=1)
    with repository.streams.open(f"oci-layer-{layer.diff_id}") as stream:
        assert stream.reader.size == size
    monkeypatch.setattr(limits, "ARCHIVE_SIZE", size - 1)
    what = f"{size} bytes of content, more than {size - 1}"
    refused(what, repository.streams.open, f"oci-layer-{layer.diff_id}")


def test_inflated_by_the_command(tmp_path, repository, capfd):
    """The message names the option that raises the limit, and that does."""
    layout, layer, size = zeros(tmp_path, "zstd")
    command = ["--repo", repository.path, "import", str(layout), "--progress=none", "--workers=1", "--quiet"]

    assert main([*command, "--max-layer-size", "1M"]) == 1
    assert re.fullmatch(
        rf"composefs: layer {layer.diff_id}, offset \d+: more than 1048576 bytes of archive in a blob of {layer.size} "
        r"bytes; if you trust it, raise that by --max-layer-size\n",
        capfd.readouterr().err,
    )
    assert size < 2 << 20
    assert main([*command, "--max-layer-size", "2M"]) == 0


@pytest.mark.parametrize(("text", "wanted"), [("0", 0), ("7", 7), ("2K", 2048), ("1G", 1 << 30), ("3T", 3 << 40)])
def test_sizes_of_the_command(text, wanted):
    """Sizes are bytes, or have a unit."""
    assert options.size(text) == wanted


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "1GB", "1g", "\u0663"])
def test_no_sizes_of_the_command(tmp_path, capfd, text):
    """Anything else is wrong usage."""
    assert main(["import", "oci:x", f"--max-layer-size={text}"]) == 2
    assert "is no size such as 512M or 64G" in capfd.readouterr().err


def files(count):
    """Return the archive of so many files, some of which have extensions, contents in the archive, or an object."""
    archive = Archive()
    for number in range(count):
        pax = {"mtime": "7.5"} if number % 4 == 1 else {}
        archive.file(f"f{number}", b"x" * (number % 4 * 40), pax=pax)
    return archive.end()


def split(archive):
    """Split an archive as it comes, in one piece."""
    splitter = TarSplitter("layer x")
    for _ in splitter.feed(archive):
        pass
    splitter.close()


def split_stored(archive):
    """Read the index of an archive that is stored: plain entries are taken many at a time."""
    return list(read_index(stored(chunks_of(archive)), "layer x"))


@pytest.mark.parametrize("read", [split, split_stored])
def test_entries_of_a_layer(monkeypatch, read):
    """The number of entries is bounded, whoever counts them."""
    monkeypatch.setattr(limits, "ENTRIES", 20)
    read(files(20))

    assert refused("more than 20 entries", read, files(21)).source.startswith("layer")


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_entries_of_an_imported_layer(tmp_path, repository, monkeypatch, compression):
    """So it is where C splits the archive."""
    layer = files_layer({f"usr/{number}": noise(100, number) for number in range(49)}, compression)  # and usr itself
    layout = image_layout(tmp_path / "layout", [layer])
    monkeypatch.setattr(limits, "ENTRIES", 49)
    refused("more than 49 entries", lambda: import_image(repository, str(layout), workers=1, erofs_version=2))

    monkeypatch.setattr(limits, "ENTRIES", 50)
    import_image(repository, str(layout), workers=1, erofs_version=2)  # others have 256 stubs besides


def test_entries_of_merged_layers(monkeypatch):
    """Layers that are together too many are refused, those that replace each other are not."""
    layers = [index_of(layouts.tar({"usr/": b"", f"usr/{number}": b""})) for number in range(9)]
    monkeypatch.setattr(limits, "ENTRIES", 10)
    merge_layers([*layers, *layers])

    monkeypatch.setattr(limits, "ENTRIES", 9)
    assert refused("10 entries, more than 9", merge_layers, layers).source == "merged layers"


def test_size_of_merged_layers(monkeypatch):
    """What layers hold beside objects is bounded, since it is kept in memory."""
    layer = index_of(layouts.tar({"usr/": b"", "usr/f": b"f" * 50}))
    size = sum(batch.weight for batch in layer.batches)
    monkeypatch.setattr(limits, "MERGED_SIZE", 3 * size)
    merge_layers([layer] * 3)

    monkeypatch.setattr(limits, "MERGED_SIZE", 3 * size - 1)
    what = f"more than {3 * size - 1} bytes of names and metadata in the layers up to here"
    refused(what, merge_layers, [layer] * 3)


def test_extension_headers():
    """Extension headers of an entry are bounded together, those of all entries each."""
    most = limits.TAR_METADATA_SIZE
    split(Archive().gnu_long_name("n" * 99).entry("p", b"x", b"", size=0).file("f").end())
    for archive in (
        Archive().entry("p", b"x", bytes(most)).file("f"),
        Archive().entry("p", b"g", bytes(most)).file("f"),
        Archive().entry("p", b"K", bytes(most - 1)).entry("q", b"L", b"f").file("f"),
    ):
        split(archive.end())

    for archive, entry in (
        (Archive().entry("p", b"x", bytes(most + 1)).file("f"), "p"),
        (Archive().entry("p", b"g", bytes(most + 1)).file("f"), "p"),
        (Archive().entry("p", b"K", bytes(most)).entry("q", b"L", b"f").file("f"), "q"),
    ):
        what = f"{most + 1} bytes of extension headers, more than {most}"
        assert refused(what, split, archive.end()).entry == entry


@pytest.mark.parametrize("make", [Archive.gnu_long_name, lambda archive, name: archive.extended({"path": name})])
def test_path(make):
    """A path is bounded, and only its beginning is in the message."""
    split(make(Archive(), "p" * 4096).file("f").end())

    error = refused("4097 bytes of path, more than 4096", split, make(Archive(), "p" * 4097).file("f").end())

    assert error.entry == "p" * 100 + "..."


def test_names_of_xattrs():
    """The names of the xattrs of an entry are bounded as in Linux, where each has a zero at its end."""
    names = [f"{number:0255d}" for number in range(256)]
    xattrs = {f"SCHILY.xattr.{name}": "v" for name in names}
    split(Archive().extended(xattrs).file("f").end())

    error = refused(
        "65538 bytes of names of extended attributes, more than 65536",
        split,
        Archive().extended(xattrs | {"SCHILY.xattr.n": "v"}).file("f").end(),
    )
    assert error.entry == "f"


# JSON


def parse(data, most=1 << 20):
    return parse_json(data, "j", max_size=most)


def test_json_size():
    """The size is that of the text."""
    parse(b'{"a": 1}', 8)

    refused("more than 8 bytes of JSON", parse, b'{"a": 12}', 8)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"[":', b"}]")])
def test_json_depth(opening, closing):
    """Lists and objects count, brackets in texts do not; where it gets too deep is said."""
    each = len(opening.replace(b'"["', b"").translate(None, b'a:"'))
    levels = limits.JSON_DEPTH // each
    text = b'"' + rb"\"[\\" + b"[" * 100 + b'"'
    parse(opening * levels + text + closing * levels)

    data = opening * levels + b"[" + text + b"]" + closing * levels
    what = f"more than {limits.JSON_DEPTH} lists and objects in one another in JSON"
    assert refused(what, parse, data).offset == len(opening) * levels


@pytest.mark.parametrize("rest", [b"", b'"', b'"\\', b'"a\\"', b"]]]]"])
def test_json_depth_of_broken_texts(rest):
    """Whatever breaks off, or closes what was not open, ends."""
    with pytest.raises(FormatError, match="broken JSON"):
        parse(b"[" + b"[]," * 100 + rest)


def test_json_values(monkeypatch):
    """The number of values is bounded: each takes memory, however short it is."""
    monkeypatch.setattr(limits, "JSON_VALUES", 10)
    parse(b"[1,2,3,4,5,6,7,8,9]")

    refused("more than 10 values in JSON", parse, b"[1,2,3,4,5,6,7,8,9,0]")
    refused("more than 10 values in JSON", parse, b"[[[[[[[[[[]]]]]]]]]]")


def test_meta_size(tmp_path, repository):
    """A meta.json is small."""
    packed = Meta.new(Algorithm.SHA256).pack()
    path = Path(repository.path, "meta.json")
    path.write_bytes(packed.ljust(limits.META_SIZE))
    Repository.open(repository.path).close()

    path.write_bytes(packed.ljust(limits.META_SIZE + 1))
    assert refused("more than 1048576 bytes of JSON", Repository.open, repository.path).source == str(path)


def test_size_of_blobs_in_json(tmp_path, monkeypatch):
    """An index is not read beyond the limit, a manifest or config that claims more not at all."""
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/a": b""})])
    index = layout.path / "index.json"
    image = open_layout(str(layout.path)).image()
    monkeypatch.setattr(limits, "JSON_SIZE", index.stat().st_size - 1)
    refused(f"more than {index.stat().st_size - 1} bytes of JSON", open_layout(str(layout.path)).image)

    size = max(index.stat().st_size, image.descriptor.size)
    monkeypatch.setattr(limits, "JSON_SIZE", size)
    value = json.loads(index.read_text())
    value["manifests"][0]["size"] = size + 1
    index.write_text(json.dumps(value))
    error = refused(f"{size + 1} bytes of JSON, more than {size}", open_layout(str(layout.path)).image)
    assert error.source == f"manifest {image.descriptor.digest}"


def test_body_of_a_stored_config(tmp_path, repository, monkeypatch):
    """So it is in a repository, whose objects may be anything."""
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/a": b""})])
    result = import_image(repository, str(layout), name="os", workers=1)
    size = len(open_layout(str(layout.path)).image().config_bytes)
    with repository.streams.open(f"oci-config-{result.config}") as stream:
        monkeypatch.setattr(limits, "JSON_SIZE", size)
        assert len(stream.read_body()) == size

        monkeypatch.setattr(limits, "JSON_SIZE", size - 1)
        refused(f"more than {size - 1} bytes of JSON", stream.read_body)


def test_layers_of_an_image():
    """An image has a limited number of layers."""
    digest = "sha256:" + "0" * 64
    layer = {"mediaType": layouts.TAR, "digest": digest, "size": 1}

    def manifest(count):
        value = {"schemaVersion": 2, "config": layer, "layers": [layer] * count}
        return Manifest.parse(json.dumps(value).encode(), "m")

    def config(count):
        return Config.parse(json.dumps({"rootfs": {"diff_ids": [digest] * count}}).encode(), "c")

    most = limits.LAYERS
    assert len(manifest(most).layers) == len(config(most).diff_ids) == most
    refused(f"{most + 1} layers, more than {most}", manifest, most + 1)
    refused(f"{most + 1} layers, more than {most}", config, most + 1)


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_blobs_are_read_once(tmp_path, monkeypatch, what):
    """An index that names a manifest many times, or manifests that name a config, is read in no more time for that."""
    layout = Layout(tmp_path / "layout")
    manifest = layout.image([files_layer({"usr/a": b""})])
    if what == "config":
        image = open_layout(str(layout.write(manifest).path)).image()
        value = json.loads(image.manifest_bytes)
        manifests = [layout.json(value | {"annotations": {"n": str(n)}}, layouts.MANIFEST) for n in range(50)]
    else:
        manifests = [manifest] * 50
    layout.write(*manifests)
    read = []
    read_blob = OciLayout._read
    monkeypatch.setattr(OciLayout, "_read", lambda *args: read.append(args[2]) or read_blob(*args))

    candidates = open_layout(str(layout.path))
    if what == "config":
        with pytest.raises(Exception, match="holds 50 images"):
            candidates.image()
    else:
        candidates.image()

    assert read.count(what) <= 2  # one for the choice, one for the image


# Repositories


def stream_of(objects=(), names=()):
    writer = SplitstreamWriter(Algorithm.SHA256, ContentType.MANIFEST, io.BytesIO)
    for number in objects:
        writer.external(number.to_bytes(32, "big"), 100)
    for number, name in enumerate(names):
        writer.name(name, number.to_bytes(32, "big"))
    return b"".join(writer.finish())


def open_stream(data):
    return SplitstreamReader(io.BytesIO(data), Algorithm.SHA256, "stream s")


def test_references_of_a_stream(monkeypatch):
    """A stream refers to no more objects than a layer has entries."""
    monkeypatch.setattr(limits, "ENTRIES", 5)
    assert len(open_stream(stream_of(range(5))).object_refs) == 5
    refused("6 object references, more than 5", open_stream, stream_of(range(6)))
    refused("6 stream references, more than 5", open_stream, stream_of(names="abcdef"))


def test_named_references_of_a_stream(monkeypatch):
    """Their names are compressed, and may be anything."""
    data = stream_of(names=["n" * 100, "o" * 100])
    size = 2 * len(b"0:" + b"n" * 100 + b"\0")
    monkeypatch.setattr(limits, "NAMED_REFS_SIZE", size)
    assert len(open_stream(data).named_refs) == 2

    monkeypatch.setattr(limits, "NAMED_REFS_SIZE", size - 1)
    error = refused(f"more than {size - 1} bytes", open_stream, data)
    assert error.source == "stream s, named references"


def test_repeated_references_of_a_stream(monkeypatch):
    """A stream that refers to one object again and again ends, whatever that object has."""
    writer = SplitstreamWriter(Algorithm.SHA256, ContentType.LAYER, io.BytesIO)
    for _ in range(9):
        writer.external(bytes(32), 0)
    data = b"".join(writer.finish())
    monkeypatch.setattr(limits, "ENTRIES", 9)
    assert len(list(open_stream(data).chunks())) == 9

    monkeypatch.setattr(limits, "ENTRIES", 8)
    refused("more than 8 references to objects", lambda: list(open_stream(data).chunks()))


@pytest.mark.parametrize("read", ["merged", "merged_file", "prove", "copy"])
def test_size_of_a_stream(tmp_path, repository, read):
    """Nor does more come out of it than it says."""
    diff_id = layouts.sha256(b"x" * 4000)
    digest, _ = repository.objects.ensure(b"x" * 1000)
    writer = repository.streams.writer(ContentType.LAYER)
    for _ in range(4):
        writer.external(digest, 999)
    repository.streams.link(layer_name(diff_id), stream := repository.streams.store(writer))
    with repository.streams.open_object(stream, "s") as opened:
        if read == "merged":
            with pytest.raises(FormatError, match="stream s, offset 0: has more than the 3996 bytes that it says"):
                list(opened.merged())
        elif read == "merged_file":
            with pytest.raises(FormatError, match="more than the 3996 bytes"):
                opened.merged_file()
    if read == "prove":
        ((_, proof),) = prove_layers(repository, [StoredLayer(diff_id, stream)])
        assert "has more than the 3996 bytes that it says" in proof.problem
    elif read == "copy":
        Repository.init(tmp_path / "other", Algorithm.SHA256, require_verity=False)
        board = Board(1)
        job = CopyJob(repository.path, str(tmp_path / "other"), diff_id, ContentType.LAYER, False, 3996, board.path, 0)
        with pytest.raises(FormatError, match="more than the 3996 bytes|no contents are due"):
            copy_layer(job)
        board.close()


# Images and dumps


def test_size_of_an_image(monkeypatch):
    """No more of a file is read than tells that it is too large."""
    data = write_image(directory({"usr": directory()}), 1)
    monkeypatch.setattr(limits, "EROFS_SIZE", len(data))
    read_superblock(read_image(io.BytesIO(data)), "i")

    monkeypatch.setattr(limits, "EROFS_SIZE", len(data) - 1)
    much = io.BytesIO(data + bytes(1000))
    refused(f"{len(data)} bytes of image, more than {len(data) - 1}", read_superblock, read_image(much), "i")


def test_entries_of_an_image(monkeypatch):
    """Trees and lists of objects are made of a limited number of inodes."""
    data = bytes(write_image(directory({"d": directory({f"f{n}": inline(b"x") for n in range(5)})}), 2))
    monkeypatch.setattr(limits, "ENTRIES", 6)
    load_tree(data)
    refused("more than 5 inodes", _with_entries(monkeypatch, 5, collect_objects), ErofsReader(data))
    refused("more than 5 entries", load_tree, data)

    monkeypatch.setattr(limits, "ENTRIES", 7)  # with the root
    collect_objects(ErofsReader(data))


def _with_entries(monkeypatch, count, call):
    monkeypatch.setattr(limits, "ENTRIES", count)
    return call


def deep(levels):
    """Return a tree of so many directories in one another, the root included."""
    root = directory()
    for _ in range(levels - 1):
        root = directory({"d": root})
    return root


def test_depth_of_an_image(repository, monkeypatch):
    """Directories are in one another up to a limit, also where only the way to them is read."""
    monkeypatch.setattr(limits, "DIRECTORY_DEPTH", 30)
    load_tree(bytes(write_image(deep(30), 1)))
    store(repository.images, write_image(deep(30), 1))
    list(Image.open(repository, "image").walk("/"))

    refused("more than 30 levels of directories", load_tree, bytes(write_image(deep(31), 1)))
    store(repository.images, write_image(deep(31), 1))
    refused("more than 30 levels of directories", lambda: list(Image.open(repository, "image").walk("/")))


def test_depth_that_layers_reach():
    """What the longest path of a layer leads to can be read back."""
    path = "d/" * (limits.PATH_SIZE // 2)
    archive = Archive()
    for size in range(2, len(path) + 1, 2):
        archive.extended({"path": path[:size]}).directory("short")
    image = write_image(merge_layers([index_of(archive.end())]), 1)

    tree, levels = load_tree(bytes(image)), 1
    while tree.entries:
        tree, levels = tree.entries[b"d"], levels + 1
    assert levels == limits.DIRECTORY_DEPTH


LINE = b"%s 0 40755 2 0 0 0 1.0 - - -\n"


def dump(*paths):
    return b"".join(LINE % path for path in (b"/", *paths))


def parsed(text, dialect):
    return parse_dump(read_lines(io.BytesIO(text)), "d", dialect=dialect)


@pytest.mark.parametrize("dialect", Dialect)
def test_lines_of_a_dump(monkeypatch, dialect):
    """Lines are limited in number, in size, and together."""
    text = dump(b"/a", b"/bcd", b"/c")
    for name, most, what in (
        ("ENTRIES", 4, "more than 3 lines"),
        ("DUMP_LINE_SIZE", len(LINE % b"/bcd"), f"more than {len(LINE % b'/bcd') - 1} bytes in line 3"),
        ("DUMP_SIZE", len(text), f"more than {len(text) - 1} bytes of dump"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, most)
            parsed(text, dialect)
            patch.setattr(limits, name, most - 1)
            refused(what, parsed, text, dialect)


def test_depth_of_a_dump(monkeypatch):
    """So are levels of directories, which in the dialect of composefs-rs the size of a path limits."""
    monkeypatch.setattr(limits, "DIRECTORY_DEPTH", 4)
    parsed(dump(b"/a", b"/a/b", b"/a/b/c"), Dialect.C)

    text = dump(b"/a", b"/a/b", b"/a/b/c", b"/a/b/c/d")
    error = refused("more than 4 levels of directories in line 5", parsed, text, Dialect.C)
    assert error.offset == len(dump(b"/a", b"/a/b", b"/a/b/c"))


# The page


def test_page():
    """docs/limits.md has a row for every limit, with its value."""
    page = (ROOT / "docs/limits.md").read_text()
    rows = {name: int(value.replace(",", "")) for value, name in re.findall(r"\| ([0-9,]+) \| `([A-Z_]+)` \|", page)}

    assert rows == {name: value for name, value in vars(limits).items() if name.isupper()}


def test_every_limit_is_kept():
    """Each is looked up somewhere in the package, and none of them is copied: a test or a program can set it."""
    code = "".join(path.read_text() for path in ROOT.glob("composefs/**/*.py"))

    assert not re.search(r"from composefs\.limits import", code)
    for name in filter(str.isupper, vars(limits)):
        assert f"limits.{name}" in code or name in (ROOT / "composefs/limits.py").read_text().partition("def ")[2]


# What the command says


def test_messages(capfd):
    """A line may quote what somebody else wrote, but not all of it; its end says what to do."""
    assert main(["--repo", "x" * 100_000, "images"]) == 1

    (line,) = capfd.readouterr().err.splitlines()
    assert 16_000 < len(line) < 17_000
    assert " ... " in line
