"""What a kernel can do is found out by trying, also on kernels that are not at hand, which are played here."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from composefs._native import mounts
from composefs.errors import MountError
from composefs.kernel import Features, features, loop, probe
from composefs.kernel.contexts import Context, failure
from composefs.kernel.features import probe_layers
from tests.namespaces import mounted, private_mounts
from tests.tools import require_root, require_tool

ROOT = Path(__file__).parents[2]
MODERN = Features(
    os.uname().release,
    erofs=True,
    file_backed_erofs=True,
    loop_devices=True,
    overlay=True,
    data_only_layers=True,
    layer_options=True,
    layer_descriptors=True,
    detached_layers=True,
    overlay_verity=True,
    idmap=True,
)
V6_13 = replace(MODERN, layer_descriptors=False, detached_layers=False)
V6_8 = replace(V6_13, file_backed_erofs=False)
V6_6 = replace(V6_8, layer_options=False)
V6_5 = replace(V6_6, overlay_verity=False)
V6_1 = replace(V6_5, data_only_layers=False)
V5_10 = replace(V6_1, idmap=False)


class Kernel:
    """Answers as the kernel would that has *known*.

    Before 6.5 overlayfs had its options collected as one text, which was looked at when the file system was created.

    Args:
        known: what it can do.
        collects: whether options are looked at so late; None: as kernels of those features do.
    """

    def __init__(self, known, *, collects=None):
        self.known = known
        self.collects = not known.data_only_layers if collects is None else collects
        self.contexts = {}
        self.clones = set()

    def fsopen(self, kind):
        if not getattr(self.known, kind):
            raise OSError(errno.ENODEV, "No such device")
        fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.contexts[fd] = (kind, {})
        return fd

    def fsconfig_flag(self, fd, key):
        self.contexts[fd][1][key] = None

    def fsconfig_string(self, fd, key, value):
        kind, options = self.contexts[fd]
        if kind == "overlay" and not self.collects:
            self.check(key, value)
        options[key] = value

    def fsconfig_fd(self, fd, key, value):
        if not self.known.layer_descriptors:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.fsconfig_string(fd, key, str(value))

    def fsconfig_create(self, fd):
        kind, options = self.contexts[fd]
        if kind == "erofs":
            raise OSError(errno.EINVAL if self.known.file_backed_erofs else errno.ENOTBLK, "no image")
        for key, value in options.items():
            self.check(key, value)
        if any(str(clone) in str(value) for clone in self.clones for value in options.values()):
            self.need(self.known.detached_layers)

    def check(self, key, value):
        if key in {"lowerdir+", "datadir+"}:
            self.need(self.known.layer_options)
        elif key == "verity":
            self.need(self.known.overlay_verity)
        elif key == "lowerdir":
            self.need(self.known.data_only_layers or "::" not in value)
        else:
            assert (key, value) == ("metacopy", "on")

    def need(self, has_it):
        if not has_it:
            raise OSError(errno.EINVAL, "Invalid argument")

    def clone_mount(self, fd):
        clone = os.dup(fd)
        self.clones.add(clone)
        return clone

    def idmap_mount(self, fd, namespace_fd):
        raise OSError(errno.EINVAL if self.known.idmap else errno.ENOSYS, "no")


def found_on(monkeypatch, kernel, *, loop_devices=True, in_tmpfs=False):
    """Return what is found out on that kernel."""
    for name in (
        "fsopen",
        "fsconfig_flag",
        "fsconfig_string",
        "fsconfig_fd",
        "fsconfig_create",
        "clone_mount",
        "idmap_mount",
    ):
        monkeypatch.setattr(mounts, name, getattr(kernel, name))
    monkeypatch.setattr(loop, "_CONTROL", "/dev/null" if loop_devices else "/dev/no-such-thing")
    monkeypatch.setattr(features, "_is_never_mounted", lambda fd: in_tmpfs)
    probe_layers.cache_clear()
    probe.cache_clear()
    try:
        return probe()
    finally:
        probe_layers.cache_clear()
        probe.cache_clear()


@pytest.mark.parametrize("known", [MODERN, V6_13, V6_8, V6_6, V6_5, V6_1, V5_10])
def test_kernels(monkeypatch, known):
    """Each is found out to be what it is."""
    assert found_on(monkeypatch, Kernel(known)) == known


def test_old_kernel_with_new_features(monkeypatch):
    """As those of RHEL 9: 5.14 with layers for data and with verity, but without the rest."""
    known = replace(V6_6, idmap=True)

    assert found_on(monkeypatch, Kernel(known, collects=True)) == known


def test_kernel_without_overlayfs(monkeypatch):
    """Then nothing is known of layers; and no loop devices are no loop devices."""
    known = replace(MODERN, overlay=False)

    found = found_on(monkeypatch, Kernel(known), loop_devices=False)

    assert found == Features(
        known.kernel, erofs=True, file_backed_erofs=True, loop_devices=False, overlay=False, idmap=True
    )


def test_kernel_without_erofs(monkeypatch):
    """Then nothing is known of files as images."""
    known = replace(MODERN, erofs=False)

    assert found_on(monkeypatch, Kernel(known)) == replace(known, file_backed_erofs=None)


def test_file_that_erofs_never_mounts(monkeypatch):
    """A refusal proves nothing where the file is in tmpfs or an overlay."""
    assert found_on(monkeypatch, Kernel(V6_8), in_tmpfs=True) == replace(V6_8, file_backed_erofs=None)
    assert found_on(monkeypatch, Kernel(MODERN), in_tmpfs=True) == MODERN


def test_files_that_erofs_never_mounts():
    """Which these are the table of mounts says."""
    with open("/proc/version", "rb") as file:
        assert not features._is_never_mounted(file.fileno())
    with os.fdopen(os.memfd_create("memory"), "rb") as file:
        assert features._is_never_mounted(file.fileno())
    require_root("mounting a tmpfs")
    with private_mounts():
        subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
        with open("/mnt/file", "x+b") as file:
            assert features._is_never_mounted(file.fileno())


def test_layers_that_do_not_do(monkeypatch):
    """Where the package's own directories are no layers, nothing is known of overlayfs but that it is there."""
    kernel = Kernel(MODERN)

    def create(fd):
        raise OSError(errno.EINVAL, "filesystem on lowerdir not supported")

    kernel.fsconfig_create = create
    found = found_on(monkeypatch, kernel)

    assert found == Features(
        MODERN.kernel, erofs=True, file_backed_erofs=True, loop_devices=True, overlay=True, idmap=True
    )


