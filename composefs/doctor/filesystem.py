"""The file system that a repository is in, or would be."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from composefs import verity
from composefs.digest import BLOCK_SIZE, Algorithm
from composefs.doctor.finding import BOTH, Finding, Job, Status
from composefs.doctor.trial import WORKS, Trial, try_directory
from composefs.mountinfo import MountPoint, find_mount
from composefs.oci.sizes import ARCHIVE_SIZE, OBJECTS
from composefs.privileges import may_use_reserve
from composefs.repository.staging import NO_UNNAMED_FILES
from composefs.text import counted

_LEAST = 1 << 20  # bytes, a guess: with less nothing at all can be imported
_ELSEWHERE = "keep the repository on ext4 (mkfs.ext4 -O verity), btrfs or f2fs"
_WITH_VERITY = frozenset(["ext4", "btrfs", "f2fs"])
_IN_MEMORY = frozenset(["tmpfs", "ramfs"])
_SERVED = frozenset(["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "fuse", "fuseblk"])
_WITHOUT_LINKS = frozenset(["vfat", "msdos", "exfat"])
_NO_ROOM = frozenset([errno.ENOSPC, errno.EDQUOT])


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What is known about the file system of a directory.

    Attributes:
        directory: the directory.
        mount: where it is mounted; None: not to be found out.
        block_size: bytes.
        read_only: it is mounted so.
        writable: this process may make files in the directory, for all that permissions say.
        available: bytes that this process may still use; None: there is no limit.
        inodes: files that it may still make; None: there is no limit.
        knows_verity: whether it has fs-verity; None: the directory cannot be asked.
        trial: what was tried in the directory.
    """

    directory: str
    mount: MountPoint | None
    block_size: int
    read_only: bool
    writable: bool
    available: int | None
    inodes: int | None
    knows_verity: bool | None
    trial: Trial

    @property
    def kind(self) -> str:
        """Its type, as mount(8) calls it."""
        return self.mount.kind if self.mount is not None else "an unknown file system"

    @property
    def device(self) -> str:
        """The device that it is on, as a word of commands."""
        return self.mount.source if self.mount is not None and self.mount.source.startswith("/") else "DEVICE"


def find_file_system(directory: str) -> FileSystem:
    """Return what is known about the file system of *directory*; nothing in it changes.

    Raises:
        OSError: the directory went away.
    """
    stat = os.statvfs(directory)
    knows_verity, trial = None, Trial()
    try:
        dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        pass
    else:
        try:
            knows_verity, trial = verity.is_known(dir_fd), try_directory(dir_fd)
        finally:
            os.close(dir_fd)
    mount, has_reserve = find_mount(directory), may_use_reserve()
    # In memory, no blocks are no limit; elsewhere, as in /proc, there are none to be had.
    is_limited = bool(stat.f_blocks) or mount is None or mount.kind not in _IN_MEMORY
    return FileSystem(
        directory=directory,
        mount=mount,
        block_size=stat.f_bsize,
        read_only=bool(stat.f_flag & os.ST_RDONLY),
        writable=os.access(directory, os.W_OK | os.X_OK, effective_ids=True),
        available=(stat.f_bfree if has_reserve else stat.f_bavail) * stat.f_frsize if is_limited else None,
        inodes=(stat.f_ffree if has_reserve else stat.f_favail) if stat.f_files else None,
        knows_verity=knows_verity,
        trial=trial,
    )


def judge_file_system(
    system: FileSystem, *, algorithm: Algorithm, kernel_verity: bool | None, require_verity: bool
) -> list[Finding]:
    """Return what *system* is good for.

    Args:
        system: what is known about it.
        algorithm: of the repository.
        kernel_verity: whether the kernel has fs-verity at all; None: not known.
        require_verity: whether the kernel must enforce digests.
    """
    return [
        _judge_kind(system),
        _judge_access(system),
        _judge_unnamed_files(system),
        _judge_verity(system, algorithm, kernel_verity=kernel_verity, needed_for=BOTH if require_verity else ()),
        _judge_reflinks(system),
        _judge_space(system),
        _judge_inodes(system),
    ]


def _judge_kind(system: FileSystem) -> Finding:
    status, remedy, remark = Status.OK, None, ""
    if system.kind in _IN_MEMORY:
        status, remedy, remark = Status.DEGRADED, _ELSEWHERE, ": in memory, and lost when the machine stops"
    elif system.kind in _SERVED or system.kind.startswith("fuse."):
        status, remedy = Status.DEGRADED, "keep the repository on a file system of this machine"
        remark = ": locks, links and fs-verity are as good as its server"
    elif system.kind == "overlay":
        status, remedy = Status.DEGRADED, "keep the repository on a volume, or on a disk of its own"
        remark = ": as in a container; images in it may not be mountable"
    elif system.kind in _WITHOUT_LINKS:
        status, remedy, remark = Status.MISSING, _ELSEWHERE, ": it has no symbolic links"
    where = f", {system.mount.source} at {system.mount.path}" if system.mount is not None else ""
    return Finding("filesystem.type", "type", status, f"{system.kind}{where}{remark}", remedy, (Job.IMPORT,))


def _judge_access(system: FileSystem) -> Finding:
    status, remedy = Status.MISSING, None
    if system.read_only:
        found = "mounted read-only"
        where = system.mount.path if system.mount is not None else system.directory
        remedy = f"mount -o remount,rw {where}; only for an import in a shell of unshare -m, as on bootc hosts"
    elif not system.writable:
        found = f"uid {os.geteuid()} has no right to write in {system.directory}"
        remedy = "run it as the owner, or as root, or choose another directory with --repo"
    else:
        status, found = Status.OK, "can be written"
    return Finding("filesystem.access", "access", status, found, remedy, (Job.IMPORT,))


