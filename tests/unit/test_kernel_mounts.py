"""Mounts come and go; whatever fails, and whenever, neither mounts nor loop devices nor directories stay behind."""

import contextlib
import errno
import inspect
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from composefs._native import mounts
from composefs.errors import MountError
from composefs.kernel import loop, unmount
from composefs.kernel.mounts import attached
from tests.mounting import EVERYTHING, OLDEST, descriptors, limited, opened, private_place, read, sample
from tests.namespaces import mounted
from tests.strategies import file_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path):
    with private_place(tmp_path) as place:
        yield place


def test_no_loop_devices(place, monkeypatch):
    """If only one could help, and there is none, then that is said."""
    image = place.image(sample(place.repository))

    with pytest.raises(MountError) as caught:
        place.mount(image, features=replace(OLDEST, loop_devices=False))
    monkeypatch.setattr(loop, "_CONTROL", "/dev/no-such-thing")
    with pytest.raises(MountError) as same:
        place.mount(image, features=replace(EVERYTHING, file_backed_erofs=False))

    assert (
        str(caught.value)
        == str(same.value)
        == (
            "mount erofs: this kernel lacks EROFS of regular files (Linux 6.12, on file systems other than tmpfs and "
            "overlayfs) and loop devices; load the module of loop devices: modprobe loop"
        )
    )


def test_loop_devices_that_others_take(place, monkeypatch):
    """Between the question for a free one and its use others may take it: then the next one is tried."""
    image = place.image(sample(place.repository))
    find, taken = mounts.find_loop_device, []

    def find_late(control_fd):
        number = find(control_fd)
        if len(taken) < 3:
            other = os.open(f"/dev/loop{number}", os.O_RDONLY | os.O_CLOEXEC)
            with opened(image) as fd:
                mounts.configure_loop_device(other, fd)
            taken.append(other)
        return number

    monkeypatch.setattr(mounts, "find_loop_device", find_late)
    with place.mount(image, features=replace(EVERYTHING, file_backed_erofs=False)) as mount:
        data = read(mount.fd, "etc/large")
    for fd in taken:
        os.close(fd)

    assert (len(taken), data) == (3, file_data(10_000))


def test_loop_devices_always_taken(place, monkeypatch):
    """It ends some time."""
    image = place.image(sample(place.repository))
    number = mounts.find_loop_device

    def configure(loop_fd, file_fd):
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(mounts, "configure_loop_device", configure)
    with pytest.raises(MountError) as caught:
        place.mount(image, features=replace(EVERYTHING, file_backed_erofs=False))

    assert number is mounts.find_loop_device
    assert str(caught.value) == (
        "loop device: Device or resource busy; others take every device that is free: try it again"
    )


def test_attach(place):
    """Where it cannot be attached, the error says so, and the mount is as before."""
    image = place.image(sample(place.repository))
    (place.path / "file").write_text("file")

    with place.mount(image) as mount:
        with pytest.raises(MountError, match="^move_mount /nowhere: No such file or directory; make the directory$"):
            mount.attach("/nowhere")
        with pytest.raises(MountError, match="^move_mount .*/file: Invalid argument; it takes a directory, "):
            mount.attach(str(place.path / "file"))
        with pytest.raises(ValueError, match="embedded null byte"):
            mount.attach("/a\0b")
        assert mount.fileno() == mount.fd >= 0
        mount.attach(str(place.target))
    mount.close()
    assert mount.fd == -1
    assert (place.target / "etc/small").read_bytes() == file_data(5)
    unmount(str(place.target))


def test_unmount(place):
    """What is in use stays, unless it is to go as soon as it can; what is no mount is no mount."""
    image = place.image(sample(place.repository))
    with place.mount(image) as mount:
        mount.attach(str(place.target))
    with opened(place.target / "etc/large") as fd:
        with pytest.raises(MountError, match="^umount .*: Device or resource busy; end what is open"):
            unmount(str(place.target))
        unmount(str(place.target), lazy=True)
        assert os.listdir(place.target) == []
        assert os.pread(fd, 5, 0) == file_data(10_000)[:5]

    with pytest.raises(MountError, match="^umount .*: Invalid argument; nothing is mounted there$"):
        unmount(str(place.target))
    with pytest.raises(MountError, match="^umount /nowhere: No such file or directory$"):
        unmount("/nowhere")
    (place.path / "to-root").symlink_to("/")
    with pytest.raises(MountError, match="nothing is mounted there"):
        unmount(str(place.path / "to-root"), lazy=True)


def native_calls():
    """Return the names of all functions that ask the kernel for something."""
    return [
        name
        for name, value in vars(mounts).items()
        if inspect.isfunction(value) and value.__module__ == mounts.__name__
    ]


