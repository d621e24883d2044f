"""Real mounts by the kernel: what is mounted is what was stored, and as composefs-rs mounts it.

All of it happens in a mount namespace of its own.
"""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, fuse, kernel
from composefs.cli import main
from composefs.mount.table import image_of, mounted_images
from composefs.mountinfo import find_mount
from tests import commands, namespaces
from tests.layouts import files_layer, image_layout, noise
from tests.tools import require_root, require_tool
from tests.trees_on_disk import file_data, make_everything, snapshot

NS = 1_000_000_000  # nanoseconds of a second
ONE_WAY = "--no-propagate-usr-to-root"
LAYERS = ("lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir")


@pytest.fixture(autouse=True)
def mounts():
    """Mounts that nobody else sees, and that are gone in the end."""
    require_root("mounts")
    with namespaces.private_mounts():
        before = {mount.path for mount in mounted_images()}
        yield
        for mount in reversed(mounted_images()):  # of a test that failed: a server would keep the namespace
            if mount.path not in before:
                kernel.unmount(mount.path, lazy=True)


@pytest.fixture(scope="module")
def source():
    """A directory with everything in it, on a tmpfs."""
    require_root("owners, devices and trusted xattrs")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as directory:
        root = Path(directory) / "source"
        make_everything(root)
        info = (root / "dev").stat()
        (root / "dev/whiteout").unlink()  # which to overlayfs is a mark of its own
        os.utime(root / "dev", ns=(info.st_atime_ns, info.st_mtime_ns))
        yield root


@pytest.fixture(scope="module")
def repositories(source, tmp_path_factory):
    """Repositories that hold it as `os`, by algorithm and format."""
    places = {}
    for algorithm, version in ((Algorithm.SHA512, 1), (Algorithm.SHA256, 0), (Algorithm.SHA256, 2)):
        path = tmp_path_factory.mktemp("repository") / "r"
        composefs.Repository.init(path, algorithm, erofs_version=version, require_verity=False)
        assert main(["--repo", str(path), "create-image", ONE_WAY, str(source), "os"]) == 0
        places[version] = path
    return places


@pytest.fixture
def repository(repositories):
    """The one of those with the usual algorithm and format."""
    return repositories[1]


@pytest.fixture
def target(tmp_path):
    """An empty directory."""
    path = tmp_path / "mounted"
    path.mkdir()
    return path


