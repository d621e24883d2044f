"""Images served by FUSE: the same files as by a mount of the kernel, also when much is read, broken, or killed.

All of it happens in a mount namespace of its own.
"""

import errno
import fcntl
import logging
import os
import pickle
import random
import resource
import select
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, MountError, NotFoundError, fuse, import_image, kernel
from composefs.cli import main
from composefs.fuse import background
from composefs.image import Image
from composefs.mount import mount_image
from tests import commands, images, namespaces
from tests.golden import vectors
from tests.images import directory, external, inline, symlink
from tests.tools import require_root
from tests.trees_on_disk import ACL, make_everything

VERSIONS = [0, 1, 2]
# Whose layers differ in more than how they are packed, or in their number.
OCI_IMAGES = [name for name in vectors.image_names() if not name.startswith(("compression", "framing", "files-"))]


@pytest.fixture(autouse=True)
def mounts():
    """Mounts that nobody else sees, and that are gone in the end."""
    require_root("mounts")
    if (reason := fuse.is_available()) is not None:
        require = pytest.fail if os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1" else pytest.skip
        require(reason)
    with namespaces.private_mounts():
        before = set(namespaces.mounted())
        yield
        for line in reversed(namespaces.mounted()):  # of a test that failed: a server would keep the namespace
            if line not in before:
                kernel.unmount(line.split(" ")[4], lazy=True)


@pytest.fixture
def target(tmp_path):
    """An empty directory."""
    path = tmp_path / "mounted"
    path.mkdir()
    return path


@contextmanager
def served(image, target, **options):
    """Serve *image* by a thread."""
    is_ready, failures = threading.Event(), []

    def serve():
        try:
            fuse.serve(image, target, ready=is_ready.set, **options)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            is_ready.set()

    thread, threads = threading.Thread(target=serve), thread_count()
    thread.start()
    assert is_ready.wait(10)
    assert failures == []
    try:
        yield
    finally:
        kernel.unmount(str(target), lazy=True)
        thread.join(10)
    assert not thread.is_alive()
    assert commands.wait_until(lambda: thread_count() <= threads)  # the last one shares what setns(2) wants alone


def thread_count():
    """Return how many threads this process has, in the eyes of the kernel."""
    return len(os.listdir("/proc/self/task"))


@contextmanager
def mounted(repository, name, target):
    """Let the kernel mount the image *name*."""
    with mount_image(repository, name) as mount:
        mount.attach(str(target))
    try:
        yield
    finally:
        kernel.unmount(str(target))


def observe(root):
    """Return all that is to be seen at *root* and below it, by path."""
    found, first, todo = {}, {}, [b""]
    while todo:
        place = todo.pop()
        path = os.fsencode(root) + place
        info = os.lstat(path)
        seen = [oct(info.st_mode), info.st_uid, info.st_gid, info.st_rdev, info.st_nlink, info.st_size]
        seen += [info.st_mtime_ns, info.st_atime_ns, info.st_ctime_ns, info.st_blocks, info.st_blksize]
        names = os.listxattr(path, follow_symlinks=False)
        seen.append({name: attempt(os.getxattr, path, name, follow_symlinks=False) for name in names})
        if stat.S_ISDIR(info.st_mode):
            with os.scandir(path) as entries:
                types = {each.name: (each.is_dir(follow_symlinks=False), each.is_symlink()) for each in entries}
            for name in list(types):
                if not os.path.lexists(path + b"/" + name):
                    del types[name]  # a whiteout as it is, which the kernel lists, though it cannot be looked at
            seen.append(types)
            todo += sorted((place + b"/" + name for name in types), reverse=True)
        else:
            seen.append(first.setdefault(info.st_ino, place))
        if stat.S_ISREG(info.st_mode):
            seen.append(attempt(read, path))
        elif stat.S_ISLNK(info.st_mode):
            seen.append(attempt(os.readlink, path))
        found[place] = seen
    return found


