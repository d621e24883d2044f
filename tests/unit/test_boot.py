"""The transform for booting: what an image has to boot, /boot and /sysroot, and where the policy is."""

import os

import pytest

from composefs.boot import transform_for_boot, transform_for_boot_from_directory
from composefs.errors import LimitError, NotFoundError, TreeError
from composefs.tree import Backed, Leaf, Object, Stat, Symlink
from tests.bootable import ENTRY, PLAIN, REFUSED, TAKEN, USR, tree

LABEL = b"security.selinux"
CONFIG = b"SELINUX=enforcing\nSELINUXTYPE=targeted\n"
POLICY = b"/.* system_u:object_r:any_t:s0\n"


def unread(leaf):
    raise AssertionError(f"{leaf} is not to be read")


def test_boot_and_sysroot_are_emptied_and_take_the_mtime_of_usr():
    own = Stat(0o700, 8, 9, 1, 1, {b"user.a": b"a"})
    root = tree({b"/boot/grub/grub.cfg": b"x", b"/sysroot/ostree/repo": {}, b"/usr/a": b"a"})
    root.entries[b"boot"].stat = root.entries[b"sysroot"].stat = own

    transform_for_boot(root, unread)

    for name in (b"boot", b"sysroot"):
        assert root.entries[name].entries == {}
        assert root.entries[name].stat == Stat(0o700, 8, 9, 1600000000, 123456789, {b"user.a": b"a"})
    assert list(root.entries[b"usr"].entries) == [b"a"]
    assert root.entries[b"usr"].stat == USR


@pytest.mark.parametrize("missing", [b"/boot", b"/sysroot", b"/usr"])
def test_what_must_be_there(missing, tmp_path):
    message = f"^{missing.decode()} does not exist, but such an image must have it$"
    with pytest.raises(NotFoundError, match=message):
        transform_for_boot(tree({missing: None}), unread)
    with pytest.raises(NotFoundError, match=message):
        transform_for_boot_from_directory(tree({missing: None}), tmp_path)


@pytest.mark.parametrize("wrong", [b"/boot", b"/sysroot", b"/usr"])
@pytest.mark.parametrize("value", [b"file", "usr"])
def test_what_must_be_a_directory(wrong, value, tmp_path):
    with pytest.raises(TreeError, match=f"^{wrong.decode()}.*director"):
        transform_for_boot_from_directory(tree({wrong: value}), tmp_path)


@pytest.mark.parametrize("paths", TAKEN.values(), ids=TAKEN)
def test_what_may_be_there(paths):
    root = tree(paths)

    transform_for_boot(root, unread)

    assert root.entries[b"boot"].entries == {}


@pytest.mark.parametrize(("paths", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(paths, error, message):
    root = tree(paths)
    before = dict(root.entries[b"boot"].entries)

    with pytest.raises(error, match=message):
        transform_for_boot(root, unread)

    assert root.entries[b"boot"].entries == before


def test_contents_beside_the_image_are_read():
    leaf = Leaf(PLAIN, Object(1, b"d" * 32))

    with pytest.raises(TreeError, match="/none not found"):
        transform_for_boot(tree({ENTRY: leaf}), lambda asked: b"linux /none" if asked is leaf else None)


@pytest.mark.parametrize("path", [ENTRY, b"/boot/aboot-6.1.img"])
def test_what_is_too_large_is_not_read(path):
    """A file that would fill the memory is refused by its size."""
    leaf = Leaf(PLAIN, Object(1 << 40, b"d" * 32))

    with pytest.raises(LimitError, match=f"^{path.decode()}, offset 0: 1099511627776 bytes, more than "):
        transform_for_boot(tree({path: leaf}), unread)


def label_of(node):
    return node.stat.xattrs.get(LABEL)


def test_a_policy_in_the_tree_labels_it():
    contexts = Leaf(PLAIN, Object(len(POLICY), b"d" * 32))
    root = tree({b"/etc/selinux/config": CONFIG, b"/etc/selinux/targeted/contexts/files/file_contexts": contexts})

    transform_for_boot(root, lambda asked: POLICY if asked is contexts else None)

    assert label_of(root) == label_of(root.entries[b"boot"]) == label_of(contexts) == b"system_u:object_r:any_t:s0"


@pytest.mark.parametrize(
    "paths",
    [
        {},
        {b"/etc/selinux": {}},
        {b"/etc/selinux/config": b"# SELINUXTYPE=targeted\nSELINUX=enforcing\n"},
        {b"/etc/selinux/config": Leaf(PLAIN, Backed(64))},
    ],
)
def test_without_a_policy_labels_are_removed(paths):
    root = tree(paths)
    root.entries[b"usr"].stat = USR._replace(xattrs={LABEL: b"l", b"user.a": b"a"})
    root.entries[b"x"] = root.entries[b"y"] = Leaf(USR._replace(xattrs={LABEL: b"l"}), Symlink(b"x"))

    transform_for_boot(root, unread)

    assert root.entries[b"usr"].stat.xattrs == {b"user.a": b"a"}
    assert root.entries[b"x"].stat == USR
    assert root.entries[b"x"] is root.entries[b"y"]


FILE_CONTEXTS = b"/etc/selinux/targeted/contexts/files/file_contexts"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ({b"/etc/selinux": b""}, "goes through something that is no directory"),
        ({b"/etc/selinux/config": "../config"}, "/etc/selinux/config: is not a regular file"),
        ({b"/etc/selinux/config": {}}, "/etc/selinux/config: is not a regular file"),
        ({b"/etc/selinux/config": CONFIG}, "file_contexts: is missing, but SELinux policy is configured"),
        ({b"/etc/selinux/config": CONFIG, FILE_CONTEXTS: "x"}, "file_contexts: is not a regular file"),
        ({b"/etc/selinux/config": CONFIG, FILE_CONTEXTS: Leaf(PLAIN, Backed(9))}, "file_contexts: is missing"),
        (
            {b"/etc/selinux/config": Leaf(PLAIN, Object(1 << 30, b"d" * 32))},
            "/etc/selinux/config, offset 0: 1073741824 bytes, more than 16777216",
        ),
    ],
)
def test_a_policy_in_the_tree_that_cannot_be_had(paths, message):
    with pytest.raises((TreeError, LimitError), match=message):
        transform_for_boot(tree(paths), unread)


