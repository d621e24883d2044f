"""What people are told in words of ours."""

import errno
import os
from pathlib import Path

import pytest

from composefs.text import describe_failure


def failed(number, path=None):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (failed(errno.ENOENT, "/srv/x"), "/srv/x: No such file or directory"),
        (failed(errno.ENOENT, b"/srv/\xff"), "/srv/\udcff: No such file or directory"),
        (failed(errno.ENOENT, Path("/srv/x")), "/srv/x: No such file or directory"),
        (failed(errno.ENOENT, ""), "'': No such file or directory"),
        (failed(errno.ENOSPC), "No space left on device"),
        (failed(errno.EISDIR, 4), "Is a directory"),  # a descriptor
        (OSError("of a library"), "of a library"),
    ],
)
def test_failure(error, text):
    """A failure of the system is told with its path, if it has one."""
    assert describe_failure(error) == text