def attempt(call, *arguments, **options):
    """Return what *call* returns, or the errno with which it fails."""
    try:
        return call(*arguments, **options)
    except OSError as error:
        return error.errno


def read(path):
    """Return the content of a file."""
    with open(path, "rb") as file:
        return file.read()


def make_more(root):
    """Add to a tree what `make_everything` has not: what FUSE servers get wrong."""
    (root / "usr/long").symlink_to("long/" * 600)  # which epoch 1 has in a block
    (root / "usr/overlay").write_bytes(b"x" * 100)
    for name in ("trusted.overlay.opaque", "trusted.overlay.overlay.redirect", "user.overlay.whiteout"):
        os.setxattr(root / "usr/overlay", name, b"y")
    (root / "many").mkdir()
    for number in range(1000):
        (root / "many" / f"{number}-{'n' * (number % 200)}").touch()
    for stub in ("00", "a7"):
        (root / stub).write_bytes(b"no stub")


@pytest.fixture(scope="module")
def everything():
    """A directory with everything in it, on a tmpfs."""
    require_root("owners, devices and trusted xattrs")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as path:
        root = Path(path) / "source"
        make_everything(root)
        make_more(root)
        yield root


@pytest.mark.parametrize("version", VERSIONS)
def test_everything(everything, tmp_path, target, version):
    """Everything that a file system can have looks as in a mount by the kernel."""
    path = tmp_path / "repository"
    composefs.Repository.init(path, Algorithm.SHA256, erofs_version=version, require_verity=False)
    create = ["create-image", "--no-propagate-usr-to-root", str(everything), "os"]
    assert main(["--repo", str(path), *create]) == 0
    with composefs.Repository.open(path) as repository:
        with mounted(repository, "os", target):
            wanted = observe(target)
        with Image.open(repository, "os") as image, served(image, target):
            found = observe(target)
            again = observe(target)  # from what the kernel has kept

    assert len(found) > 1000
    assert found == wanted
    assert again == wanted


@pytest.mark.parametrize("name", OCI_IMAGES)
def test_oci_images(tmp_path, target, name):
    """So do the images that are made of the layers of OCI images."""
    path = tmp_path / "repository"
    composefs.Repository.init(path, Algorithm.SHA512, require_verity=False)
    with composefs.Repository.open(path) as repository:
        import_image(repository, f"oci:{vectors.write_layout(name, tmp_path / 'layout')}", name="os")
        with mounted(repository, "os", target):
            wanted = observe(target)
        with Image.open(repository, "os") as image, served(image, target):
            assert observe(target) == wanted


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A repository with an image of 10,000 files, small and large, in the image and outside; and those by path."""
    path = tmp_path_factory.mktemp("crowd") / "repository"
    composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
    dice = random.Random(6)
    contents = {}
    for number in range(10_000):
        size = dice.choice((0, 10, 64, 65, 500, 4096, 9000))
        contents[f"d{number % 100}/f{number}"] = dice.randbytes(size)
    contents["d0/f0"] = dice.randbytes(5_000_000)
    tree = directory({f"d{group}": directory() for group in range(100)})
    with composefs.Repository.open(path) as repository:
        for name, data in contents.items():
            group, _, base = name.partition("/")
            node = inline(data) if len(data) <= 64 else external(repository, data)
            tree.entries[os.fsencode(group)].entries[os.fsencode(base)] = node
        images.open_tree(repository, tree).close()
    return str(path), contents


@pytest.fixture
def place(crowd):
    """Where that image is, for a process of its own."""
    return fuse.RepositoryImage(crowd[0], "image")


@pytest.fixture
def many(crowd):
    """The contents of its files, by path."""
    return crowd[1]


def has_ended(pid):
    """Tell whether a process has ended, also if nobody has waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def check_gone(pid, target):
    """Check that a server has ended, and that nothing is mounted."""
    assert commands.wait_until(lambda: has_ended(pid))
    assert not any(f" {target} " in line for line in namespaces.mounted())
    assert list(target.iterdir()) == []


