"""Images of dumps are those of the C implementation, by its own test assets; they lie beside the project, not in it."""

import gzip
import hashlib
import io
import os
import sys
from pathlib import Path

import pytest

from composefs.cli import main

PLACE = Path(os.environ.get("COMPOSEFS_VECTORS", Path(__file__).parents[3] / "shared" / "vectors")) / "mkcomposefs"
STRICT = "CFS_PARSE_STRICT"
STRICTLY_REFUSED = {"longlink": "SIZE: wanted 4070", "no-newline": "RDEV: wanted 0"}  # taken by the lenient parser only


def names(pattern):
    """Return the names of the dumps, or one name to tell that they are missing."""
    return sorted(path.name.partition(".dump")[0] for path in PLACE.glob(pattern)) or ["vectors"]


ACCEPTED = names("*.dump*.sha256")
REFUSED = names("should-fail-*.dump")


@pytest.fixture
def dump_of():
    """Return a function that reads the dump of a name."""
    if not PLACE.is_dir():
        if os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1":
            pytest.fail(f"the golden dumps of C mkcomposefs are missing: {PLACE}")
        pytest.skip(f"the golden dumps of C mkcomposefs are missing: {PLACE}; COMPOSEFS_VECTORS names another place")

    def read(name):
        path = PLACE / f"{name}.dump"
        return path.read_bytes() if path.exists() else gzip.decompress((PLACE / f"{name}.dump.gz").read_bytes())

    return read


@pytest.fixture
def make(monkeypatch, capfdbinary):
    """Return a function that runs mkcomposefs on a dump, and gives status, standard output and standard error."""

    def run(text, *options, strict=False):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/mkcomposefs", "--from-file", *options, "-", "-"])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        monkeypatch.delenv(STRICT, raising=False)
        if strict:
            monkeypatch.setenv(STRICT, "")
        status = main()
        return status, *capfdbinary.readouterr()

    return run


def versions_of(name):
    """Return the options that the image of a dump was made with."""
    path = PLACE / f"{name}.dump.version"
    if not path.exists():
        return []
    version = path.read_text().strip()
    return [f"--min-version={version}", f"--max-version={version}"]


def digest_of(name):
    (path,) = PLACE.glob(f"{name}.dump*.sha256")
    return path.read_text().strip()


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_image(name, strict, dump_of, make):
    text = dump_of(name)

    status, image, error = make(text, *versions_of(name), strict=strict)

    if strict and name in STRICTLY_REFUSED:
        assert (status, image) == (1, b"")
        assert STRICTLY_REFUSED[name] in error.decode()
    else:
        assert (status, error) == (0, b"")
        assert hashlib.sha256(image).hexdigest() == digest_of(name)


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, strict, dump_of, make):
    status, image, error = make(dump_of(name), strict=strict)

    assert (status, image) == (1, b"")
    assert error.startswith(b"mkcomposefs: ")
    assert error.count(b"\n") == 1


def test_versions(dump_of, make):
    """The version is the lowest allowed one, or 1 for whiteouts if that is allowed; the highest gives way."""
    plain, whiteouts = dump_of("bigfile"), dump_of("special_v1")

    def version(text, *options):
        status, image, _ = make(text, *options)
        assert status == 0
        return image[12]

    for options, wanted in (
        ([], (0, 1)),
        (["--min-version=0"], (0, 0)),
        (["--min-version=1"], (1, 1)),
        (["--max-version=0"], (0, 0)),
        (["--max-version=1"], (0, 1)),
        (["--min-version=1", "--max-version=0"], (1, 1)),
        (["--min-version=0", "--max-version=1"], (0, 1)),
    ):
        assert (version(plain, *options), version(whiteouts, *options)) == wanted
