"""Images are mounted in every way that some kernel knows, and look the same in each."""

import errno
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm
from composefs.errors import MountError, UsageError
from composefs.kernel import MountOptions, Verity, mount_image, unmount
from tests.commands import wait_until
from tests.images import directory, external, inline
from tests.mounting import (
    EVERYTHING,
    JOINED,
    LAYERS,
    OLDEST,
    ONE_DATA_LAYER,
    ONE_STRING,
    SOURCE,
    STRINGS,
    UNKNOWN,
    limited,
    listing,
    loop_devices_of,
    opened,
    private_place,
    read,
    require,
    sample,
    wait_for_no_loop_device,
)
from tests.namespaces import mounted
from tests.strategies import file_data, write_tree
from tests.tools import require_root, require_tool
from tests.trees_on_disk import snapshot


@pytest.fixture
def place(tmp_path):
    with private_place(tmp_path) as place:
        yield place


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What is to be seen of the sample."""
    require_root("devices")
    path = tmp_path_factory.mktemp("sample")
    composefs.Repository.init(path / "repository", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(path / "repository") as repository:
        write_tree(sample(repository), path / "tree")
    return snapshot(path / "tree")


def comparable(found, version=1):
    """Return what is to be seen, without how many links directories have, and in V2 without nanoseconds."""
    rows = {}
    for path, (mode, owner, mtime, number, links, *others) in found.items():
        time = mtime // 1_000_000_000 if version == 2 else mtime
        rows[path] = mode, owner, time, number, None if mode.startswith("0o4") else links, *others
    return rows


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("by_file", [True, False])
def test_every_way(place, wanted, by_file, layers, detached, version):
    """By file or loop device, layers one by one or joined, attached meanwhile or not: the tree that was stored."""
    if layers == "joined" and version == 2:
        return  # is refused, see below
    image = place.image(sample(place.repository), version)
    features = replace(LAYERS[layers], file_backed_erofs=by_file, detached_layers=detached)
    require(features)
    before = mounted()

    with place.mount(image, features=features) as mount:
        assert mounted() == before
        assert len(loop_devices_of(place.path)) == (not by_file)
        mount.attach(str(place.target))
    found = snapshot(place.target)
    fields = mounted()[-1].split(" ")
    unmount(str(place.target))

    assert comparable(found, version) == comparable(wanted, version)
    assert fields[4:6] == [str(place.target), "ro,relatime"]
    assert fields[-3:-1] == ["overlay", SOURCE]
    options = fields[-1].split(",")
    assert {"ro", "metacopy=on", "redirect_dir=on"} <= set(options)
    assert not [option for option in options if option.startswith(("verity", "upperdir"))]
    one_by_one = [option.partition("=")[0] for option in options if "+=" in option]
    assert one_by_one == (["lowerdir+", "datadir+"] if features.layer_options else [])


def test_without_data_only_layers(place):
    """Then objects would appear in the root, unless the image hides them: said before anything is mounted."""
    root = sample(place.repository)
    image = place.image(root, 2)

    with pytest.raises(MountError) as caught:
        place.mount(image, features=JOINED)

    assert str(caught.value) == (
        "mount overlay: this kernel lacks data-only layers of overlayfs (Linux 6.5); without, an image has to hide the "
        "directories of objects, and this one does not hide 00: use a newer kernel, or an image of the format V1"
    )
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("node", ["directory", "file"])
def test_names_of_objects_in_the_image(place, node):
    """A directory of the image that is called as one of objects would be merged with it, a file hides it."""
    require(ONE_DATA_LAYER)
    entries = {"ab": directory({"own": inline(b"own")}) if node == "directory" else inline(b"own")}
    image = place.image(directory({**entries, "large": external(place.repository, file_data(5000))}), 1)

    if node == "directory":
        with pytest.raises(MountError, match="does not hide ab"):
            place.mount(image, features=JOINED)
    else:
        place.mount(image, features=JOINED).close()
    with place.mount(image) as mount:
        assert listing(mount.fd) == ["ab", "large"]


def test_other_names_beside_objects(place):
    """What else is in a directory of objects must be hidden, too."""
    (place.path / "repository/objects/lost+found").mkdir()
    image = place.image(sample(place.repository), 1)

    with pytest.raises(MountError, match=re.escape("does not hide lost+found")):
        place.mount(image, features=JOINED)


def test_verity_that_the_kernel_lacks(place):
    """What would go unchecked is not mounted at all, and what may is."""
    image = place.image(sample(place.repository))
    features = replace(EVERYTHING, overlay_verity=False)

    with pytest.raises(MountError) as caught:
        place.mount(image, MountOptions(SOURCE, Verity.REQUIRED), features)
    with place.mount(image, MountOptions(SOURCE, Verity.TRY), features) as mount:
        mount.attach(str(place.target))
    options = mounted()[-1]
    unmount(str(place.target))

    assert str(caught.value) == (
        "mount overlay: this kernel lacks verity=require of overlayfs (Linux 6.6); without, it would serve objects "
        "that nobody checks: use a newer kernel"
    )
    assert "verity=" not in options


@pytest.mark.parametrize("verity", [Verity.REQUIRED, Verity.TRY])
def test_verity(place, verity):
    """Objects without fs-verity cannot be read, all else can; the mount says nothing of that."""
    require(replace(UNKNOWN, overlay_verity=True))
    image = place.image(sample(place.repository))
    shutil.copytree(place.path / "repository/objects", place.path / "copies")

    with (
        opened(image) as image_fd,
        opened(place.path / "copies") as objects,
        mount_image(image_fd, [objects], MountOptions(SOURCE, verity)) as mount,
    ):
        mount.attach(str(place.target))
        options = mounted()[-1]
    with pytest.raises(OSError, match="Input/output error"):
        (place.target / "etc/large").read_bytes()
    small = (place.target / "etc/small").read_bytes()
    unmount(str(place.target))

    assert options.endswith(",verity=require")
    assert small == file_data(5)


def test_nothing_known(place, wanted):
    """Where nothing could be found out, what every kernel since 6.5 can do is tried."""
    require(replace(ONE_DATA_LAYER, overlay_verity=True))
    image = place.image(sample(place.repository))

    with place.mount(image, features=UNKNOWN) as mount:
        mount.attach(str(place.target))
    found = snapshot(place.target)
    unmount(str(place.target))
    with place.mount(image, MountOptions(SOURCE, Verity.REQUIRED), UNKNOWN) as mount:
        mount.attach(str(place.target))
    options = mounted()[-1]
    unmount(str(place.target))

    assert comparable(found) == comparable(wanted)
    assert options.endswith(",verity=require")


def test_several_directories_of_objects(place):
    """What the first one lacks comes from the next; what it has hides that of the next."""
    image = place.image(sample(place.repository))
    objects = place.path / "repository/objects"
    (place.path / "first").mkdir()
    paths = sorted(path.relative_to(objects) for path in objects.glob("*/*"))
    assert len(paths) == 3
    for path in paths:
        if (objects / path).stat().st_size == 65:
            (place.path / "first" / path.parent).mkdir()
            (place.path / "first" / path).write_bytes(b"x" * 65)

    for features in (EVERYTHING, STRINGS, ONE_STRING, JOINED):
        with (
            opened(image) as image_fd,
            opened(place.path / "first") as first,
            opened(objects) as second,
            mount_image(image_fd, [first, second], MountOptions(SOURCE), limited(features)) as mount,
        ):
            assert read(mount.fd, "usr/lib/other") == b"x" * 65
            assert read(mount.fd, "etc/large") == file_data(10_000)


def test_no_objects(place):
    """All files would read as zeros."""
    image = place.image(sample(place.repository))

    with opened(image) as image_fd, pytest.raises(UsageError, match="^without objects all files would read as zeros$"):
        mount_image(image_fd, [], MountOptions(SOURCE))


@pytest.mark.parametrize("features", [EVERYTHING, STRINGS, ONE_STRING, JOINED, OLDEST])
def test_upper_layer(place, features):
    """Changes go to the upper layer, unless the mount is read-only."""
    image = place.image(sample(place.repository))
    upper, work = place.path / "upper", place.path / "work"
    upper.mkdir()
    work.mkdir()
    with opened(upper, os.O_PATH) as upper_fd, opened(work, os.O_PATH) as work_fd:
        options = MountOptions(SOURCE, read_only=False, upper_fd=upper_fd, work_fd=work_fd)
        with place.mount(image, options, features) as mount:
            mount.attach(str(place.target))
        (place.target / "new").write_text("new")
        with (place.target / "etc/large").open("ab") as file:
            file.write(b"more")
        (place.target / "link").unlink()
        unmount(str(place.target))
        with place.mount(image, replace(options, read_only=True), features) as mount:
            mount.attach(str(place.target))
        with pytest.raises(OSError, match="Read-only file system"):
            (place.target / "newer").write_text("newer")
        assert (place.target / "etc/large").read_bytes() == file_data(10_000) + b"more"
        assert not (place.target / "link").is_symlink()
        unmount(str(place.target))

    assert (upper / "new").read_text() == "new"
    assert sorted(os.listdir(upper)) == ["etc", "link", "new"]


def test_options_that_make_no_sense():
    """They are refused before the kernel is asked."""
    with pytest.raises(UsageError, match="an upper layer needs a work directory"):
        MountOptions(SOURCE, upper_fd=3)
    with pytest.raises(UsageError, match="a work directory an upper layer"):
        MountOptions(SOURCE, work_fd=3)
    with pytest.raises(UsageError, match="without an upper layer is read-only"):
        MountOptions(SOURCE, read_only=False)
    with pytest.raises(UsageError, match="at most 255 bytes"):
        MountOptions("s" * 256)
    assert MountOptions("s" * 255).source == "s" * 255


def test_longest_source(place):
    """A source as long as that is shown whole; commas and blanks in it are no matter."""
    source = "composefs:a,b c=d\\" + "s" * 237
    assert len(source) == 255
    image = place.image(sample(place.repository))

    for features in (EVERYTHING, OLDEST):
        with place.mount(image, MountOptions(source), features) as mount:
            mount.attach(str(place.target))
        shown = mounted()[-1].split(" ")[-2]
        unmount(str(place.target))
        assert shown.encode().decode("unicode_escape") == source


@pytest.fixture
def namespace():
    """A user namespace where ids begin at 100000."""
    require_tool("unshare")
    with subprocess.Popen(["unshare", "--user", "cat"], stdin=subprocess.PIPE) as child:
        path = Path(f"/proc/{child.pid}")
        home = os.readlink("/proc/self/ns/user")
        assert wait_until(lambda: os.readlink(path / "ns/user") != home)
        for kind in ("uid", "gid"):
            (path / f"{kind}_map").write_text("0 100000 2000")
        with opened(path / "ns/user") as fd:
            yield fd
        child.stdin.close()


@pytest.mark.parametrize("features", [EVERYTHING, OLDEST])
def test_mapped_ids(place, namespace, features):
    """The image's owners are those of the namespace; objects stay what they are, and can be read."""
    image = place.image(sample(place.repository))

    with place.mount(image, MountOptions(SOURCE, idmap_fd=namespace), features) as mount:
        owners = {path: os.stat(path, dir_fd=mount.fd) for path in (".", "usr/lib/other", "etc")}
        data = read(mount.fd, "etc/large")

    assert {path: (info.st_uid, info.st_gid) for path, info in owners.items()} == {
        ".": (100_000, 100_000),
        "usr/lib/other": (101_000, 100_000),
        "etc": (100_000, 100_005),
    }
    assert data == file_data(10_000)