def test_eight_readers(many, place, target):
    """10,000 files are read by 8 readers at once, and each gets its own content."""
    pid = fuse.start(place, target)
    names = list(many)
    random.Random(7).shuffle(names)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: (target / name).read_bytes() == many[name], names))

    assert len(found) == 10_000
    assert all(found)
    kernel.unmount(str(target))
    check_gone(pid, target)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle(many, place, target, number):
    """When the server is killed, its readers fail, and none waits or gets something else; then all begins anew."""
    pid = fuse.start(place, target)
    results, reasons = {"read": 0, "failed": 0}, set()
    lock = threading.Lock()

    def reader(names):
        for name in names:
            try:
                content = (target / name).read_bytes()
            except OSError as error:
                with lock:
                    results["failed"] += 1
                    reasons.add(error.errno)
            else:
                assert content == many[name]
                with lock:
                    results["read"] += 1
                    if results["read"] == 1000:
                        os.kill(pid, number)

    names = list(many)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(reader, names[start::8]) for start in range(8)]:
            future.result(60)

    assert results["read"] >= 1000
    assert results["failed"] > 1000
    if number == signal.SIGKILL:
        assert reasons <= {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
        assert attempt(os.stat, target / "nothing") == errno.ENOTCONN
        kernel.unmount(str(target))
    else:  # which unmounts, so that files are gone
        assert reasons <= {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENOENT}
    check_gone(pid, target)
    again = fuse.start(place, target)
    assert (target / names[1]).read_bytes() == many[names[1]]
    kernel.unmount(str(target))
    check_gone(again, target)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(place, target, number):
    """A signal unmounts, and ends the server."""
    pid = fuse.start(place, target)
    assert (target / "d1").is_dir()

    os.kill(pid, number)

    check_gone(pid, target)


def test_foreground_signal(place, target, tmp_path):
    """So it does in the foreground, where the program has a handler of its own; and the program goes on then."""
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, sys, composefs\n"
        "from composefs import fuse\n"
        "from composefs.image import Image\n"
        "handler = signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True)) and None\n"
        "with composefs.Repository.open(sys.argv[1]) as repository, Image.open(repository, 'image') as image:\n"
        "    fuse.serve(image, sys.argv[2], ready=lambda: print('ready', flush=True))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('done')\n"
    )
    command = [sys.executable, script, place.path, target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=commands.ROOT) as process:
        assert process.stdout.readline() == "ready\n"
        assert (target / "d1").is_dir()
        process.terminate()
        out, _ = process.communicate(timeout=10)

    assert process.returncode == 0
    assert out == "handled\ndone\n"
    check_gone(process.pid, target)


def test_broken_object(repository, target, caplog):
    """A broken object is EIO and a line in the log; all else is read."""
    broken, good = external(repository, b"broken" * 1000), external(repository, b"good" * 1000)
    tree = directory({"broken": broken, "good": good, "same": broken, "small": inline(b"small")})
    digest = broken.content.digest.hex()
    path = Path(repository.path, "objects", digest[:2], digest[2:])
    path.chmod(0o600)
    with images.open_tree(repository, tree) as image, path.open("r+b") as file, served(image, target):
        file.write(b"B")
        file.flush()

        assert attempt(read, target / "broken") == errno.EIO
        assert attempt(read, target / "same") == errno.EIO
        assert read(target / "good") == b"good" * 1000
        assert read(target / "small") == b"small"
        assert attempt(os.stat, target / "broken").st_size == 6000

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"composefs:{image.id.hex}: /broken: ")
    assert digest[2:] in record.getMessage()


