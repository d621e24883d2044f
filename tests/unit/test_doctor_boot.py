"""Whether what the kernel arguments select can be booted."""

import pytest

from composefs import Algorithm
from composefs.boot.kargs import ImageArgument
from composefs.digest import Digest
from composefs.doctor import Status
from composefs.doctor.boot import Selection, find_selection, judge_selection

FIRST = ImageArgument(Digest(Algorithm.SHA512, b"\x11" * 64), 1, insecure=False)
SECOND = ImageArgument(Digest(Algorithm.SHA256, b"\x22" * 32), 2, insecure=True)


@pytest.mark.parametrize(
    ("selection", "sealed", "status", "found"),
    [
        (Selection(), True, Status.OK, "no kernel argument of this boot names an image"),
        (
            Selection((FIRST,), (True,)),
            True,
            Status.OK,
            "111111111111…, as the kernel arguments of this boot say, is here",
        ),
        (Selection((FIRST, SECOND), (False, True)), False, Status.OK, "222222222222…, as the kernel"),
        (
            Selection((FIRST, SECOND), (False, False)),
            True,
            Status.MISSING,
            "111111111111…, 222222222222…, which is not",
        ),
        (Selection((FIRST,), (True,)), False, Status.MISSING, "the argument of 111111111111… requires fs-verity"),
        (
            Selection(problem="kernel command line, offset 3: x"),
            True,
            Status.MISSING,
            "kernel command line, offset 3: x",
        ),
    ],
)
def test_judgement(selection, sealed, status, found):
    """An image that is selected must be there, and be sealed if the argument wants it to be."""
    finding = judge_selection(selection, sealed=sealed)

    assert (finding.status, finding.prevents) == (status, ())
    assert found in finding.found
    assert (finding.remedy is None) == (status is Status.OK)


def test_facts(tmp_path):
    """Arguments come from the kernel, images from the repository; a link that leads nowhere is none."""
    (tmp_path / "cmdline").write_text(f"quiet {FIRST} root=/dev/vda {SECOND}\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / SECOND.digest.hex).write_bytes(b"")
    (tmp_path / "images" / FIRST.digest.hex).symlink_to("nowhere")

    assert find_selection(str(tmp_path), str(tmp_path)) == Selection((FIRST, SECOND), (False, True))


def test_malformed(tmp_path):
    """An argument that is malformed is told as everywhere."""
    (tmp_path / "cmdline").write_text("composefs=123\n")

    found = find_selection(str(tmp_path), str(tmp_path))

    assert found.problem.startswith("kernel command line, offset 0: composefs=123: invalid composefs= digest length")


def test_no_arguments(tmp_path):
    """Without /proc nothing is selected."""
    assert find_selection(str(tmp_path), str(tmp_path)) == Selection()