def test_mounts_that_cannot_be_cloned(monkeypatch):
    """Then nothing detached can be tried, and nothing is claimed."""
    kernel = Kernel(MODERN)

    def clone_mount(fd):
        raise OSError(errno.EINVAL, "Invalid argument")

    kernel.clone_mount = clone_mount

    assert found_on(monkeypatch, kernel) == replace(MODERN, detached_layers=False)


def test_no_privileges(monkeypatch):
    """What needs them is unknown, which is not the same as missing."""
    kernel = Kernel(MODERN)

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    kernel.fsopen = kernel.idmap_mount = refuse
    found = found_on(monkeypatch, kernel)

    assert found == Features(MODERN.kernel, loop_devices=True)


def test_this_kernel():
    """The facts belong together, and asking leaves nothing mounted."""
    require_root("mounts")
    with private_mounts():
        before = mounted(), os.listdir("/proc/self/fd")
        probe.cache_clear()
        probe_layers.cache_clear()
        found = probe()
        assert (mounted(), os.listdir("/proc/self/fd")) == before

    assert found.kernel == os.uname().release
    assert probe() is found
    if not found.overlay or found.data_only_layers is None:
        pytest.skip("this kernel has no overlayfs")
    assert found.data_only_layers or not found.layer_options
    assert found.layer_options or not found.layer_descriptors
    assert found.layer_descriptors or not found.detached_layers


def test_users():
    """Without privileges nothing fails, and nothing is claimed."""
    require_root("becoming somebody else")
    require_tool("setpriv")
    command = "from composefs.kernel import probe; print(probe())"
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", command]

    done = subprocess.run(user, cwd=ROOT, capture_output=True, text=True, check=False)

    if done.returncode and "Permission denied" in done.stderr:
        pytest.skip("nobody may run this Python")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("=None") == len(Features.__slots__) - 2
    assert "loop_devices=False" in done.stdout


def test_messages():
    """What the kernel says about an option comes with the error, in one line."""
    require_root("file system contexts")
    with Context("tmpfs") as context:
        with pytest.raises(MountError) as caught:
            context.set_string("no-such-option", "value")
        with pytest.raises(MountError) as again:
            context.set_flag("another")
        context.set_string("size", "4k")

    assert str(caught.value) == (
        "fsconfig tmpfs no-such-option=value: Invalid argument; e tmpfs: Unknown parameter 'no-such-option'"
    )
    assert caught.value.messages == ("e tmpfs: Unknown parameter 'no-such-option'",)
    assert again.value.messages == ("e tmpfs: Unknown parameter 'another'",)
    assert again.value.remedy is None


def test_unknown_type():
    """A type that the kernel lacks is a feature that it lacks."""
    require_root("file system contexts")
    with pytest.raises(MountError) as caught:
        Context("nosuchfs")

    assert caught.value.errno == errno.ENODEV
    assert str(caught.value).startswith("fsopen nosuchfs: this kernel lacks the file system nosuchfs")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (
            errno.EPERM,
            "step: Operation not permitted; be root outside of user namespaces (CAP_SYS_ADMIN)",
        ),
        (
            errno.ENOSYS,
            "step: this kernel lacks the system calls of mounts (Linux 5.2); a sandbox may forbid the call: run it "
            "outside, or use a newer kernel",
        ),
        (errno.ENOMEM, "step: Cannot allocate memory"),
    ],
)
def test_failures(number, text):
    """Each says what to do, if that is known."""
    assert str(failure("step", OSError(number, "whatever"))) == text


def test_user_namespace():
    """There EROFS cannot be mounted, and the error says what can be done."""
    require_tool("unshare")
    command = (
        "import os; from composefs.kernel import *\n"
        "fd = os.open('/', os.O_RDONLY)\n"
        "try: mount_image(fd, [fd], MountOptions('x'))\n"
        "except MountError as error: print(error)"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip("there are no user namespaces here")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "fsconfig erofs create: Operation not permitted; be root outside of user namespaces (CAP_SYS_ADMIN)\n"
    )
