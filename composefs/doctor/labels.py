"""What SELinux makes of a repository."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from composefs.cpus import read_lines
from composefs.doctor.finding import Finding, Status

_LABEL = "security.selinux"
_NO_LABEL = frozenset([errno.ENODATA, errno.EOPNOTSUPP])
# Types that confined programs must not read, and so cannot run from a mounted image; bootc labels objects as usr_t.
# Source: issue 183 of composefs-rs and pull request 2035 of bootc, with denials of root_t and default_t.
_UNREADABLE = frozenset(["default_t", "file_t", "root_t", "unlabeled_t"])


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known about SELinux.

    Attributes:
        enforcing: whether it denies; None: the kernel does not use it.
        repository: label of the repository's directory; empty: none.
        objects: label of an object; empty: none; None: there are no objects yet, or they cannot be read.
    """

    enforcing: bool | None
    repository: str
    objects: str | None


def find_labels(path: str, sample: str | None, selinuxfs: str = "/sys/fs/selinux") -> Labels:
    """Return the labels of the repository *path*, and of *sample*, one of its objects."""
    mode = next(iter(read_lines(f"{selinuxfs}/enforce")), None)
    objects = _label(sample) if sample is not None else None
    return Labels(None if mode is None else mode == "1", _label(path) or "", objects)


def judge_labels(labels: Labels, path: str) -> Finding:
    """Return what *labels* mean for the mounted images of the repository *path*."""
    status, remedy = Status.OK, None
    label = labels.objects if labels.objects is not None else labels.repository
    what = "objects" if labels.objects is not None else "the directory"
    found = f"{what}: {label}" if label else f"{what}: no label"
    if labels.enforcing is None:
        found = f"not in use; {found}" if label else "not in use"
    elif not label or label.split(":")[2:3] == [] or label.split(":")[2] in _UNREADABLE:
        remedy = f"chcon -R -t usr_t {path}, which is what bootc does"
        if labels.enforcing:
            status, found = Status.DEGRADED, f"enforcing; {found}: confined programs cannot read mounted files"
        else:
            found = f"permissive; {found}: denied if it were enforcing"
    else:
        found = f"{'enforcing' if labels.enforcing else 'permissive'}; {found}"
    return Finding("repository.label", "SELinux", status, found, remedy)


def _label(path: str) -> str | None:
    """Return the label of *path*; empty: it has none; None: it cannot be read."""
    try:
        value = os.getxattr(path, _LABEL, follow_symlinks=False)
    except OSError as error:
        return "" if error.errno in _NO_LABEL else None
    return value.rstrip(b"\0").decode("utf-8", "backslashreplace")