class Break:
    """Lets the how manyth call of one function of the kernel fail, before or after it did what it should."""

    def __init__(self, monkeypatch, error, *, after):
        self.error, self.after = error, after
        self.name, self.countdown = "", 0
        for name in native_calls():
            monkeypatch.setattr(mounts, name, self.wrapped(name, getattr(mounts, name)))

    def wrapped(self, name, function):
        def call(*arguments):
            self.countdown -= name == self.name
            if name != self.name or self.countdown != 0:
                return function(*arguments)
            # A descriptor that is interrupted on its way back nobody can close.
            if self.after and name in {"move_mount", "unmount"}:
                function(*arguments)
            raise self.error

        return call


@pytest.mark.parametrize("features", [EVERYTHING, OLDEST], ids=["newest", "oldest"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOMEM, "no memory"), MemoryError()], ids=type)
def test_failures(place, monkeypatch, error, after, features):
    """Whichever call of the kernel fails or is interrupted: nothing stays, which the fixture looks at."""
    image = place.image(sample(place.repository))
    used = limited(features)  # probes, before anything breaks
    before = mounted(), descriptors()
    # Counted by function: where others on this machine take a loop device, some calls are made once more.
    steps = {name: itertools.count(1) for name in native_calls()}
    broken = Break(monkeypatch, error, after=after)
    names = []
    while steps:
        broken.name, numbers = next(iter(steps.items()))
        broken.countdown = next(numbers)
        try:
            place.mount(image, features=features).close()
        except (KeyboardInterrupt, MountError, MemoryError):
            names.append(broken.name)
        else:
            del steps[broken.name]
            continue
        broken.countdown = 0
        if broken.name == "unmount" and not after:
            unmount(mounted()[-1].split(" ")[4], lazy=True)  # what cannot be unmounted has to stay
            for path in (place.path / "temporary").iterdir():
                path.rmdir()
        assert (mounted(), descriptors()) == before
        assert list((place.path / "temporary").iterdir()) == []

    assert names.count("fsopen") == names.count("fsmount") == 2
    assert ("move_mount" in names, "unmount" in names) == (not used.detached_layers,) * 2
    assert ("find_loop_device" in names) == (not used.file_backed_erofs)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MountError("read x", errno.EIO)], ids=type)
def test_failure_of_the_check(place, monkeypatch, error):
    """An overlay without contents is not handed out, and ends."""
    image = place.image(sample(place.repository))

    def check_contents(*_):
        raise error

    monkeypatch.setattr("composefs.kernel.images.check_contents", check_contents)
    with pytest.raises(type(error)):
        place.mount(image)


def test_interrupt_before_interrupts_wait(monkeypatch):
    """Where a signal comes just before others are to wait, these do not wait for ever."""
    mask = signal.pthread_sigmask
    usual = mask(signal.SIG_BLOCK, ())

    def interrupted(how, signals):
        before = mask(how, signals)
        if how == signal.SIG_BLOCK and signals:
            raise KeyboardInterrupt
        return before

    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    with pytest.raises(KeyboardInterrupt), attached(-1):
        pass

    assert mask(signal.SIG_BLOCK, ()) == usual


def test_failure_while_attached(place):
    """What is attached for a while is not, after an error; nor if it could not be attached."""
    before = mounted()

    def fail_in(fd):
        with attached(fd):
            assert len(mounted()) == len(before) + 1
            raise ZeroDivisionError

    with opened(place.target) as fd:
        with pytest.raises(MountError, match="^move_mount "):
            fail_in(fd)
        with opened_clone(fd) as clone_fd, pytest.raises(ZeroDivisionError):
            fail_in(clone_fd)

    assert mounted() == before


@contextlib.contextmanager
def opened_clone(fd):
    clone_fd = mounts.clone_mount(fd)
    try:
        yield clone_fd
    finally:
        os.close(clone_fd)


INTERRUPTED = """import os, signal, sys, tempfile
from composefs.kernel import Features, MountOptions, mount_image
from tests.namespaces import mounted, private_mounts

signal.alarm(120)  # if an interrupt is lost
image, objects, tempfile.tempdir = sys.argv[1:]
features = Features("", file_backed_erofs=False, data_only_layers=False)
with private_mounts():
    image_fd, objects_fd = os.open(image, os.O_RDONLY), os.open(objects, os.O_RDONLY)
    before = mounted()
    for _ in range(30):
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("mounts", flush=True)
            while True:
                mount_image(image_fd, [objects_fd], MountOptions("composefs:x"), features).close()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        left = [line for line in mounted() if line not in before] + os.listdir(tempfile.tempdir)
        if left:
            sys.exit(f"left: {left}")
"""


def test_interrupts(place):
    """A signal may come at any time; neither mounts nor directories stay."""
    image = place.image(sample(place.repository))
    command = [sys.executable, "-c", INTERRUPTED, image, place.path / "repository/objects", place.path / "temporary"]
    chance, count = random.Random(1), 0

    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            assert line == "mounts\n"
            time.sleep(chance.uniform(0.002, 0.02))
            child.send_signal(signal.SIGINT)
            count += 1
        said = child.stderr.read()

    assert (child.returncode, said, count) == (0, "", 30)