def test_large_directory(repository, target):
    """A directory of 100,000 entries is listed whole, from anywhere, and every one of them is found."""
    leaf = inline(b"same")
    names = {f"entry-{number:06}" for number in range(100_000)}
    image = images.open_tree(repository, directory({"large": directory(dict.fromkeys(names, leaf))}))
    with image, served(image, target):
        assert set(os.listdir(target / "large")) == names
        assert (target / "large/entry-099999").stat().st_nlink == 100_000
        with os.scandir(target / "large") as entries:
            for _ in range(5000):
                next(entries)
            assert len(list(entries)) == 95_000
        for number in range(0, 100_000, 1000):
            assert (target / f"large/entry-{number:06}").read_bytes() == b"same"
        assert not (target / "large/entry-100000").exists()


def test_access(repository):
    """Modes and access control lists are heeded, as they are by the kernel."""
    acl = ACL[:-8] + b"\x20\0\0\0" + ACL[-4:]  # others may do nothing
    tree = directory(
        {
            "all": inline(b"all"),
            "root": inline(b"root", mode=0o600),
            "group": inline(b"group", mode=0o640, gid=1000),
            "listed": inline(b"listed", mode=0o770, xattrs={b"system.posix_acl_access": acl}),
            "locked": directory({"in": inline(b"in")}, mode=0o700),
        }
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as path:
        os.chmod(path, 0o755)
        target = Path(path, "mounted")
        target.mkdir()
        with images.open_tree(repository, tree) as image:
            with mounted(repository, "image", target):
                wanted = readable(target)
            with served(image, target, allow_other=True):
                assert readable(target) == wanted
            with served(image, target):
                assert readable(target) == {1000: [], 1001: []}
    assert wanted == {1000: ["all", "group", "listed"], 1001: ["all"]}


def readable(target):
    """Return which files users who are nobody special can read."""
    paths = ["all", "group", "listed", "locked/in", "root"]

    def can_read(user, path):
        command = ["cat", target / path]
        done = subprocess.run(command, user=user, group=user, extra_groups=[], capture_output=True, check=False)
        return done.returncode == 0

    return {user: [path for path in paths if can_read(user, path)] for user in (1000, 1001)}


def test_mounted_by_root(repository):
    """What root mounts by the command is there for all, as by the kernel, and permissions are heeded."""
    tree = directory({"all": inline(b"all"), "root": inline(b"root", mode=0o600)})
    images.open_tree(repository, tree).close()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as path:
        os.chmod(path, 0o755)
        assert main(["--repo", repository.path, "mount", "--fuse", "image", path]) == 0
        assert readable(Path(path)) == {1000: ["all"], 1001: ["all"]}
        assert main(["umount", path]) == 0


def test_attributes_for_root(repository):
    """Names of attributes that only root can read are shown to nobody else."""
    tree = directory({"f": inline(xattrs={b"trusted.a": b"1", b"user.b": b"2"})})
    images.open_tree(repository, tree).close()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as path:
        os.chmod(path, 0o755)
        pid = fuse.start(fuse.RepositoryImage(repository.path, "image"), path, allow_other=True)
        assert set(os.listxattr(f"{path}/f")) == {"trusted.a", "user.b"}
        child = os.fork()
        if child == 0:
            os.setresuid(1000, 1000, 1000)
            os._exit(os.listxattr(f"{path}/f") != ["user.b"])
        assert os.waitpid(child, 0)[1] == 0
        kernel.unmount(path)
        assert commands.wait_until(lambda: has_ended(pid))


def test_names_of_the_mount(repository, target):
    """The kernel tells what is mounted, whatever it is called, and that it is read-only."""
    with images.open_tree(repository, directory()) as image:
        with served(image, target):
            fields = namespaces.mounted()[-1].split(" ")
            assert fields[4] == str(target)
            assert fields[5].split(",") == ["ro", "nosuid", "nodev", "relatime"]
            assert fields[-3:-1] == ["fuse.composefs", f"composefs:{image.id.hex}"]
            assert attempt((target / "new").touch) == errno.EROFS
            assert os.statvfs(target).f_namemax == 255
        with served(image, target, source="a,b\\c d"):
            assert namespaces.mounted()[-1].split(" ")[-2] == "a,b\\134c\\040d"


def test_links_to_nowhere(repository, target):
    """Targets of links are those of the image, of any bytes."""
    targets = {"a": b"\xff\n", "b": b"x" * 4095, "c": b"/etc/../" * 300}
    with (
        images.open_tree(repository, directory({name: symlink(text) for name, text in targets.items()})) as image,
        served(image, target),
    ):
        for _ in range(2):
            assert {name: os.readlink(os.fsencode(target / name)) for name in targets} == targets


def test_ready_fails(repository, target):
    """What `ready` raises ends it all."""

    def ready():
        raise KeyError("a reason")

    with images.open_tree(repository, directory()) as image, pytest.raises(KeyError, match="a reason"):
        fuse.serve(image, target, ready=ready)

    assert list(target.iterdir()) == []
    assert not any(f" {target} " in line for line in namespaces.mounted())


def test_image_file(repository, target, tmp_path):
    """An image in a file, with a directory of objects, is served, too, by paths that are relative."""
    data = b"data" * 100
    with images.open_tree(repository, directory({"f": external(repository, data)})) as image:
        file = Path(repository.path, "images", image.id.hex)
    pid = fuse.start(
        fuse.ImageFile(os.path.relpath(file), os.path.relpath(Path(repository.path, "objects"))),
        os.path.relpath(target),
    )

    assert (target / "f").read_bytes() == data
    assert namespaces.mounted()[-1].split(" ")[-2] == f"composefs:{file}"

    kernel.unmount(str(target))
    check_gone(pid, target)


def test_server_in_the_background(repository, target):
    """The server has the descriptors that it needs, a session of its own, and the shared lock, as long as it runs."""
    images.open_tree(repository, directory()).close()
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)

    pid = fuse.start(fuse.RepositoryImage(repository.path, "image"), target)

    os.close(writing)
    assert os.read(reading, 1) == b""  # nobody else has it
    os.close(reading)
    process = Path(f"/proc/{pid}")
    opened = sorted(os.readlink(file) for file in (process / "fd").iterdir())
    assert set(opened) - {"/dev/null", "/dev/fuse"} == {
        repository.path,
        f"{repository.path}/objects",
        str(Path(repository.path, "images/refs/image").resolve()),
    }
    assert os.readlink(process / "cwd") == "/"
    assert os.getsid(pid) not in {os.getsid(0), 0}
    repository.close()
    lock = os.open(repository.path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    kernel.unmount(str(target))
    check_gone(pid, target)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


def test_errors_of_the_server(place, repository, target):
    """What the server finds wrong is raised by whoever started it, and nothing is mounted."""
    with pytest.raises(NotFoundError, match="nothing"):
        fuse.start(fuse.RepositoryImage(repository.path, "nothing"), target)
    with pytest.raises(NotFoundError, match="no repository"):
        fuse.start(fuse.RepositoryImage(f"{repository.path}-", "image"), target)
    with pytest.raises(composefs.FormatError, match="no composefs image"):
        fuse.start(fuse.ImageFile(__file__, repository.path), target)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        fuse.start(place, target / "elsewhere")
    with pytest.raises(NotADirectoryError):
        fuse.start(place, __file__)
    assert list(target.iterdir()) == []


def test_libfuse_fails(place, target, monkeypatch):
    """What libfuse prints is in the error."""
    careless = "from composefs.fuse import server\nserver.check = lambda _: None\nrun()\n"
    monkeypatch.setattr(background, "_PROGRAM", background._PROGRAM.replace("run()\n", careless))
    monkeypatch.setattr(background, "check", lambda _: None)

    with pytest.raises(MountError, match=r"elsewhere.*: No such file or directory"):
        fuse.start(place, target / "elsewhere")


def test_server_dies(place, target, monkeypatch):
    """A server that dies before it serves is told as that."""
    monkeypatch.setattr(background, "_PROGRAM", "import os, sys; print('its last words', file=sys.stderr); os._exit(3)")

    with pytest.raises(MountError, match="the server died.*its last words"):
        fuse.start(place, target)


def serving_command(place, target):
    """Return a command that starts a server, and prints its process id if all is well."""
    script = (
        "import os, sys, composefs; from composefs import fuse\n"
        "pid = fuse.start(fuse.RepositoryImage(sys.argv[1], 'image'), sys.argv[2])\n"
        "with open(sys.argv[3], 'w') as file: file.write(str(pid))\n"
    )
    return [sys.executable, "-P", "-c", script, place.path, str(target), str(target.parent / "pid")]


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1), (0, 1, 2)])
def test_closed_streams(place, target, closed):
    """A caller whose standard streams are closed is told the truth, too."""

    def close():
        for fd in closed:
            os.close(fd)

    command = serving_command(place, target)
    subprocess.run(command, preexec_fn=close, check=True, cwd=commands.ROOT, env={"PYTHONPATH": str(commands.ROOT)})

    pid = int((target.parent / "pid").read_text())
    assert (target / "d1").is_dir()
    kernel.unmount(str(target))
    check_gone(pid, target)