def test_wrong_namespace(place):
    """What is no user namespace, or has no mapping of its own, is refused."""
    image = place.image(sample(place.repository))

    with opened(image) as fd, pytest.raises(MountError, match="^mount_setattr idmap: Invalid argument; EROFS maps ids"):
        place.mount(image, MountOptions(SOURCE, idmap_fd=fd))
    with (
        opened("/proc/self/ns/user") as fd,
        pytest.raises(MountError, match="^mount_setattr idmap: .* not permitted.*other than the initial one"),
    ):
        place.mount(image, MountOptions(SOURCE, idmap_fd=fd))


@pytest.mark.parametrize("by_file", [True, False])
def test_no_image(place, by_file):
    """The kernel refuses a file that is none; what it says is passed on."""
    path = place.path / "image"
    path.write_bytes(b"\xff" * 8192)

    with pytest.raises(MountError) as caught:
        place.mount(path, features=replace(EVERYTHING, file_backed_erofs=by_file))

    assert (caught.value.step, caught.value.errno) == ("fsconfig erofs create", errno.EINVAL)
    assert str(caught.value) == "fsconfig erofs create: Invalid argument; the kernel's log may say more (dmesg)"


def test_image_in_tmpfs(place, wanted):
    """There EROFS wants a block device, whatever the kernel, and gets one."""
    subprocess.run(["mount", "-t", "tmpfs", "none", place.target], check=True)
    image = place.target / "image"
    image.write_bytes(place.image(sample(place.repository)).read_bytes())
    (place.target / "below").mkdir()

    with place.mount(image) as mount:
        assert len(loop_devices_of(place.target)) == 1
        mount.attach(str(place.target / "below"))
    found = snapshot(place.target / "below")
    unmount(str(place.target / "below"))
    wait_for_no_loop_device(place.target)
    unmount(str(place.target))

    assert comparable(found) == comparable(wanted)


def test_unnamed_image(place):
    """An image needs no name."""
    image = place.image(sample(place.repository))
    for features in (EVERYTHING, OLDEST):
        with opened(place.path, os.O_TMPFILE | os.O_RDWR) as fd:
            os.write(fd, image.read_bytes())
            with (
                opened(place.path / "repository/objects") as objects,
                mount_image(fd, [objects], MountOptions(SOURCE), limited(features)) as mount,
            ):
                assert read(mount.fd, "etc/large") == file_data(10_000)
