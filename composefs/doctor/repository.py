"""A repository: what it says of itself, who may do what in it, and whether some of its objects are whole."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from composefs import verity
from composefs.digest import Algorithm, Digest
from composefs.doctor.finding import BOTH, Finding, Job, Status
from composefs.errors import ComposefsError, IntegrityError, RepositoryError
from composefs.repository import create, meta
from composefs.repository.meta import Meta
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.text import counted, describe_failure

_SAMPLE_MAX = 16  # objects, each from another directory
_DIRECTORIES = (".", OBJECTS, "streams", "streams/refs", "images", "images/refs")
_SHOWN_MAX = 3  # paths in one line


@dataclass(frozen=True, slots=True)
class Sample:
    """Some objects.

    Attributes:
        count: how many.
        intact: path of one that is what its name says, for all that is known; None: there is none.
        sealed: how many have the digest that their name says, by fs-verity.
        unsealed: how many have no fs-verity.
        broken: paths of those that are not what their name says, or no files, or cannot be opened, with what is wrong.
    """

    count: int = 0
    intact: str | None = None
    sealed: int = 0
    unsealed: int = 0
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """What is known about a repository.

    Attributes:
        path: its directory.
        owner: user id of its directory.
        mode: permissions of its directory.
        meta: what its `meta.json` says, or its objects if there is none; None: nothing says.
        sealed: the kernel must enforce every digest.
        legacy: there is no `meta.json`.
        problem: why *meta* is None.
        unsafe: directories below it, and itself, that everybody may write in.
        sample: some of its objects.
    """

    path: str
    owner: int
    mode: int
    meta: Meta | None
    sealed: bool = False
    legacy: bool = False
    problem: str = ""
    unsafe: tuple[str, ...] = ()
    sample: Sample = Sample()


def find_contents(dir_fd: int, path: str) -> Contents:
    """Return what is known about the repository *dir_fd*, which is *path*."""
    found = os.fstat(dir_fd)
    owner, mode = found.st_uid, stat.S_IMODE(found.st_mode)
    names = _sample_names(dir_fd)
    unsafe = tuple(name for name in _unsafe_directories(dir_fd, [os.path.dirname(name) for name in names]))
    legacy = False
    try:
        try:
            what, sealed = meta.read(dir_fd, path)
        except FileNotFoundError:
            legacy = True
            algorithm, sealed = create.infer(dir_fd, path)
            what = Meta.new(algorithm)
    except (ComposefsError, OSError) as error:
        problem = describe_failure(error) if isinstance(error, OSError) else str(error)
        return Contents(path, owner, mode, None, legacy=legacy, problem=problem, unsafe=unsafe)
    return Contents(path, owner, mode, what, sealed, legacy, "", unsafe, _look_at(dir_fd, names, what.algorithm))


def judge_contents(contents: Contents, *, require_verity: bool) -> list[Finding]:
    """Return what *contents* are good for; *require_verity* says whether the kernel must enforce digests."""
    findings = [_judge_meta(contents), _judge_permissions(contents)]
    if contents.meta is not None:
        findings += [_judge_seal(contents, contents.meta, require_verity=require_verity), _judge_sample(contents)]
    return findings


def _judge_meta(contents: Contents) -> Finding:
    path, found = "repository.metadata", contents.problem
    if contents.meta is None:
        if contents.legacy:
            remedy = "composefs init --algorithm ... makes a new one there; objects are kept"
        else:
            remedy = "composefs init --reset-metadata makes a new one: names are lost, objects are kept"
        return Finding(path, "meta.json", Status.MISSING, found, remedy, BOTH)
    try:
        contents.meta.check(contents.path)
    except RepositoryError as error:
        return Finding(path, "meta.json", Status.MISSING, error.what, "use a later version of composefs", BOTH)
    versions = ", ".join(f"V{version}" for version in contents.meta.erofs_versions)
    found = f"{contents.meta.algorithm.value}, images of EROFS format {versions}"
    if contents.meta.unknown_features:
        found = f"unknown features: {', '.join(contents.meta.unknown_features)}; it can only be read"
        remedy = "use a later version of composefs"
        return Finding(path, "meta.json", Status.MISSING, found, remedy, (Job.IMPORT,))
    if contents.legacy:
        found = f"none, as old tools made it; by its objects {contents.meta.algorithm.value}"
        return Finding(path, "meta.json", Status.DEGRADED, found, "composefs init --ensure writes it", BOTH)
    return Finding(path, "meta.json", Status.OK, found, None, BOTH)


def _judge_permissions(contents: Contents) -> Finding:
    found = f"owner uid {contents.owner}, mode {contents.mode:04o}"
    status, remedy = Status.OK, None
    if contents.owner not in (0, os.geteuid()):
        status = Status.DEGRADED
        found = f"{found}; that user may change what is in it, also while you use it or have it mounted"
        remedy = "import into a repository of your own; composefs oci copy takes nothing unchecked"
    if contents.unsafe:
        shown = ", ".join(contents.unsafe[:_SHOWN_MAX])
        more = f" and {len(contents.unsafe) - _SHOWN_MAX} more" if len(contents.unsafe) > _SHOWN_MAX else ""
        status, found = Status.DEGRADED, f"{found}; everybody may replace what is in {shown}{more}"
        remedy = f"chmod -R o-w {contents.path}"
    return Finding("repository.permissions", "permissions", status, found, remedy)


def _judge_seal(contents: Contents, what: Meta, *, require_verity: bool) -> Finding:
    if contents.sealed:
        hash_name = what.algorithm.hash_name
        found = f"required: the kernel enforces every digest, {hash_name}"
        return Finding("repository.verity", "verity policy", Status.OK, found)
    found = "not required: digests are checked when something is imported, and by fsck"
    remedy = "for enforcement import into a new repository on a file system with fs-verity"
    status = Status.MISSING if require_verity else Status.DEGRADED
    return Finding("repository.verity", "verity policy", status, found, remedy, BOTH if require_verity else ())


def _judge_sample(contents: Contents) -> Finding:
    sample, remedy = contents.sample, None
    title, count = "objects", counted(sample.count, "object")
    if not sample.count:
        return Finding("repository.objects", title, Status.OK, "none yet")
    if sample.broken:
        status, found = Status.MISSING, f"of {count} looked at: {'; '.join(sample.broken[:_SHOWN_MAX])}"
    elif contents.sealed and sample.unsealed:
        status, found = Status.MISSING, f"{sample.unsealed} of {count} looked at have no fs-verity: reading them fails"
    else:
        status, found = Status.OK, f"{count} looked at: {sample.sealed} with fs-verity, each as its name says"
        if not sample.sealed:
            found = f"{count} looked at: none has fs-verity"
    if status is Status.MISSING:
        remedy = "composefs fsck finds all of them and what they hurt; then import the image again"
    return Finding("repository.objects", title, status, found, remedy, (Job.MOUNT,))


def _unsafe_directories(dir_fd: int, some: list[str]) -> list[str]:
    """Return where everybody may replace files, of the directories at the top and *some*: without the sticky bit."""
    unsafe = []
    for name in (*_DIRECTORIES, *some):
        try:
            mode = os.stat(name, dir_fd=dir_fd).st_mode
        except OSError:  # is told by others
            continue
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            unsafe.append(name)
    return unsafe


def _sample_names(dir_fd: int) -> list[str]:
    """Return the paths of some objects, evenly from all directories."""
    directories = [name for name in _names(dir_fd, OBJECTS) if len(name) == 2]
    step = max(1, len(directories) // _SAMPLE_MAX)
    names = []
    for directory in directories[::step][:_SAMPLE_MAX]:
        path = f"{OBJECTS}/{directory}"
        names += [f"{path}/{name}" for name in _names(dir_fd, path)[:1]]
    return names


def _names(dir_fd: int, path: str) -> list[str]:
    """Return the names in the directory *path*, sorted; none if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _look_at(dir_fd: int, names: list[str], algorithm: Algorithm) -> Sample:
    sealed, unsealed, broken, intact = 0, 0, [], None
    for name in names:
        try:
            is_sealed = _is_sealed(dir_fd, name, algorithm)
        except OSError as error:
            broken.append(f"{name}: {error.strerror}")
        except IntegrityError as error:
            broken.append(f"{name}: wanted {error.wanted}, got {error.got}")
        else:
            sealed += is_sealed
            unsealed += not is_sealed
            intact = intact or name
    return Sample(len(names), intact, sealed, unsealed, tuple(broken))


def _is_sealed(dir_fd: int, path: str, algorithm: Algorithm) -> bool:
    """Return whether fs-verity confirms the name of an object; False if it has none.

    Raises:
        OSError: it cannot be opened.
        IntegrityError: its name is no digest, it is no file, or the kernel enforces another digest.
    """
    _, directory, rest = path.split("/")
    try:
        digest = Digest.from_hex(algorithm, directory + rest)
    except ValueError:
        raise IntegrityError(path, f"a {algorithm.hash_name} digest", "another name") from None
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise IntegrityError(path, "a regular file", "something else")
        measured = verity.measure(fd, algorithm)
    finally:
        os.close(fd)
    if measured is not None and measured != digest:
        raise IntegrityError(path, "the digest that its name says", measured.hex)
    return measured is not None