def test_odd_caller(place, target, tmp_path):
    """Nor does a removed directory, blocked and ignored signals, few descriptors, or what prints at each start."""
    (tmp_path / "sitecustomize.py").write_text("print('hello')")
    gone = tmp_path / "gone"
    gone.mkdir()

    def prepare():
        os.chdir(gone)
        gone.rmdir()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))

    command = serving_command(place, target)
    environment = {"PYTHONPATH": f"{tmp_path}:{commands.ROOT}", "TMPDIR": "/nowhere"}
    subprocess.run(command, preexec_fn=prepare, check=True, env=environment, stdout=subprocess.DEVNULL)

    pid = int((target.parent / "pid").read_text())
    for number in range(100):
        assert len(os.listdir(target / f"d{number}")) == 100
    for name in [f"d1/f{number}" for number in range(1, 10_000, 100)]:
        assert os.path.getsize(target / name) == len(read(target / name))
    os.kill(pid, signal.SIGTERM)
    check_gone(pid, target)


def test_image_is_changed(repository, target):
    """What is done to the file of the image later is not seen: it was proved before."""
    tree = directory({"f": inline(b"content"), "d": directory({"e": inline(b"more")})})
    with images.open_tree(repository, tree) as image:
        file = Path(repository.path, "images", image.id.hex).resolve()
        with served(image, target):
            file.chmod(0o600)
            os.truncate(file, 0)
            assert read(target / "f") == b"content"
            assert read(target / "d/e") == b"more"
            assert os.listdir(target / "d") == ["e"]


