"""All checks, in the order of the report."""

from __future__ import annotations

import os

from composefs.digest import Algorithm
from composefs.doctor import access, boot, filesystem, kernel, labels, locks, machine, mounting, place, repository
from composefs.doctor.finding import Finding
from composefs.doctor.place import State
from composefs.doctor.repository import Contents
from composefs.hostconfig import HostConfig
from composefs.repository import SYSTEM_PATH


def examine(
    path: str | os.PathLike[str], *, require_verity: bool = False, host: HostConfig | None = None
) -> list[Finding]:
    """Return what this host, and the repository at *path*, are fit for.

    Nothing is changed: files that are made have no name, and what is mounted is seen by nobody.

    Args:
        path: a repository, or where one would be.
        require_verity: whether to do without fs-verity is no choice.
        host: where to look for what this host says of registries and images; None: not at all.

    Returns:
        What was found, in groups: ids of one begin with the same word.

    Raises:
        OSError: *path* changed meanwhile.
    """
    where = place.find_place(os.fspath(path))
    contents = _look_inside(where.path) if where.state is State.REPOSITORY else None
    meta, sample = (contents.meta, contents.sample.intact) if contents is not None else (None, None)
    algorithm, version = (meta.algorithm, meta.erofs_versions[0]) if meta is not None else (Algorithm.SHA512, 1)
    require_verity = require_verity or (contents is not None and contents.sealed)
    system = filesystem.find_file_system(where.directory)
    core = kernel.find_kernel()
    attempt = None
    if core.may_mount and where.state is not State.CLOSED:
        attempt = mounting.try_mount(where.directory, sample, algorithm, version, require_verity=require_verity)
    findings = [
        *kernel.judge_kernel(core, require_verity=require_verity),
        mounting.judge_mount(attempt, may_mount=core.may_mount),
        mounting.judge_fuse(mounting.find_fuse_obstacle(), may_mount=core.may_mount),
        *filesystem.judge_file_system(
            system, algorithm=algorithm, kernel_verity=core.has_verity, require_verity=require_verity
        ),
        place.judge_place(where),
    ]
    if contents is not None:
        findings += repository.judge_contents(contents, require_verity=require_verity)
        findings.append(locks.judge_locks(locks.find_locks(where.path)))
        findings.append(labels.judge_labels(labels.find_labels(where.path, sample), where.path))
        if os.path.realpath(where.path) == SYSTEM_PATH:  # another one is not booted from
            findings.append(boot.judge_selection(boot.find_selection(where.path), sealed=contents.sealed))
    if host is not None:
        findings += map(access.judge_reading, access.find_readings(host))
    findings += map(machine.judge_hashing, machine.find_hashing())
    return findings + machine.judge_libraries(machine.find_libraries())


def _look_inside(path: str) -> Contents:
    dir_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return repository.find_contents(dir_fd, path)
    finally:
        os.close(dir_fd)
