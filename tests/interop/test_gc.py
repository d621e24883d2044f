"""Garbage collected in copies of one repository: `cfsctl gc` and ours leave the same, or the table says why not."""

import os
import shutil

import pytest

from composefs import Repository
from composefs.digest import object_path
from composefs.repository.gc import collect_garbage, undo_collection
from composefs.splitstream import ContentType
from tests.collecting import Outcome, compare, run_both, run_cfsctl
from tests.damage import DAMAGES
from tests.erofs_images import golden
from tests.garbage import Maker, contents
from tests.tools import require_tool

# Both ways, with references and without; what is not here is SAME or BOTH_REFUSE.
DIFFERENT = {
    "stray-object": Outcome.IT_REFUSES,  # after it has removed some objects
    "capital-object": Outcome.WE_KEEP_MORE,  # no tool finds an object by such a name
    "link-as-object": Outcome.OTHER_SIZE,  # the size of what the link leads to
    "loop-as-object": Outcome.OTHER_SIZE,
    "stream-flipped": Outcome.WE_REFUSE,  # it believes a broken stream, and what that no longer names is lost
    "detour": Outcome.WE_REFUSE,  # it opens whatever the link leads to
    "wrong-depth": Outcome.WE_KEEP_MORE,  # it removes the reference that has just kept something
    "linked-directory": Outcome.WE_REFUSE,  # it removes files outside of the repository
    "not-utf-8": Outcome.IT_REFUSES,
    "linked-refs": Outcome.WE_REFUSE,
    "slash": Outcome.IT_REFUSES,  # when it looks which names lead nowhere, after it has removed objects
    "dot": Outcome.IT_REFUSES,
    "rule-breaking-image": Outcome.IT_REFUSES,
}


pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def cfsctl():
    """Return the program."""
    return require_tool("cfsctl")


def check(name, outcome):
    expected = {Outcome.SAME, Outcome.BOTH_REFUSE} if name not in DIFFERENT else {DIFFERENT[name], Outcome.SAME}
    assert outcome in expected


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage(name, is_named, place, cfsctl, tmp_path):
    """Whatever is broken: the same is left, or both refuse, or it is in the table."""
    DAMAGES[name].do(place)
    if not is_named:
        for path in (place.path / place.tag, place.path / place.ref):
            path.unlink(missing_ok=True)
        (place.path / "streams/refs/note").unlink(missing_ok=True)
    outcome = compare(*run_both(cfsctl, place.path, tmp_path))

    check(name, outcome)
    if name == "none":
        assert outcome is Outcome.SAME


@pytest.fixture
def maker(tmp_path):
    """A repository with a tagged image of two layers, an image with a reference, and garbage of each kind."""
    maker = Maker(tmp_path / "repository")
    shared, own = maker.object(b"shared" * 100), maker.object(b"own" * 100)
    layers = [maker.stream("oci-layer-a", [shared]), maker.stream("oci-layer-b", [shared, own])]
    erofs = maker.image([shared, own])
    named = {"a": layers[0], "b": layers[1], "composefs.image": erofs}
    config = maker.stream("oci-config-c", [maker.object(b"json" * 100)], named, content_type=ContentType.CONFIG)
    maker.stream("oci-manifest-m", [], {"c": config, "a": layers[0]}, content_type=ContentType.MANIFEST)
    maker.ref("streams/refs/oci/os", "oci-manifest-m")
    with_ref = maker.image([maker.object(b"in image" * 100)], "other")
    maker.ref("images/refs/web/os", with_ref.hex())
    dead = maker.stream("oci-layer-dead", [maker.object(b"dead" * 100), shared])
    maker.stream("oci-manifest-dead", [], {"dead": dead})
    maker.image([maker.object(b"in dead image" * 100)], "dead")
    maker.object(b"alone" * 100)
    return maker


def _nothing(maker):
    """Leave it as it is."""


def _deep(maker):
    maker.ref("streams/refs/a/b/c/d/e/f", "oci-manifest-dead")


def _two_names(maker):
    text = os.readlink(maker.path / "streams/oci-layer-dead")
    maker.link("streams/also", text)
    maker.ref("streams/refs/also", "also")


def _slash(maker):
    maker.link("streams/refs/slash", "../oci-layer-dead/")


def _dot(maker):
    maker.link("streams/refs/dot", "../oci-layer-dead/.")


def _up(maker):
    maker.link("streams/refs/up", "../..")


def _up_from_nowhere(maker):
    maker.link("streams/refs/up", "../nowhere/..")


def _wrong_depth(maker):
    maker.link("streams/refs/a/b", "../oci-layer-dead")


def _detour(maker):
    text = os.readlink(maker.path / "streams/oci-layer-dead")
    maker.link("streams/detour", text.replace("../", "../streams/../"))


def _dangling_names(maker):
    maker.link("streams/gone", f"../objects/{object_path(bytes(32))}")
    maker.link("images/" + "00" * 32, f"../objects/{object_path(bytes(32))}")