@pytest.fixture
def layers(tmp_path):
    """Options for an upper layer, whose directory is the second."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    return ["--upperdir", tmp_path / "upper", "--workdir", tmp_path / "work"]


@pytest.fixture
def cfsctl():
    """Run `cfsctl` on a repository."""
    program = require_tool("cfsctl")

    def run(path, *arguments):
        done = subprocess.run([program, "--repo", path, *map(str, arguments)], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    return run


def ours(path, *arguments):
    """Run `composefs` on a repository."""
    assert main(["--repo", str(path), *map(str, arguments)]) == 0


def id_of(path):
    """Return the id of `os` in hexadecimal."""
    with composefs.Repository.open(path) as opened:
        return opened.images.resolve("os").hex


def write_program(path):
    """Write the command as pip installs it, by any name, and return its path."""
    start = f"import sys; sys.path.insert(0, {str(commands.ROOT)!r})"
    path.write_text(f"#!{sys.executable}\n{start}\nfrom composefs.cli import main\nsys.exit(main())\n")
    path.chmod(0o755)
    return path


def told(target):
    """Return what the kernel tells of the mount at *target*: options and source; of layers, how many of which kind."""
    mount = find_mount(str(target))
    options, layers = set(), []
    for option in mount.options:
        key, _, value = option.partition("=")
        if key not in LAYERS:
            options.add(option)
        elif key == "lowerdir":  # all of them, and :: before those that only have contents
            first, *others = value.split("::")
            layers += ["lowerdir+" for _ in first.split(":")] + ["datadir+" for _ in others]
        else:
            layers.append(key)
    return mount.kind, mount.source, mount.read_only, options, sorted(layers)


def images(target):
    """Return the names of the images that are mounted at *target*."""
    return [image_of(mount) for mount in mounted_images() if mount.path == str(target)]


@pytest.mark.parametrize("version", [0, 1, 2])
def test_tree(repositories, source, target, cfsctl, version):
    """Every field, attribute, link and byte is that of the directory, for both tools, whose options are the same."""
    path = repositories[version]
    name = id_of(path)
    found = []

    for run in (ours, cfsctl):
        run(path, "mount", name, target)
        found.append((snapshot(target), told(target)))
        ours(path, "umount", target)

    assert found[0] == found[1]
    tree, (kind, mounted, read_only, options, _) = found[0]
    wanted = snapshot(source)
    if version == 2:  # which has whole seconds
        wanted = {path: (*fields[:2], fields[2] // NS * NS, *fields[3:]) for path, fields in wanted.items()}
    assert tree == wanted
    assert (kind, mounted, read_only) == ("overlay", f"composefs:{name}", True)
    assert {"metacopy=on", "redirect_dir=on"} <= options
    assert "verity=require" not in options
    assert images(target) == []


def test_by_name(repository, source, target, cfsctl):
    """By a name the files can be read, too; composefs-rs then demands fs-verity, which there is not here."""
    ours(repository, "mount", "os", target)
    assert (target / "usr/lib/size-4097").read_bytes() == file_data(4097)
    assert told(target)[1] == "composefs:os"
    ours(repository, "umount", target)

    cfsctl(repository, "mount", "os", target)
    with pytest.raises(OSError, match="Input/output error"):
        (target / "usr/lib/size-4097").read_bytes()


@pytest.mark.parametrize("options", [[], ["--read-write"]])
def test_upper_layer(repository, target, layers, cfsctl, tmp_path, options):
    """With an upper layer the mount can be written to only if that is asked for; changes are in the layer."""
    name, upper = id_of(repository), layers[1]
    found = []
    for run in (ours, cfsctl):
        run(repository, "mount", *layers, *options, name, target)
        found.append(told(target))
        if options:
            (target / "usr/new").write_bytes(b"new")
            (target / "usr/lib/size-4096").write_bytes(b"changed")
            assert (upper / "usr/new").read_bytes() == b"new"
        else:
            with pytest.raises(OSError, match="Read-only file system"):
                (target / "usr/new").touch()
        ours(repository, "umount", target)
        for directory in (upper, layers[3]):
            shutil.rmtree(directory)
            directory.mkdir()

    assert found[0] == found[1]
    assert found[0][2] == (not options)


def test_changes_stay(repository, target, layers):
    """What was written is there with the next mount of the same layer, and the image is as it was."""
    ours(repository, "mount", *layers, "--read-write", "os", target)
    (target / "usr/new").write_bytes(b"new")
    (target / "usr/bin/same").unlink()
    ours(repository, "umount", target)

    ours(repository, "mount", *layers, "os", target)
    assert (target / "usr/new").read_bytes() == b"new"
    assert not (target / "usr/bin/same").exists()
    ours(repository, "umount", target)

    ours(repository, "mount", "os", target)
    assert not (target / "usr/new").exists()
    assert (target / "usr/bin/same").read_bytes() == file_data(5000)


def test_mountpoint_through_a_link(repository, target, tmp_path):
    """A link to the mountpoint will do, for either command."""
    (tmp_path / "link").symlink_to("mounted")

    ours(repository, "mount", "os", tmp_path / "link")

    assert images(target) == ["os"]
    ours(repository, "umount", tmp_path / "link")
    assert images(target) == []


def test_layer_upon_layer(repository, target):
    """The later of two mounts at one place is ended first."""
    ours(repository, "mount", "os", target)
    ours(repository, "mount", id_of(repository), target)

    ours(repository, "umount", target)
    assert images(target) == ["os"]


def test_busy(repository, target, capsys):
    """A mount that is used stays, with a hint what to do, which helps."""
    ours(repository, "mount", "os", target)
    with (target / "usr/bin/same").open("rb") as file:
        assert main(["umount", str(target)]) == 1
        assert f"umount {target}: Device or resource busy; " in capsys.readouterr().err
        assert images(target) == ["os"]

        ours(repository, "umount", "--lazy", target)
        assert images(target) == []
        assert file.read() == file_data(5000)


def test_only_images_are_unmounted(target, capsys):
    """Other file systems, and places where nothing is mounted, are left alone."""
    subprocess.run(["mount", "-t", "tmpfs", "some", target], check=True)

    assert main(["umount", str(target)]) == 1
    assert main(["umount", str(target / "..")]) == 1

    assert capsys.readouterr().err.splitlines() == [
        f"composefs: {target}: no composefs image is mounted there, but tmpfs of some, which umount(8) ends",
        f"composefs: {target / '..'}: nothing is mounted there",
    ]
    assert find_mount(str(target)).source == "some"


def test_list(repository, target, tmp_path, capsys):
    """What is mounted is listed, whoever did it."""
    ours(repository, "mount", "os", target)

    assert main(["mount"]) == 0

    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["MOUNTPOINT", "BY", "ACCESS", "IMAGE"]
    assert [str(target), "kernel", "ro", "os"] in rows


def test_detached(repository, source, monkeypatch):
    """The library gives a mount that no path leads to, and that ends when it is closed."""
    before = namespaces.mounted()
    with composefs.Repository.open(repository) as opened:
        mount = composefs.mount_image(opened, "os")

    with mount:
        assert namespaces.mounted() == before
        monkeypatch.chdir(f"/proc/self/fd/{mount.fd}")
        assert snapshot(Path()) == snapshot(source)
        monkeypatch.undo()
        fd = os.open("usr/bin/same", os.O_RDONLY, dir_fd=mount.fd)
        with open(fd, "rb") as file:
            assert file.read() == file_data(5000)


def test_id_mapped(repository, target):
    """Owners are those that a user namespace maps them to."""
    namespace = subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo ready; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with namespace:
        assert namespace.stdout.readline() == b"ready\n"
        for kind in ("uid", "gid"):
            Path(f"/proc/{namespace.pid}/{kind}_map").write_text("0 100000 70001")
        ours(repository, "mount", "--idmap", f"/proc/{namespace.pid}/ns/user", "os", target)
        namespace.communicate(b"\n")

    info = (target / "usr/bin/tool").stat()
    assert (info.st_uid, info.st_gid) == (101_000, 170_000)
    assert (target / "etc").stat().st_uid == 100_000


def test_image_on_tmpfs(source, target):
    """The kernel does not mount files of a tmpfs, so a loop device does it, and is free afterwards."""
    path = source.parent / "repository"
    composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
    ours(path, "create-image", ONE_WAY, source, "os")

    ours(path, "mount", "os", target)

    assert snapshot(target) == snapshot(source)
    ours(path, "umount", target)
    assert str(path) not in subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("options", [[], ["--bootable"]])
def test_oci_mount(tmp_path, target, cfsctl, options):
    """An OCI image is mounted by its tag, as composefs-rs does; the image for booting is another."""
    path = tmp_path / "repository"
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/": b"", "boot/file": noise(99), "sysroot/": b""})])
    composefs.Repository.init(path, require_verity=False)
    ours(path, "oci", "pull", str(layout), "os", *options, "--progress", "none")
    found = []
    for run in (ours, cfsctl):
        run(path, "oci", "mount", *options, "os", target)
        found.append((snapshot(target), told(target)))
        assert (target / "boot/file").exists() == (not options)
        ours(path, "umount", target)

    assert found[0] == found[1]


def test_no_image_for_booting(tmp_path, target, capsys):
    """Whoever has pulled without it is told what to do; where there is no image at all, too."""
    path = tmp_path / "repository"
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/": b""})])
    composefs.Repository.init(path, require_verity=False)
    ours(path, "oci", "pull", str(layout), "os", "--progress", "none")

    assert main(["--repo", str(path), "oci", "mount", "--bootable", "os", str(target)]) == 1
    assert "os: No boot EROFS image linked — try pulling with --bootable" in capsys.readouterr().err
    assert main(["--repo", str(path), "--erofs-version", "2", "oci", "mount", "os", str(target)]) == 1
    assert "os: No composefs EROFS image linked — try re-pulling the image" in capsys.readouterr().err


@pytest.fixture
def program(tmp_path):
    """The directory of a program `mount.composefs`, as pip installs it."""
    path = tmp_path / "sbin/mount.composefs"
    path.parent.mkdir()
    return write_program(path)


@pytest.fixture
def image(repository):
    """The file of the image, and the directory of its objects."""
    return (repository / "images" / id_of(repository)).resolve(), repository / "objects"


def test_mount_composefs(program, image, source, target):
    """The helper mounts an image that is a file; options may stand anywhere."""
    file, objects = image

    for arguments in (
        ["-o", f"basedir={objects}", file, target],
        [file, target, "-n", "-s", "-v", "-o", f"basedir={objects}"],
    ):
        subprocess.run([program, *arguments], check=True)
        assert snapshot(target) == snapshot(source)
        assert told(target)[1] == "composefs:composefs"
        ours(objects.parent, "umount", target)


def test_helper_of_mount(program, image, source, target, layers):
    """Where it lies in /sbin, mount(8) finds it, and hands over options and flags."""
    file, objects = image
    subprocess.run(
        ["mount", "-t", "overlay", "-o", f"lowerdir={program.parent}:/usr/sbin", "o", "/usr/sbin"], check=True
    )
    upper, work = layers[1], layers[3]
    mount = ["mount", "-t", "composefs"]

    subprocess.run([*mount, "-f", "-o", f"basedir={objects}", file, target], check=True)
    assert images(target) == []
    subprocess.run(
        [*mount, "-v", "-o", f"ro,nosuid,noexec,noatime,nofail,_netdev,basedir={objects}", file, target], check=True
    )
    assert snapshot(target) == snapshot(source)
    (line,) = (line for line in namespaces.mounted() if f" {target} " in line)
    assert " ro,nosuid,noexec,noatime " in line
    subprocess.run(["umount", target], check=True)

    subprocess.run([*mount, "-o", f"basedir={objects},upperdir={upper},workdir={work}", file, target], check=True)
    (target / "new").touch()
    assert (upper / "new").exists()
    done = subprocess.run(
        [*mount, "-o", "basedir=/,discard", file, target], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr.startswith("mount.composefs: Unsupported option: ")


def test_commas_in_paths(image, tmp_path, target):
    """A backslash protects what would separate."""
    file, objects = image
    (tmp_path / "a,b").symlink_to(objects)

    assert main(["mount.composefs", "-o", rf"basedir={tmp_path}/a\,b", str(file), str(target)]) == 0

    assert (target / "usr/bin/same").read_bytes() == file_data(5000)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["mount", "nothing", "mounted"], "image not found: nothing"),
        (["mount", "os", "missing"], "missing: No such file or directory"),
        (["mount", "os", "file"], "file: Not a directory"),
        (["mount", "os", "mounted", "--upperdir", "missing", "--workdir", "mounted"], "missing: No such file"),
        (["mount", "os", "mounted", "--upperdir", "file", "--workdir", "mounted"], "file: Not a directory"),
        (["mount", "os", "mounted", "--idmap", "file"], "mount_setattr idmap: "),
        (["mount", "junk", "mounted"], "image junk, offset "),
        (["oci", "mount", "nothing", "mounted"], "no tag nothing"),
        (
            ["mount.composefs", "-o", "basedir=missing", "file", "mounted"],
            "Failed to open basedir missing: No such file",
        ),
        (["mount.composefs", "-o", "basedir=.", "missing", "mounted"], "Failed to open missing: No such file"),
        (["mount.composefs", "-o", "basedir=.", "file", "mounted"], "file, offset 0: "),
        (["mount.composefs", "-o", "basedir=.", "mounted", "mounted"], "mounted, offset 0: neither a file nor"),
        (["mount.composefs", "-o", "basedir=.", "fifo", "mounted"], "fifo, offset 0: neither a file nor"),
        (["mount", "os", "mounted", "--upperdir", "upper", "--workdir", "upper"], "one not within the other"),
        (["mount", "os", "mounted", "--upperdir", "OBJECTS", "--workdir", "upper"], "apart from the objects"),
        (["mount.composefs", "-o", "basedir=.", "-t", "erofs", "file", "mounted"], "Unsupported fs type 'erofs'"),
        (["mount.composefs", "-o", f"basedir=.,digest={'0' * 64}", "IMAGE", "mounted"], "Image has no fs-verity"),
        (
            ["mount.composefs", "-o", "basedir=.,upperdir=no,workdir=no", "IMAGE", "mounted"],
            "Failed to open upperdir no:",
        ),
    ],
)
def test_errors(repository, image, target, tmp_path, monkeypatch, capsys, arguments, what):
    """What cannot be is said in one line, and nothing is mounted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(bytes(5000))
    (tmp_path / "upper").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with composefs.Repository.open(repository) as opened:
        junk = opened.images.store(bytes(9000))
        opened.images.link(junk)
        opened.images.set_ref("junk", junk)
    before = namespaces.mounted()
    places = {"IMAGE": str(image[0]), "OBJECTS": f"{repository}/objects"}
    words = [places.get(word, word) for word in arguments]

    assert main(["--repo", str(repository), *words]) in {1, 2}

    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert what in line
    assert out == ""
    assert namespaces.mounted() == before


