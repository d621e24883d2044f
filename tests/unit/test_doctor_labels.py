"""What SELinux makes of repositories."""

import errno
import os

import pytest

from composefs.doctor import Status
from composefs.doctor.labels import Labels, find_labels, judge_labels

CONTEXT = "system_u:object_r:{}:s0"


@pytest.mark.parametrize(
    ("labels", "status", "found"),
    [
        (Labels(None, "", None), Status.OK, "not in use"),
        (
            Labels(None, CONTEXT.format("var_t"), None),
            Status.OK,
            f"not in use; the directory: {CONTEXT.format('var_t')}",
        ),
        (Labels(True, "", CONTEXT.format("usr_t")), Status.OK, f"enforcing; objects: {CONTEXT.format('usr_t')}"),
        (Labels(True, CONTEXT.format("usr_t"), CONTEXT.format("root_t")), Status.DEGRADED, "cannot read mounted files"),
        (
            Labels(True, CONTEXT.format("default_t"), None),
            Status.DEGRADED,
            "the directory: system_u:object_r:default_t",
        ),
        (Labels(True, CONTEXT.format("usr_t"), ""), Status.DEGRADED, "enforcing; objects: no label"),
        (Labels(True, "", "nonsense"), Status.DEGRADED, "nonsense"),
        (Labels(False, "", CONTEXT.format("unlabeled_t")), Status.OK, "permissive; objects: system_u"),
        (Labels(False, "", CONTEXT.format("usr_t")), Status.OK, "permissive; objects: system_u:object_r:usr_t:s0"),
    ],
)
def test_labels(labels, status, found):
    """Labels that are known to keep confined programs out are told."""
    finding = judge_labels(labels, "/srv/repo")

    assert (finding.status, finding.prevents) == (status, ())
    assert found in finding.found
    if status is Status.DEGRADED:
        assert finding.remedy == "chcon -R -t usr_t /srv/repo, which is what bootc does"


def test_labels_are_read(tmp_path, monkeypatch):
    """The mode is that of selinuxfs, labels are extended attributes."""
    (tmp_path / "enforce").write_text("1")
    values = {"/repo": b"system_u:object_r:usr_t:s0\0", "/repo/object": OSError(errno.ENODATA, "no")}

    def getxattr(path, name, *, follow_symlinks):
        assert (name, follow_symlinks) == ("security.selinux", False)
        value = values[path]
        if isinstance(value, OSError):
            raise value
        return value

    monkeypatch.setattr(os, "getxattr", getxattr)

    assert find_labels("/repo", "/repo/object", str(tmp_path)) == Labels(True, "system_u:object_r:usr_t:s0", "")
    values["/repo/object"] = PermissionError(errno.EACCES, "no")
    (tmp_path / "enforce").write_text("0")
    assert find_labels("/repo", "/repo/object", str(tmp_path)).objects is None
    assert find_labels("/repo", None, str(tmp_path / "nowhere")) == Labels(None, "system_u:object_r:usr_t:s0", None)
