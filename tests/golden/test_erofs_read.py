"""Images that composefs-rs wrote are read as it reads them."""

import stat

import pytest

from composefs.dumpfile import format_dump
from composefs.dumpfile.text import escape
from composefs.erofs.check import check_structure, collect_objects
from composefs.erofs.load import load_tree
from composefs.erofs.reader import ErofsReader
from composefs.errors import FormatError
from composefs.tree import Backed, Directory, Object, Symlink, object_path, walk
from tests.golden import vectors

HASHES = ("sha256", "sha512")
VERSIONS = ("V0", "V1", "V2")
TREES = sorted(path.name for path in (vectors.ROOT / "trees").iterdir())
DUMPS = [case for case in vectors.expected("dumps") if "file" in case.get("V1", ())]
FORMATS = vectors.ROOT / "formats"

# What breaks `check_structure` though composefs-rs wrote it: an xattr that looks like the mark of a whiteout.
LIKE_WHITEOUTS = "xattr-escapes"


def image_of(directory, versions, version):
    """Return the bytes of one of the recorded images of a case, by version, or None."""
    if versions[version].get("like_V1_but_for_version"):
        if "file" not in versions["V1"]:
            return None
        image = bytearray(vectors.read(directory / versions["V1"]["file"]))
        image[12] = int(version[1])
        return bytes(image)
    return vectors.read(directory / versions[version]["file"]) if "file" in versions[version] else None


def text_of(directory, record):
    """Return a recorded text: in place, or in a file; of one in neither, its sha256."""
    if isinstance(record, str):
        path = directory / record
        return vectors.read(path if path.exists() else path.with_name(path.name + ".gz")).decode()
    if isinstance(record, dict) and "file" in record:
        return vectors.read(directory / record["file"]).decode()
    return vectors.lines(record)


def dump(tree):
    return b"".join(format_dump(tree)).decode()


def is_broken(record):
    return (isinstance(record, dict) and "error" in record) or (
        isinstance(record, list) and record[0].startswith("Error")
    )


def check_read(image, directory, record):
    """Check that *image* reads as the text *record* has it, and return its tree; None if it is to be refused."""
    if is_broken(record):
        with pytest.raises(FormatError):
            load_tree(image)
        return None
    tree = load_tree(image)
    wanted = text_of(directory, record)
    assert wanted in (dump(tree), vectors.sha256(dump(tree)))
    return tree


@pytest.mark.parametrize("name", vectors.image_names())
def test_image(name):
    """All images made of one OCI image read as what it was made of, or as recorded."""
    case = vectors.expected(f"images/{name}")
    directory = vectors.ROOT / "images" / name
    for hash_name in HASHES:
        made = case[hash_name]
        for version in VERSIONS:
            for kind, source in (("image", "dump"), ("boot_image", "dump_bootable")):
                images = {key: made[key][kind] for key in VERSIONS if kind in made[key]}
                if version not in images or (image := image_of(directory, images, version)) is None:
                    continue
                record = case["sha256"][version][kind].get("read_back")
                if record is not None and hash_name == "sha512" and not is_broken(record):
                    load_tree(image)  # what it reads as is recorded for the other algorithm only
                    continue
                check_read(image, directory, record or made.get(source, made["dump"]))
                reader = ErofsReader(image)
                check_structure(reader)
                assert all(len(digest) == len(made["V1"]["image"]["id"]) // 2 for digest in collect_objects(reader))


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("version", VERSIONS)
def test_tree(name, version):
    """All images made of a directory read as composefs-info reads them."""
    case = vectors.expected(f"trees/{name}")
    directory = vectors.ROOT / "trees" / name
    for hash_name in HASHES:
        image = image_of(directory, case[hash_name], version)
        if image is None:
            continue
        info = case["sha256"][version]["info_dump"]
        if hash_name == "sha512":
            if is_broken(info):
                check_read(image, directory, info)
            elif info == "tree.dump":
                check_read(image, directory, "sha512/tree.dump")
            else:
                load_tree(image)
            continue
        record = "sha256/tree.dump" if info == "tree.dump" else info
        check_info(image, directory, record, case[hash_name][version], with_structure=name != LIKE_WHITEOUTS)


@pytest.mark.parametrize("case", DUMPS, ids=lambda case: case["case"])
def test_dump(case):
    """Images made of dump files read as composefs-info reads them."""
    directory = vectors.ROOT / "dumps"
    for version in ("V0", "V1"):
        check_info(image_of(directory, case, version), directory, case["info_dump"], case)


def check_info(image, directory, record, infos, with_structure=True):
    """Check what composefs-info says of *image*: its dump, its names and its objects."""
    tree = check_read(image, directory, record)
    if tree is None:
        return
    assert text_of(directory, infos["info_ls"]) == "".join(listing(tree))
    contents = [node.content for _, node in walk(tree) if not isinstance(node, Directory)]
    objects = {object_path(content.digest).decode() for content in contents if isinstance(content, Object)}
    assert sorted(objects) == infos["info_objects"]
    reader = ErofsReader(image)
    if with_structure:
        check_structure(reader)
    # composefs-info leaves out files that have no digest; whoever collects garbage must not.
    objects |= {content.path.decode() for content in contents if isinstance(content, Backed) and content.path}
    assert {object_path(digest).decode() for digest in collect_objects(reader)} == objects


def listing(tree):
    """Yield the lines of `composefs-info ls`."""
    seen = set()
    for path, node in walk(tree):
        if path == b"/":
            continue
        name = path.split(b"/")
        text = "/".join(escape(part).decode().replace("\\x20", " ") for part in name)
        if isinstance(node, Directory):
            text += "/\t"
        elif isinstance(node.content, Symlink):
            text += "\t-> " + escape(node.content.target).decode().replace("\\x20", " ")
        elif isinstance(node.content, Object) and node not in seen:
            text += "\t@ " + object_path(node.content.digest).decode()
        seen.add(node)
        yield text + "\n"


@pytest.mark.parametrize("name", vectors.image_names())
def test_lookup_finds_all(name):
    """Every entry is found by its name, one by one, and others are not."""
    case = vectors.expected(f"images/{name}")["sha256"]
    for version in ("V1", "V2"):
        if "file" not in case[version]["image"]:
            continue
        reader = ErofsReader(vectors.read(vectors.ROOT / "images" / name / case[version]["image"]["file"]))
        pending, seen = [reader.root], set()
        while pending:
            inode = pending.pop()
            for entry in reader.entries(inode):
                assert reader.lookup(inode, entry.name) == entry.nid
                assert reader.lookup(inode, entry.name + b"\xff") is None
                child = reader.inode(entry.nid)
                if child.type == stat.S_IFDIR and child.nid not in seen:
                    seen.add(child.nid)
                    pending.append(child)