def test_lost_object(repository, target):
    """A file whose object is gone is an error for its reader, and no zeros."""
    with composefs.Repository.open(repository) as opened, composefs.Image.open(opened, "os") as image:
        digest = image.digest("/usr/lib/size-4095")
    kept = repository / "objects" / digest.object_path
    kept.rename(kept.with_suffix(".lost"))
    try:
        ours(repository, "mount", "os", target)
        with pytest.raises(OSError, match="No such file|Input/output error"):
            (target / "usr/lib/size-4095").read_bytes()
    finally:
        kept.with_suffix(".lost").rename(kept)


def test_broken_image(repository, target, tmp_path, capsys):
    """An image that is not what its name says is not mounted, by whatever name."""
    path = tmp_path / "copy"
    shutil.copytree(repository, path, symlinks=True)
    file = (path / "images" / id_of(repository)).resolve()
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with file.open("r+b") as opened:
        opened.seek(1500)
        opened.write(b"?")

    for name in ("os", id_of(repository)):
        assert main(["--repo", str(path), "mount", name, str(target)]) == 1
        assert "wanted" in capsys.readouterr().err
    assert images(target) == []


@pytest.fixture
def as_user(repository):
    """Run the command as a user who may read everything that there is: Python itself may lie in a home directory."""
    setpriv = require_tool("setpriv")
    reader = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as directory:
        os.chown(directory, 1000, 1000)
        (Path(directory) / "mounted").mkdir()
        os.chown(f"{directory}/mounted", 1000, 1000)
        script = write_program(Path(directory) / "composefs")

        def run(*arguments):
            command = [setpriv, "--reuid=1000", "--regid=1000", "--clear-groups", *reader, script, "--repo", repository]
            done = subprocess.run([*command, *arguments], cwd=directory, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr

        yield run


def test_user(as_user):
    """Only root can have the kernel mount an image, and whoever asks for that is told what else there is."""
    status, out, err = as_user("mount", "--fuse=no", "os", "mounted")

    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert "Operation not permitted" in line
    assert "--fuse" in line


def test_user_with_an_upper_layer(as_user):
    """An upper layer is never dropped silently: without root there is none."""
    status, out, err = as_user("mount", "--upperdir", "mounted", "--workdir", "mounted", "os", "mounted")

    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert "only the kernel can do --upperdir" in line


@pytest.fixture
def require_fuse():
    """Skip where there is no FUSE, or fail where COMPOSEFS_REQUIRE_TOOLS=1."""
    require_tool("fusermount3")
    if (reason := fuse.is_available()) is not None:
        require = pytest.fail if os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1" else pytest.skip
        require(reason)


def test_user_with_fuse(as_user, require_fuse, tmp_path):
    """Without root it is FUSE by itself, and that is told; its user ends it."""
    os.mknod(tmp_path / "fuse", stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    (tmp_path / "fuse").chmod(0o666)  # as udev would have it
    subprocess.run(["mount", "--bind", tmp_path / "fuse", "/dev/fuse"], check=True)
    status, out, err = as_user("mount", "os", "mounted")
    assert (status, out) == (0, ""), err
    where = err.partition(": mounted with FUSE, since only root can have the kernel do it\n")[0]
    (mount,) = (each for each in mounted_images() if each.path == where)
    assert (image_of(mount), mount.is_fuse, mount.read_only) == ("os", True, True)

    assert as_user("mount")[1].splitlines()[-1].split() == [where, "FUSE", "ro", "os"]
    assert as_user("umount", "mounted") == (0, "", "")
    assert images(where) == []


def test_fuse_of_root(repository, target, require_fuse):
    """Root may have FUSE, too; and what is left of a server that died can be ended."""
    ours(repository, "mount", "--fuse", "os", target)
    assert (target / "usr/bin/same").read_bytes() == file_data(5000)
    ours(repository, "umount", target)
    assert images(target) == []

    ours(repository, "mount", "--fuse=yes", "os", target)
    subprocess.run(["umount", "--force", target], check=True)  # which ends the connection
    ours(repository, "mount", "--fuse", "yes", "os", target)
    ours(repository, "umount", target)
    assert images(target) == []


def test_dead_server(repository, target, require_fuse):
    """What a server leaves that was killed can be ended, although the place cannot even be looked at."""
    with composefs.Repository.open(repository) as opened:
        place = fuse.RepositoryImage(opened.path, "os")
    server = fuse.start(place, target, source="composefs:os")
    os.kill(server, signal.SIGKILL)
    assert commands.wait_until(lambda: not _is_there(target))
    assert images(target) == ["os"]

    ours(repository, "umount", target)

    assert images(target) == []
    assert list(target.iterdir()) == []


def _is_there(path):
    try:
        os.stat(path)
    except OSError as error:
        return error.errno != errno.ENOTCONN
    return True


def test_foreground(program, repository, target, require_fuse):
    """In the foreground the command serves until it is unmounted."""
    command = write_program(program.parent / "composefs")
    process = subprocess.Popen([command, "--repo", repository, "mount", "--fuse", "--foreground", "os", target])
    assert commands.wait_until(lambda: images(target) == ["os"])
    assert (target / "usr/bin/same").read_bytes() == file_data(5000)

    ours(repository, "umount", target)

    assert process.wait(10) == 0