@pytest.fixture
def policy_directory(tmp_path):
    """Write a policy, and return the directory that is the root."""
    files = tmp_path / "etc/selinux/targeted/contexts/files"
    files.mkdir(parents=True)
    (files / "file_contexts").write_bytes(POLICY)
    (tmp_path / "etc/selinux/config").write_bytes(CONFIG)
    return tmp_path


def test_a_policy_on_disk_labels_the_tree(policy_directory):
    root = tree({b"/boot/aboot-.img": b"", b"/etc/selinux/config": b"SELINUXTYPE=other\n"})

    transform_for_boot_from_directory(root, policy_directory)

    assert label_of(root) == label_of(root.entries[b"usr"]) == b"system_u:object_r:any_t:s0"


def test_links_to_a_policy_on_disk_are_followed(policy_directory):
    selinux = policy_directory / "etc/selinux"
    (selinux / "targeted").rename(selinux / "other")
    (selinux / "targeted").symlink_to("other")
    (selinux / "config").rename(policy_directory / "config")
    (selinux / "config").symlink_to(policy_directory / "config")
    root = tree()

    transform_for_boot_from_directory(root, os.fsencode(policy_directory).decode())

    assert label_of(root) == b"system_u:object_r:any_t:s0"


@pytest.mark.parametrize("gone", ["etc", "etc/selinux", "etc/selinux/config"])
def test_no_policy_on_disk(policy_directory, gone):
    (policy_directory / gone).rename(policy_directory / "away")
    root = tree()
    root.entries[b"usr"].stat = USR._replace(xattrs={LABEL: b"l"})

    transform_for_boot_from_directory(root, policy_directory)

    assert label_of(root.entries[b"usr"]) is None


def test_a_fifo_for_a_policy_does_not_hang(policy_directory):
    (policy_directory / "etc/selinux/config").unlink()
    os.mkfifo(policy_directory / "etc/selinux/config")

    with pytest.raises(TreeError, match="etc/selinux/config: is not a regular file"):
        transform_for_boot_from_directory(tree(), policy_directory)


def test_a_huge_policy_on_disk_is_not_read(policy_directory):
    with (policy_directory / "etc/selinux/config").open("r+b") as file:
        file.truncate(1 << 40)

    with pytest.raises(LimitError, match="etc/selinux/config, offset 0: 1099511627776 bytes, more than "):
        transform_for_boot_from_directory(tree(), policy_directory)


def test_a_policy_on_disk_that_is_not_there_has_the_path(policy_directory):
    selinux = policy_directory / "etc/selinux"
    (selinux / "config").unlink()
    (selinux / "config").symlink_to("config")

    with pytest.raises(OSError, match="selinux/config") as caught:
        transform_for_boot_from_directory(tree(), policy_directory)

    assert os.fsdecode(caught.value.filename) == str(selinux / "config")