def _judge_unnamed_files(system: FileSystem) -> Finding:
    number, remedy = system.trial.unnamed_files, None
    if number == WORKS:
        status, found = Status.OK, "works"
    elif number in NO_UNNAMED_FILES:
        status, remedy = Status.DEGRADED, "ext4, xfs, btrfs and tmpfs have them"
        found = "none: files get temporary names, and a crash can leave some"
    else:
        status, found = Status.UNKNOWN, _untried(number)
    return Finding("filesystem.unnamed-files", "O_TMPFILE", status, found, remedy)


def _judge_verity(
    system: FileSystem, algorithm: Algorithm, *, kernel_verity: bool | None, needed_for: tuple[Job, ...]
) -> Finding:
    tried, remedy = system.trial.verity, None
    works = [each.hash_name for each, number in tried.items() if number == WORKS]
    if tried.get(algorithm) == WORKS:
        status, found = Status.OK, f"enabled for an unnamed file, by {' and '.join(works)}"
    elif system.knows_verity is None and kernel_verity is not False:
        status, found = Status.UNKNOWN, "the directory cannot be opened"
    elif not system.knows_verity:
        status, found, remedy = Status.MISSING, *_why_no_verity(system, kernel_verity=kernel_verity)
    elif system.block_size < BLOCK_SIZE:
        status, found = Status.MISSING, f"blocks of {system.block_size} bytes; fs-verity needs {BLOCK_SIZE} here"
        remedy = f"make the file system anew: mkfs.{system.kind} -b {BLOCK_SIZE} -O verity {system.device}"
    elif algorithm not in tried or tried[algorithm] in _NO_ROOM:
        status, found = Status.OK, f"the file system has it (not tried: {_untried(system.trial.unnamed_files)})"
    else:
        status, found = Status.MISSING, f"enabling it by {algorithm.hash_name} fails: {os.strerror(tried[algorithm])}"
        if tried[algorithm] == errno.ENOPKG:
            remedy = f"boot a kernel with CONFIG_CRYPTO_{algorithm.hash_name.upper()}"
        else:
            remedy = f"look at the kernel's log (dmesg), or {_ELSEWHERE}"
    if status is Status.MISSING and not needed_for:
        found = f"{found}; digests are checked by programs, not by the kernel"
    return Finding("filesystem.verity", "fs-verity", status, found, remedy, needed_for)


def _why_no_verity(system: FileSystem, *, kernel_verity: bool | None) -> tuple[str, str]:
    """Return what is there instead, and what to do."""
    if kernel_verity is False:
        also = "" if system.kind in _WITH_VERITY else f", and {_ELSEWHERE}"
        return "this kernel has none", f"boot a kernel with CONFIG_FS_VERITY{also}"
    if system.kind != "ext4":
        return f"{system.kind} does not have it with this kernel", _ELSEWHERE
    found = "ext4 has it, but the feature flag is not set"
    if system.block_size < BLOCK_SIZE:
        what = f"it cannot be set with blocks of {system.block_size} bytes: make the file system anew"
        return found, f"{what}: mkfs.ext4 -b {BLOCK_SIZE} -O verity {system.device}"
    return found, f"tune2fs -O verity {system.device}, then mount it anew"


def _judge_reflinks(system: FileSystem) -> Finding:
    number, remedy = system.trial.reflinks, None
    if number == WORKS:
        status, found = Status.OK, "work: files of directories are not copied"
    elif number is None or number in _NO_ROOM:
        status, found = Status.UNKNOWN, _untried(system.trial.unnamed_files if number is None else number)
    else:
        status, found = Status.DEGRADED, "none: create-image and extract copy; imports of OCI images need none"
        remedy = "btrfs and xfs have them; nothing to do for imports"
    return Finding("filesystem.reflinks", "reflinks", status, found, remedy)


def _judge_space(system: FileSystem) -> Finding:
    status, remedy, remark = Status.OK, None, ""
    if system.available is None:
        return Finding("filesystem.space", "space", status, "no limit but the memory", None, (Job.IMPORT,))
    if system.available < ARCHIVE_SIZE:
        status, remark = Status.DEGRADED, f"; a typical OS image takes {ARCHIVE_SIZE / 1e9:.1f} GB"
        remedy = "make room, or choose another file system with --repo"
    if system.available < _LEAST:
        status = Status.MISSING
    found = f"{system.available / 1e9:.1f} GB free{remark}"
    return Finding("filesystem.space", "space", status, found, remedy, (Job.IMPORT,))


def _judge_inodes(system: FileSystem) -> Finding:
    status, remedy, remark = Status.OK, None, ""
    if system.inodes is None:
        return Finding("filesystem.inodes", "inodes", status, "no limit", None, (Job.IMPORT,))
    if system.inodes < OBJECTS:
        status, remark = Status.DEGRADED, f"; a typical OS image has {counted(OBJECTS, 'object')}"
        remedy = "remove files, or choose a file system with more of them (mkfs.ext4 -N)"
    if system.inodes == 0:
        status = Status.MISSING
    return Finding("filesystem.inodes", "inodes", status, f"{system.inodes:,} free{remark}", remedy, (Job.IMPORT,))


def _untried(number: int | None) -> str:
    """Return why something was not tried: the errno of what had to come first."""
    return os.strerror(number) if number else "the directory cannot be opened"