def _named_reference_is_gone(maker):
    maker.stream("root", [], {"x": bytes(32)})
    maker.ref("streams/refs/root", "root")


def _object_of_a_table_is_gone(maker):
    maker.stream("root", [bytes(32)])
    maker.ref("streams/refs/root", "root")


def _linked_directory(maker):
    raw = maker.object(b"outside" * 100)
    directory = maker.path / "objects" / raw.hex()[:2]
    os.rename(directory, maker.path / "outside")
    directory.symlink_to("../outside")


def _linked_refs(maker):
    os.rename(maker.path / "streams/refs/oci", maker.path / "outside")
    shutil.rmtree(maker.path / "streams/refs")
    maker.link("streams/refs", "../outside")


def _not_utf_8(maker):
    text = os.readlink(maker.path / "streams/oci-layer-dead")
    os.symlink(text, os.fsencode(maker.path) + b"/streams/\xff")


def _fifo(maker):
    os.mkfifo(maker.path / "streams/refs/fifo")


def _directory(maker):
    (maker.path / "images/directory").mkdir()


def _ref_to_refs(maker):
    maker.link("streams/refs/loop", "../refs")


def _other_content_type(maker):
    maker.stream("odd", [maker.object(b"odd" * 100)], content_type=b"whatever")
    maker.ref("streams/refs/odd", "odd")


def _no_objects(maker):
    shutil.rmtree(maker.path / "objects")
    shutil.rmtree(maker.path / "streams/refs")
    shutil.rmtree(maker.path / "images/refs")


def _other_directories(maker):
    for name in ("objects/zz", "objects/ABCD", "trash", "quarantine/x"):
        (maker.path / name).mkdir(parents=True)
        (maker.path / name / "file").touch()


def _leftover_refs(maker):
    (maker.path / "streams/refs/oci/os").unlink()


def _rule_breaking_image(maker):
    golden_image = golden("V2")
    golden_image[12] = 0  # its version: now it lacks the stubs
    raw = maker.object(bytes(golden_image))
    maker.ref("images/refs/odd", maker.link_image(raw))


SHAPES = [
    _rule_breaking_image,
    _nothing,
    _deep,
    _two_names,
    _slash,
    _dot,
    _up,
    _up_from_nowhere,
    _wrong_depth,
    _detour,
    _dangling_names,
    _named_reference_is_gone,
    _object_of_a_table_is_gone,
    _linked_directory,
    _linked_refs,
    _not_utf_8,
    _fifo,
    _directory,
    _ref_to_refs,
    _other_content_type,
    _no_objects,
    _other_directories,
    _leftover_refs,
]
REFUSED = {"fifo", "directory", "ref-to-refs"}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__.strip("_").replace("_", "-"))
def test_shapes(shape, maker, cfsctl, tmp_path):
    """What names and references look like makes no difference between the tools, but for what is in the table."""
    shape(maker)
    name = shape.__name__.strip("_").replace("_", "-")

    outcome = compare(*run_both(cfsctl, maker.path, tmp_path))

    assert outcome is DIFFERENT.get(name, Outcome.BOTH_REFUSE if name in REFUSED else Outcome.SAME)


@pytest.mark.parametrize("roots", [["oci-layer-dead"], ["oci-manifest-dead"], ["oci-layer-a", "oci-layer-dead"]])
def test_roots(roots, maker, cfsctl, tmp_path):
    """Additional roots keep the same."""
    assert compare(*run_both(cfsctl, maker.path, tmp_path, roots)) is Outcome.SAME


def test_an_unknown_root(maker, cfsctl, tmp_path):
    """A name that is nowhere was misspelt, and what it was to keep would go."""
    assert compare(*run_both(cfsctl, maker.path, tmp_path, ["oci-layer-daed"])) is Outcome.WE_REFUSE


def test_a_root_that_is_an_image(maker, cfsctl, tmp_path):
    """It keeps all that its files are."""
    image = maker.image([maker.object(b"rooted" * 100)], "rooted").hex()

    assert compare(*run_both(cfsctl, maker.path, tmp_path, [image])) is Outcome.SAME


def test_cfsctl_goes_on_beside_the_trash(maker, cfsctl):
    """It looks at nothing of ours: checks, collects, and what comes back is whole to it."""
    before = contents(maker.path)
    with Repository.open(maker.path) as repository:
        collect_garbage(repository, trash_days=3)
    assert run_cfsctl(cfsctl, maker.path, "fsck").returncode == 0
    done = run_cfsctl(cfsctl, maker.path, "gc")
    assert (done.returncode, done.stdout) == (0, "Objects: 0 removed (0 bytes)\n")
    with Repository.open(maker.path) as repository:
        undo_collection(repository)
    assert run_cfsctl(cfsctl, maker.path, "fsck").returncode == 0
    assert contents(maker.path) == before
