"""`composefs-info` prints what that of composefs-rs prints."""

import sys

import pytest

from composefs.cli import main
from tests.golden import vectors

DUMPS = [("dumps", case["case"], case["V1"], case) for case in vectors.expected("dumps") if "info_ls" in case]
TREES = [
    (f"trees/{path.name}", "tree", (image := vectors.expected(f"trees/{path.name}")["sha256"]["V1"]), image)
    for path in sorted((vectors.ROOT / "trees").iterdir())
]
STORED = [case for case in DUMPS + TREES if "file" in case[2] and "info_ls" in case[3]]


@pytest.mark.parametrize("case", STORED, ids=lambda case: f"{case[0]}-{case[1]}")
@pytest.mark.parametrize("verb", ["ls", "dump", "objects"])
def test_output(case, verb, tmp_path, monkeypatch, capfdbinary):
    place, name, image, recorded = case
    path = tmp_path / "image"
    path.write_bytes(vectors.read(vectors.ROOT / place / image["file"]))
    monkeypatch.setattr(sys, "argv", ["composefs-info", verb, str(path)])

    wanted = recorded[f"info_{verb}"]
    is_refused = isinstance(wanted, dict) and "error" in wanted  # a broken image

    assert main() == (1 if is_refused else 0)
    printed = capfdbinary.readouterr().out

    if is_refused:
        assert printed == b""
    elif isinstance(wanted, list):
        assert printed.decode().splitlines() == wanted
    elif isinstance(wanted, str):  # what the image was made of
        directory = vectors.ROOT / place / ("" if place == "dumps" else "sha256")
        (source,) = directory.glob(f"{name}.dump*")
        assert printed == vectors.read(source)
    else:
        assert vectors.sha256(printed.decode()) == wanted["sha256"]
