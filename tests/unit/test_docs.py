"""What the documentation shows does work."""

import re
import subprocess
import sys
from pathlib import Path

from composefs.errors import ComposefsError
from tests.golden import vectors

ROOT = Path(__file__).parents[2]


def test_example(tmp_path):
    """The example program imports an image and lists a layer of it."""
    layout = vectors.write_layout("whiteouts", tmp_path / "layout")

    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "docs/example.py", layout, tmp_path / "repository"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "example: 2 layers, " in done.stdout
    assert re.search(r"^ +\d+ usr$", done.stdout, re.MULTILINE)


def test_library_page_names_every_error():
    """The table of errors is complete."""
    page = (ROOT / "docs/library.md").read_text()

    assert all(f"`{error.__name__}`" in page for error in ComposefsError.__subclasses__())
