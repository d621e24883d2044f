"""The commands that mount: wrong usage, the choice between kernel and FUSE, kernel arguments, and lists.

Real mounts are in tests/interop/test_mount.py.
"""

import errno
import json
import os

import pytest

import composefs
from composefs import Algorithm, MountError, fuse, privileges
from composefs.cli import main
from composefs.erofs.writer import write_image
from composefs.mount import images as mounting
from composefs.mount import table, unmounting
from composefs.mountinfo import MountPoint, read_mounts
from tests.images import directory, external, store

KERNEL = "66 43 0:40 / /mnt ro,relatime - overlay composefs:os ro,lowerdir+=/,datadir+=/r/objects,verity=require\n"
FUSE = "67 43 0:41 / /home/me/x\\040y rw - fuse.composefs composefs:composefs rw\n"


@pytest.fixture
def repository(tmp_path):
    """A repository with the image os."""
    path = tmp_path / "repository"
    composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(path) as opened:
        root = directory({"usr": directory({"file": external(opened, b"f" * 100)})})
        store(opened.images, write_image(root, 1), "os")
    return path


@pytest.fixture
def image(repository):
    """Its id."""
    with composefs.Repository.open(repository) as opened:
        return opened.images.resolve("os").hex


@pytest.fixture
def call(repository, tmp_path, monkeypatch, capsys):
    """Run `composefs` on the repository in a directory with some files; return status and lines of each stream."""
    for name in ("mountpoint", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["--repo", str(repository), *arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def attempts(monkeypatch):
    """What is mounted how, instead of mounting it."""
    seen = []

    class Mount:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append("closed")

        def attach(self, path):
            seen.append(("attached", os.path.basename(path)))

    def by_kernel(image_fd, object_fds, options, features):
        seen.append(("kernel", options.source, options.read_only, options.upper_fd is not None))
        return Mount()

    def start(what, target, *, source, allow_other):
        assert what.insecure
        seen.append(("FUSE", what.name, os.path.basename(target), source, allow_other))

    def serve(image, target, *, source, ready, allow_other):
        seen.append(("foreground", image.id.hex, os.path.basename(target), source, allow_other))
        ready()

    monkeypatch.setattr(mounting, "mount_by_kernel", by_kernel)
    monkeypatch.setattr(fuse, "start", start)
    monkeypatch.setattr(fuse, "serve", serve)
    return seen


@pytest.fixture
def root(monkeypatch):
    """Be root."""
    monkeypatch.setattr(privileges, "may_mount", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def user(monkeypatch):
    """Be nobody."""
    monkeypatch.setattr(privileges, "may_mount", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


LAYER = ["--upperdir", "upper", "--workdir", "work"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["mount", "os"], "MOUNTPOINT is missing"),
        (["mount", "os", "mountpoint", "more"], "unrecognized arguments: more"),
        (["mount", "os", "mountpoint", "--upperdir", "upper"], "--upperdir and --workdir need each other"),
        (["mount", "os", "mountpoint", "--workdir", "work"], "--upperdir and --workdir need each other"),
        (["mount", "os", "mountpoint", "--read-write"], "--read-write needs --upperdir and --workdir"),
        (["mount", "os", "mountpoint", "--upperdir=", "--workdir=work"], "--upperdir needs a path"),
        (["mount", "os", "mountpoint", "--idmap="], "--idmap needs a path"),
        (
            ["mount", "os", "mountpoint", "--fuse", *LAYER],
            "--upperdir is for mounts by the kernel, which --fuse is not",
        ),
        (["mount", "os", "mountpoint", "--fuse=yes", "--idmap", "file"], "--idmap is for mounts by the kernel"),
        (["mount", "os", "mountpoint", "--fuse=no", "--foreground"], "--foreground is for --fuse"),
        (["mount", "os", "mountpoint", "--fuse=perhaps"], "invalid choice: 'perhaps'"),
        (["mount", "os", "mountpoint", "--json"], "--json is for the list"),
        (["mount", "--from-cmdline", "mountpoint", "--json"], "--json is for the list"),
        (["--no-repo", "probe-image", "--cmdline", ""], "--no-repo is only for commands that compute"),
        (["mount", "os", "/"], "what is mounted at / is seen by nobody"),
        (["mount", "--from-cmdline", "mountpoint", "--sysroot", ""], "--sysroot needs a path"),
        (["mount", "os", "mountpoint", "--cmdline", "quiet"], "--cmdline and --sysroot are for --from-cmdline"),
        (["mount", "--sysroot", "/"], "--cmdline and --sysroot are for --from-cmdline"),
        (["mount", "--from-cmdline"], "--from-cmdline wants one argument, MOUNTPOINT"),
        (["mount", "--from-cmdline", "os", "mountpoint"], "--from-cmdline wants one argument, MOUNTPOINT"),
        (
            ["mount", "--from-cmdline", "mountpoint", "--sysroot", "."],
            "--sysroot chooses a repository, and so do --repo",
        ),
        (["probe-image", "--sysroot", "."], "--sysroot chooses a repository, and so do --repo"),
        (["oci", "mount", "os"], "the following arguments are required: MOUNTPOINT"),
        (["oci", "mount", "os", "mountpoint", "--read-write"], "--read-write needs --upperdir and --workdir"),
        (["umount"], "the following arguments are required: MOUNTPOINT"),
        (["mount.composefs", "file", "mountpoint"], "No object dirs specified"),
        (["mount.composefs", "file", "mountpoint", "-o", "basedir=.", "-t", "x"], "Unsupported fs type 'x'"),
        (["mount.composefs", "file", "mountpoint", "-o", "basedir=.", "-o", "what"], "Unsupported option: what"),
        (["mount.composefs", "file", "mountpoint", "-o", "basedir=.", "-N", "7"], "by nsenter --mount=7 mount"),
        (["mount.composefs", "file", "-o", "basedir=."], "the following arguments are required: MOUNTPOINT"),
    ],
)
def test_wrong_usage(call, attempts, root, arguments, what):
    """What makes no sense ends with 2, before anything is mounted."""
    status, out, err = call(*arguments)

    assert (status, out, attempts) == (2, [], [])
    assert what in err[-1]


@pytest.mark.parametrize(
    ("mountpoint", "what"),
    [("missing", "No such file or directory"), ("file", "Not a directory"), ("", "No such file")],
)
@pytest.mark.parametrize(
    "words", [["mount", "os"], ["oci", "mount", "os"], ["mount.composefs", "-o", "basedir=.", "file"]]
)
def test_mountpoint(call, attempts, root, words, mountpoint, what):
    """The mountpoint is looked at first."""
    status, out, err = call(*words, mountpoint)

    assert (status, out, attempts) == (1, [], [])
    assert what in err[0]
    assert len(err) == 1


def test_by_kernel(call, attempts, root, image):
    """Root has the kernel mount it, and that is not told."""
    assert call("mount", "os", "mountpoint") == (0, [], [])
    assert call("mount", *LAYER, "--read-write", image, "mountpoint") == (0, [], [])
    assert call("mount", "--foreground", "refs/os", "mountpoint") == (0, [], [])

    attached = [("attached", "mountpoint"), "closed"]
    assert attempts == [
        ("kernel", "composefs:os", True, False),
        *attached,
        ("kernel", f"composefs:{image}", False, True),
        *attached,
        ("kernel", "composefs:refs/os", True, False),
        *attached,
    ]


def test_by_fuse_for_users(call, attempts, user, image):
    """For anyone else it is FUSE, and that is told; the kernel is asked if they insist."""
    told = "mountpoint: mounted with FUSE, since only root can have the kernel do it"
    for options in ([], ["--foreground"]):
        status, out, (line,) = call("mount", *options, "os", "mountpoint")
        assert (status, out) == (0, [])
        assert line.endswith(told)

    assert call("mount", "--fuse=no", "os", "mountpoint") == (0, [], [])

    assert attempts[:2] == [
        ("FUSE", image, "mountpoint", "composefs:os", False),
        ("foreground", image, "mountpoint", "composefs:os", False),
    ]
    assert attempts[2][0] == "kernel"


@pytest.mark.parametrize("spelling", [["--fuse"], ["--fuse=yes"], ["--fuse", "yes"]])
@pytest.mark.parametrize("behind", [False, True])
def test_fuse_if_asked(call, attempts, root, image, spelling, behind):
    """Root has FUSE if that is asked for, however that is spelled: the value may be missing.  Others are let in."""
    words = ["mount", "os", "mountpoint", *spelling] if behind else ["mount", *spelling, "os", "mountpoint"]

    assert call(*words) == (0, [], [])

    assert attempts == [("FUSE", image, "mountpoint", "composefs:os", True)]


@pytest.mark.parametrize("options", [LAYER, [*LAYER, "--read-write"], ["--idmap", "file"]])
def test_users_lose_nothing_silently(call, attempts, user, options):
    """What only the kernel can do is refused, and not left out."""
    status, out, err = call("mount", *options, "os", "mountpoint")

    assert (status, out, attempts) == (1, [], [])
    assert f"only the kernel can do {options[0]}, and only for root outside of user namespaces" in err[0]


def test_kernel_that_lacks_something(call, root, monkeypatch):
    """Who has an old kernel is told that there is FUSE, unless they want what FUSE has not."""

    def refuse(*_):
        raise MountError("mount overlay", errno.EOPNOTSUPP, feature="layers", remedy="use a newer kernel")

    monkeypatch.setattr(mounting, "mount_by_kernel", refuse)
    text = "composefs: mount overlay: this kernel lacks layers; use a newer kernel"

    assert call("mount", "os", "mountpoint") == (
        1,
        [],
        [f"{text}; or mount it with --fuse, which needs nothing of that"],
    )
    assert call("mount", *LAYER, "os", "mountpoint") == (1, [], [text])


def test_no_image(call, attempts, root):
    """A name that leads nowhere is told."""
    status, _, err = call("mount", "nothing", "mountpoint")

    assert (status, attempts) == (1, [])
    assert err[0].endswith("image not found: nothing")


def test_from_cmdline(call, attempts, root, image, monkeypatch, tmp_path):
    """The image that kernel arguments select is mounted; the repository is below the root of the system."""
    (tmp_path / "composefs").symlink_to("repository")
    arguments = ["mount", "--from-cmdline", "mountpoint", "--cmdline", f"quiet composefs=?{image}"]

    assert call(*arguments) == (0, [], [])
    assert main([*arguments, "--sysroot", str(tmp_path)]) == 0

    assert attempts == [("kernel", f"composefs:{image}", True, False), ("attached", "mountpoint"), "closed"] * 2


def test_running_kernel(call, attempts, root, image, tmp_path, monkeypatch):
    """By default the arguments are those of the running kernel, and bytes that are no text do not matter."""
    (tmp_path / "cmdline").write_bytes(b"x=\xff composefs=?" + image.encode() + b"\n")
    monkeypatch.setattr("composefs.cli.booting._CMDLINE", str(tmp_path / "cmdline"))

    assert call("mount", "--from-cmdline", "mountpoint") == (0, [], [])
    assert call("probe-image")[1][0].split() == ["image", image]


def test_probe(call, image, repository):
    """What is selected is told, and what is not there is passed over."""
    other = "0" * 64

    status, out, _ = call("probe-image", "--cmdline", f"composefs=?{other} composefs.digest=?v1-sha256-12:{image}")

    assert status == 0
    assert [line.split(maxsplit=1) for line in out] == [
        ["image", image],
        ["argument", f"composefs.digest=?v1-sha256-12:{image}"],
        ["repository", str(repository)],
        ["fs-verity", "not required"],
    ]


def test_probe_other_algorithm(call, image, repository):
    """What --hash demands holds for the repository of kernel arguments, too."""
    assert call("--hash", "sha256", "probe-image", "--cmdline", f"composefs=?{image}")[0] == 0
    assert call("--hash", "sha512", "probe-image", "--cmdline", f"composefs=?{image}") == (
        1,
        [],
        [f"composefs: {repository}: has the algorithm fsverity-sha256-12, but --hash sha512 was given"],
    )


def test_probe_json(call, image, repository):
    """The same for machines."""
    status, out, _ = call("probe-image", "--json", "--cmdline", f"composefs=?{image}")

    assert status == 0
    assert json.loads("\n".join(out)) == {
        "image": image,
        "algorithm": "fsverity-sha256-12",
        "argument": f"composefs=?{image}",
        "insecure": True,
        "verity": False,
        "repository": str(repository),
    }


@pytest.mark.parametrize("command", [["probe-image"], ["mount", "--from-cmdline", "mountpoint"]])
@pytest.mark.parametrize(
    ("cmdline", "what"),
    [
        ("quiet", "no composefs karg found in kernel cmdline"),
        ("composefs=?" + "0" * 64, "no composefs image found (tried: 0000"),
        ("quiet composefs=?12", "kernel command line, offset 6: composefs=?12: invalid composefs= digest length: 2"),
        ("composefs=" + "0" * 64, "was made without fs-verity, which the kernel argument composefs=0000"),
    ],
)
def test_nothing_to_boot(call, attempts, root, command, cmdline, what):
    """Without an image that can be booted the status is 1."""
    status, out, err = call(*command, "--cmdline", cmdline)

    assert (status, out, attempts) == (1, [], [])
    assert what in err[-1]


def test_insecure_argument_although_verity_is_required(call, image, monkeypatch):
    """--require-verity holds for kernel arguments, too."""
    status, _, err = call("--require-verity", "probe-image", "--cmdline", f"composefs=?{image}")

    assert status == 1
    assert f"--require-verity was given, but composefs=?{image} does not require it" in err[0]


def test_broken_image(call, repository, image):
    """An image that could not be booted is not said to be there."""
    path = repository / "objects" / image[:2] / image[2:]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    status, out, err = call("probe-image", "--cmdline", f"composefs=?{image}")

    assert (status, out) == (1, [])
    assert f"wanted {image}" in err[0]


@pytest.fixture
def mountinfo(tmp_path, monkeypatch):
    """Write what is mounted."""

    def write(text):
        proc = tmp_path / "proc"
        (proc / "self").mkdir(parents=True, exist_ok=True)
        (proc / "self/mountinfo").write_text(text)
        monkeypatch.setattr(table, "read_mounts", lambda: read_mounts(str(proc)))

    return write


def test_list(call, mountinfo):
    """Mounts are listed, for people and for machines."""
    mountinfo("")
    assert call("mount") == (0, ["No images mounted"], [])
    assert json.loads("".join(call("mount", "--json")[1])) == {"mounts": []}
    mountinfo(KERNEL + FUSE)

    assert call("mount") == (
        0,
        ["MOUNTPOINT    BY      ACCESS  IMAGE", "/mnt          kernel  ro      os", "/home/me/x y  FUSE    rw      -"],
        [],
    )
    assert json.loads("".join(call("mount", "--json")[1])) == {
        "mounts": [
            {"mountpoint": "/mnt", "image": "os", "fuse": False, "read_only": True, "verity": True},
            {"mountpoint": "/home/me/x y", "image": None, "fuse": True, "read_only": False, "verity": False},
        ]
    }


def fail(number):
    def unmount(path, *, lazy):
        raise MountError(f"umount {path}", number)

    return unmount


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Let the directory `mountpoint` be a mount, of FUSE unless told otherwise, that the kernel does not end for us."""
    place = str(tmp_path / "mountpoint")

    def mount(kind="fuse.composefs", source="composefs:os"):
        monkeypatch.setattr(unmounting, "find_mount", lambda _: MountPoint(kind, source, place, "0:41"))
        return place

    monkeypatch.setattr(unmounting.kernel, "unmount", fail(errno.EPERM))
    return mount


def test_unmount_for_users(call, mounted, monkeypatch, tmp_path):
    """What the kernel does not let users do, the helper of FUSE does; its complaints are told."""
    place = mounted()
    helper = tmp_path / "fusermount3"
    helper.write_text(
        '#!/bin/sh\necho "$@" > helped\necho "failed to unmount: Device or resource busy" >&2\nexit $STATUS\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("STATUS", "0")

    assert call("umount", "mountpoint") == (0, [], [])
    assert (tmp_path / "helped").read_text() == f"-u -- {place}\n"
    assert call("umount", "--lazy", "mountpoint") == (0, [], [])
    assert (tmp_path / "helped").read_text() == f"-u -z -- {place}\n"
    monkeypatch.setenv("STATUS", "1")
    status, _, (line,) = call("umount", "mountpoint")
    assert status == 1
    assert line.startswith(f"composefs: fusermount3 -u {place}: Device or resource busy; failed to unmount")


def test_unmount_without_helper(call, mounted, monkeypatch, tmp_path):
    """Where there is no helper, that is said; for mounts of the kernel it is of no use."""
    monkeypatch.setenv("PATH", str(tmp_path))
    place = mounted()
    assert call("umount", "mountpoint")[2] == [
        f"composefs: umount {place}: Operation not permitted; install fusermount3, or do it as root"
    ]
    mounted("overlay")
    assert call("umount", "mountpoint")[2] == [f"composefs: umount {place}: Operation not permitted"]


def test_unmount_nothing(call, monkeypatch, tmp_path):
    """Where nothing is mounted, or nothing tells what, nothing is ended; nor is the root, if it is an image."""
    assert call("umount", "mountpoint")[2] == ["composefs: mountpoint: nothing is mounted there"]
    assert call("umount", "missing")[2] == [f"composefs: {tmp_path}/missing: No such file or directory"]
    assert call("umount", "")[2] == ["composefs: '': No such file or directory"]
    monkeypatch.setattr(unmounting, "find_mount", lambda _: None)
    assert call("umount", "mountpoint")[2] == ["composefs: mountpoint: /proc does not tell what is mounted there"]
    monkeypatch.setattr(unmounting, "find_mount", lambda _: MountPoint("overlay", "composefs:os", "/", "0:41"))
    assert call("umount", "--lazy", "/")[2] == [
        "composefs: umount /: Device or resource busy; it is the root of this process"
    ]


ALL, NONE = "000001ffffffffff", "0000000000000004"


@pytest.fixture
def status(tmp_path, monkeypatch):
    """Let the kernel say what this process may do."""

    def write(effective, bounding=ALL, *, outside=True, no_new_privs=0):
        (tmp_path / "status").write_text(
            f"Name:\tx\nCapPrm:\t{ALL}\nCapEff:\t{effective}\nCapBnd:\t{bounding}\nNoNewPrivs:\t{no_new_privs}\n"
        )
        monkeypatch.setattr(privileges, "_STATUS", str(tmp_path / "status"))
        monkeypatch.setattr(privileges, "_USER_NAMESPACE", str(tmp_path))
        monkeypatch.setattr(privileges, "_INITIAL", tmp_path.stat().st_ino if outside else 0xEFFFFFFD)

    return write


@pytest.mark.parametrize(
    ("effective", "outside", "allowed"), [(ALL, True, True), (ALL, False, False), (NONE, True, False)]
)
def test_privileges(status, effective, outside, allowed):
    """The kernel lets those mount that have CAP_SYS_ADMIN, and not just in a user namespace; so with the reserve."""
    status(effective, outside=outside)

    assert privileges.may_mount() is allowed
    assert privileges.may_use_reserve() is allowed


def test_privileges_for_fuse(status):
    """FUSE is mounted by who may in a namespace of his own, or by a set-uid helper; that takes nothing from outside."""
    status(ALL, NONE, outside=False, no_new_privs=1)
    assert privileges.may_serve()
    status(NONE)
    assert privileges.may_serve()
    status(NONE, no_new_privs=1)
    assert not privileges.may_serve()
    status(NONE, NONE)
    assert not privileges.may_serve()


def test_privileges_without_proc(tmp_path, monkeypatch):
    """Where nothing is to be found out, there are none."""
    monkeypatch.setattr(privileges, "_STATUS", str(tmp_path / "missing"))
    assert not privileges.may_mount()
    monkeypatch.undo()
    monkeypatch.setattr(privileges, "_USER_NAMESPACE", str(tmp_path / "missing"))

    assert not privileges.may_mount()


def test_dead_server(call, monkeypatch):
    """Where a server of FUSE has died, it is said how to clean up."""

    def realpath(path, *, strict):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), path)

    monkeypatch.setattr("composefs.cli.mounting.os.path.realpath", realpath)

    assert call("mount", "os", "mountpoint") == (
        1,
        [],
        [
            "composefs: mountpoint: Transport endpoint is not connected; the server of an image died there: composefs "
            "umount cleans up"
        ],
    )
