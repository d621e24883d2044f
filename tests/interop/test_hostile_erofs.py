"""composefs-rs as a second opinion on broken images: what it refuses we refuse, and what we read it reads the same."""

import os
import random
import re
import subprocess

import pytest

from composefs.dumpfile import format_dump
from composefs.erofs.load import load_tree
from composefs.errors import FormatError
from tests.fuzz import erofs_mutations
from tests.tools import require_tool

COUNT = 400

# What we refuse and composefs-rs 0.9.4 takes; all of it stands in the notes of composefs.erofs.load or raw.
STRICTER = "|".join(
    [
        r"entry /[0-9A-Fa-f]{2}, ",  # stubs of the root, which it passes over whatever they have
        r"the root has mode",
        r"a directory with two names",
        r"a directory entry has no name",
        r"which no file can have",
        r"has its data elsewhere",
        r"inodes overlap",
        r"xattrs overlap",
    ]
)


def test_broken_images(tmp_path):
    """The verdicts and trees are the same, but for what only we refuse."""
    cfsctl = require_tool("cfsctl")
    path = tmp_path / "image"
    environment = os.environ | {"RUST_BACKTRACE": "0"}  # which take long
    sources = [*erofs_mutations.golden("sha256"), *erofs_mutations.handmade().values()]  # it reads no other algorithm
    read = 0
    for number in range(COUNT):
        chance = random.Random(f"11/{number}")
        image = chance.choice(sources)
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            image = erofs_mutations.mutate(chance, image)
        path.write_bytes(image)
        command = ["composefs-info", "dump", path]
        done = subprocess.run(command, executable=cfsctl, env=environment, capture_output=True, timeout=60, check=False)
        theirs = done.stdout if done.returncode == 0 else None
        try:
            ours = b"".join(format_dump(load_tree(image)))
        except FormatError as error:
            if theirs is not None and not re.search(STRICTER, str(error)):
                pytest.fail(f"image {number}: only we say {error}")
            continue
        assert theirs is not None, f"image {number}: only composefs-rs says {done.stderr.decode()}"
        assert ours.splitlines() == theirs.splitlines(), f"image {number}"
        read += 1
    assert read > COUNT // 20