def test_image_was_changed(repository, target):
    """If it was changed before, but after it was opened, it is not served."""
    with images.open_tree(repository, directory({"f": inline(b"content")})) as image:
        file = Path(repository.path, "images", image.id.hex).resolve()
        data = file.read_bytes()
        file.chmod(0o600)
        with file.open("r+b") as writable:
            writable.write(data.replace(b"content", b"CONTENT"))

        with pytest.raises(composefs.IntegrityError, match=image.id.hex):
            fuse.serve(image, target)


def test_caller_has_gone(place, target):
    """A server whose caller did not wait serves nobody."""
    reading, writing = os.pipe()
    os.close(reading)
    end, alive = os.pipe()  # the server holds the second, unknowingly
    request = background._Request(place, str(target), None, False)
    subprocess.run(
        [sys.executable, "-c", background._PROGRAM],
        input=pickle.dumps(sys.path) + pickle.dumps(request),
        stdout=writing,
        stderr=subprocess.DEVNULL,
        pass_fds=[alive],
        check=True,
    )
    os.close(writing)
    os.close(alive)

    assert select.select([end], [], [], 10)[0] == [end]
    assert os.read(end, 1) == b""
    os.close(end)
    assert list(target.iterdir()) == []
    assert not any(f" {target} " in line for line in namespaces.mounted())
