"""The inputs of `tests/corpus`: all of them are checked, and they are those that a script makes."""

import random

import pytest

from tests.fuzz import corpus, native, registry
from tests.fuzz.target import CORPUS, TooSlowError, corpus_files

SLICE = {
    "erofs": 60,
    "layers": 60,
    "layout": 60,
    "storage": 60,
    "repository": 20,
    "tar": 200,
    "dumpfile": 200,
}  # inputs; of the others more
SIZE_MAX = 1 << 20  # bytes of the whole corpus


@pytest.mark.parametrize("name", registry.NAMES)
def test_corpus(name):
    """Every input of the corpus, those that once broke something among them."""
    target = registry.load(name)

    taken = [target.run(path.read_bytes()) for path in corpus_files(name)]

    assert any(taken), "none is taken"


@pytest.mark.parametrize("name", registry.NAMES)
def test_slice(name):
    """A few of the inputs that `python -m tests.fuzz` checks, the same each time."""
    target = registry.load(name)

    for number in range(SLICE.get(name, 400)):
        target.run(target.input(0, number))


def test_seeds_are_those_that_are_made():
    """What is in the corpus can be made again; the rest says by its name that it was found."""
    for name, seeds in corpus.made().items():
        found = {path.name: path.read_bytes() for path in corpus_files(name)}

        assert {file: data for file, data in found.items() if not file.startswith(corpus.FOUND)} == seeds


def test_corpus_is_small_and_has_a_place():
    """It is part of the repository; directories are named by targets."""
    directories = {path.name for path in CORPUS.iterdir() if path.is_dir()}

    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < SIZE_MAX
    assert directories == {*registry.NAMES, *(native.corpus_of(name).name for name in native.NAMES)}


@pytest.mark.parametrize("name", registry.NAMES)
def test_inputs_are_repeatable(name):
    """A failure is known by seed and number; and mutations change something."""
    target = registry.load(name)
    inputs = [target.input(5, number) for number in range(30)]

    assert inputs == [target.input(5, number) for number in range(30)]
    assert len(set(inputs)) > 15
    assert all(len(data) <= target.size_max for data in inputs)


@pytest.mark.parametrize("name", registry.NAMES)
def test_nothing_is_too_small(name):
    """Empty inputs, and noise, are refused by errors of their types."""
    target = registry.load(name)

    for size in (0, 1, 2, 100, 2000):
        target.run(random.Random(size).randbytes(size))


def test_failures_are_seen(monkeypatch):
    """What is no error of a type comes out, and so does what takes too long."""
    target = registry.load("meta")
    monkeypatch.setattr("tests.fuzz.targets.documents.Meta.parse", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        target.run(b"{}")

    def loop(*_):
        while True:
            pass

    monkeypatch.setattr("tests.fuzz.target.SECONDS_MAX", 0.05)
    monkeypatch.setattr("tests.fuzz.targets.documents.Meta.parse", loop)
    with pytest.raises(TooSlowError):
        target.run(b"{}")
