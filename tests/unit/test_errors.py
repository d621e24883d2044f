"""Errors cross process borders, and say what they have to say in one line."""

import pickle

import pytest

from composefs import errors
from composefs.errors import (
    AuthenticationError,
    BusyError,
    ComposefsError,
    ConnectionLostError,
    FormatError,
    IntegrityError,
    LimitError,
    MountError,
    NotFoundError,
    PolicyError,
    RangeError,
    RegistryError,
    RepositoryError,
    RoomError,
    TreeError,
    UsageError,
)

EXAMPLES = [
    (UsageError("no such thing"), "no such thing"),
    (FormatError("layer x", 512, "broken"), "layer x, offset 512: broken"),
    (FormatError("layer x", 512, "broken", "usr/bin"), "layer x, entry usr/bin, offset 512: broken"),
    (LimitError("layer x", 512, "bytes of names", 10, 11), "layer x, offset 512: 11 bytes of names, more than 10"),
    (LimitError("dump", 0, "lines", 10, entry="a", raised_by="b"), "dump, entry a, offset 0: more than 10 lines"),
    (IntegrityError("blob", "a", "b"), "blob: wanted a, got b"),
    (NotFoundError("nothing there"), "nothing there"),
    (TreeError(b"/a\xff", "is no directory"), "/a\\xff: is no directory"),
    (TreeError("/srv/root", "changed"), "/srv/root: changed"),
    (RepositoryError("/r", "is no such"), "/r: is no such"),
    (BusyError("/r", ("process 1 (a)", "process 2")), "/r: is in use by process 1 (a), process 2"),
    (PolicyError("dir:/x", "rejected", "dir:/", "policy.json"), "dir:/x: rejected, by dir:/ in policy.json"),
    (PolicyError("x", "y", "z", "f", remedy="do it"), "x: y, by z in f; do it"),
    (BusyError("/r", ()), "/r: is in use by a process that is not shown"),
    (RoomError("/r", 2048, 100, "bytes"), "/r: has no room: needs at least 2,048 bytes, and 100 are free"),
    (RegistryError("tags: 404", "a:5000", 404, "NAME_UNKNOWN"), "a:5000: tags: 404"),
    (AuthenticationError("tags: 401", "a:5000", 401), "a:5000: tags: 401"),
    (ConnectionLostError("blob x: no answer in time", "a:5000"), "a:5000: blob x: no answer in time"),
    (RangeError("blob x: 501: no ranges", "a:5000", 501), "a:5000: blob x: 501: no ranges"),
    (MountError("fsmount", 12), "fsmount: Cannot allocate memory"),
    (MountError("fsmount", 22, messages=("e a", "w b")), "fsmount: Invalid argument; e a; w b"),
    (
        MountError("mount", 95, feature="this (Linux 6.5)", remedy="wait"),
        "mount: this kernel lacks this (Linux 6.5); wait",
    ),
    (errors.CancelledError("stopped"), "stopped"),
    (ComposefsError("anything"), "anything"),
]


@pytest.mark.parametrize(("error", "text"), EXAMPLES)
def test_text(error, text):
    """Each says it in its own form."""
    assert str(error) == text


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES])
def test_pickle(error):
    """Each comes out of a worker process as it went in."""
    error.add_note("a note")

    found = pickle.loads(pickle.dumps(error))

    assert type(found) is type(error)
    assert (found.args, vars(found), str(found)) == (error.args, vars(error), str(error))


def test_all_have_an_example():
    """No class of the module is left out above, and its docstring names them all."""
    classes = {value for value in vars(errors).values() if isinstance(value, type)}

    assert classes == {type(error) for error, _ in EXAMPLES}
    assert all(name.__name__ in errors.__doc__ for name in classes)
    assert all(issubclass(name, ComposefsError) for name in classes)


def test_errors_of_mounts_are_the_systems():
    """They can be caught as such, with their numbers."""
    error = MountError("fsmount", 1, remedy="be root")
    error.step, error.remedy = "mount of x: fsmount", "be root, or wait"

    found = pickle.loads(pickle.dumps(error))

    assert isinstance(found, OSError)
    assert (found.errno, found.strerror, found.filename) == (1, "Operation not permitted", None)
    assert str(found) == "mount of x: fsmount: Operation not permitted; be root, or wait"
