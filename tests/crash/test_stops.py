"""Operations that are stopped at some system call: nothing named is incomplete, and the next run ends well.

`python -m tests.torture.stops` does it more often; this is a slice of it.
"""

from collections.abc import Iterator

import pytest

from tests.tools import require_tool
from tests.torture.judge import difference, findings_of, judge, state_of, undisturbed
from tests.torture.operations import OPERATIONS, Workshop, workshop
from tests.torture.stops import Torture, main
from tests.torture.syscalls import MUTATING, Outcome

_SEED = 1
_COUNT = len(OPERATIONS)  # one of each
_KINDS = ("refs/", "oci-manifest-", "oci-config-", "oci-layer-")  # of names: each refers to those behind it


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with workshop() as made:
        yield made


@pytest.fixture(scope="module")
def torture(shop: Workshop) -> Torture:
    return Torture(shop, require_tool("cfsctl"))


@pytest.mark.parametrize("number", range(_COUNT))
def test_whatever_is_stopped_nothing_named_is_incomplete(torture, number):
    moment = torture.random_moment(list(OPERATIONS.values()), _SEED, number)

    assert torture.stop(moment) == []


def _names(shop: Workshop, operation: str, calls: str) -> list[str]:
    """Return the names that an operation moves or removes, in this order."""
    with shop.copy(OPERATIONS[operation].start) as repository:
        done = shop.run(OPERATIONS[operation], repository, calls=frozenset(calls.split()))
        places = [call.what.removeprefix(f"{repository}/").removeprefix("trash/000001/") for call in done.calls]
    return [place for place in places if place.startswith(("images/", "streams/"))]


@pytest.mark.parametrize("operation", ["gc", "gc-trash", "gc-undo", "reset"])
def test_no_name_is_left_that_refers_to_what_has_none(shop, operation):
    """A stop in between would leave an image without its layers."""
    names = _names(shop, operation, "unlink unlinkat renameat renameat2 rename")
    if operation == "gc-undo":
        names.reverse()

    kinds = [kind for name in names for kind in _KINDS if f"/{kind}" in name]
    assert kinds == sorted(kinds, key=_KINDS.index)
    assert {"oci-manifest-", "oci-config-", "oci-layer-"} <= set(kinds)


def test_an_import_mends_what_a_power_cut_has_left(torture, shop):
    """Half an object is replaced, and one that is missing is made again."""
    cfsctl = require_tool("cfsctl")
    operation = OPERATIONS["import-mends"]
    with shop.copy(operation.start) as repository:
        before = findings_of(repository, cfsctl)
        shop.run_here(operation, repository)
        after = findings_of(repository, cfsctl)

    assert any("object-digest-mismatch" in line for line in before)
    assert any("missing-object-ref" in line for line in before)
    assert after == {}


def test_an_import_that_is_refused_names_what_was_right(torture):
    """Its finished layers have names, since the next import takes them; the wrong one has none."""
    span = torture.span(OPERATIONS["import-refused"])

    links = [path for path, what in span.after.items() if what.startswith("link")]
    assert len(links) == 2
    assert all(path.startswith("streams/oci-layer-sha256:") and not path.endswith("0" * 64) for path in links)


# The judge itself: does it see what must not be?


@pytest.fixture(scope="module")
def judged(shop: Workshop):
    """Return a function that judges a repository after an import, to which something was done."""
    cfsctl = require_tool("cfsctl")
    span = undisturbed(shop, OPERATIONS["import"], cfsctl)
    stopped = Outcome(None, [], "", "", 0)

    def verdict(change, outcome=stopped):
        with shop.copy("first") as repository:
            assert difference(span.after, state_of(repository)) == []
            change(repository)
            return judge(shop, span, repository, outcome, cfsctl)

    return verdict


def _object_of(repository, name):
    return (repository / "streams" / name).resolve()


def _layer(repository):
    return next((repository / "streams").glob("oci-layer-*"))


def test_the_judge_has_nothing_against_what_may_be_left(judged):
    def leave(repository):
        (repository / ".symlink-0123456789ab").symlink_to("nowhere")
        (repository / "objects/.tmp-object-0123456789ab").write_bytes(b"half")

    assert judged(leave) == []


def test_the_judge_misses_an_object(judged):
    problems = judged(lambda repository: _layer(repository).resolve().unlink())

    assert any("after the stop: fsck: broken-symlink: streams/oci-layer-" in line for line in problems)
    assert any("after the stop: cfsctl: fsck: broken-symlink: streams/oci-layer-" in line for line in problems)


def test_the_judge_sees_half_an_object(judged):
    def cut(repository):
        path = _layer(repository).resolve()
        path.write_bytes(path.read_bytes()[:-1])

    problems = judged(cut)

    assert any("is file 644" in line for line in problems)
    assert any("object-digest-mismatch" in line for line in problems)


def test_the_judge_sees_a_name_that_is_none_of_the_operation(judged):
    problems = judged(lambda repository: (repository / "streams/refs/oci/new").symlink_to("../../oci-manifest-x"))

    assert any(line.startswith("streams/refs/oci/new is link to") for line in problems)


def test_the_judge_sees_a_stray_file_and_that_it_stays(judged):
    problems = judged(lambda repository: (repository / "objects.old").touch())

    when = ["", "after the next run: ", "after gc: "]
    assert [line.partition(" is ")[0] for line in problems] == [f"{each}objects.old" for each in when]


def test_the_judge_sees_what_no_collection_of_garbage_takes(judged):
    def leave(repository):
        path = repository / "objects/.tmp-object-0123456789ab"
        path.mkdir()

    assert judged(leave) == ["after gc: objects/.tmp-object-0123456789ab is left"]


def test_the_judge_sees_who_outlives_it(judged):
    assert judged(lambda _: None, Outcome(0, [], "", "", 2)) == ["2 processes outlived it"]


def test_the_judge_misses_a_name_that_was_there_before_and_after(shop):
    cfsctl = require_tool("cfsctl")
    span = undisturbed(shop, OPERATIONS["tag"], cfsctl)
    with shop.copy("both") as repository:
        (repository / "streams/refs/oci/other").unlink()

        problems = judge(shop, span, repository, Outcome(None, [], "", "", 0), cfsctl)

    assert problems[0].startswith("streams/refs/oci/other is not there, was link to")


# The program


def test_a_line_of_figures_for_each_operation_and_for_all(capsys):
    require_tool("cfsctl")

    assert main(["--operation", "untag", "--every"]) == 0

    untag, total = capsys.readouterr().out.splitlines()
    changing = int(untag.split(" calls change files")[0].rpartition(" ")[2])
    assert changing > 0
    assert f"{2 * changing} stops ({changing} before a call, {changing} after) at {changing} different calls" in untag
    assert untag.endswith("0 ended first; 0 failures")
    assert total.startswith("all ")


def test_every_call_that_changes_files_has_two_moments(torture):
    moments = list(torture.every_moment(OPERATIONS["tag"]))

    assert [(moment.number, moment.after) for moment in moments][:3] == [(1, False), (1, True), (2, False)]
    assert all(moment.calls is MUTATING for moment in moments)
    assert len(moments) == 2 * torture.span(OPERATIONS["tag"]).calls


def test_a_failure_is_told_with_what_shows_it_again(torture, monkeypatch):
    monkeypatch.setattr("tests.torture.stops.judge", lambda *_: ["something is wrong"])
    moment = next(torture.every_moment(OPERATIONS["untag"]))

    torture.stop(moment)

    (failure,) = torture.figures["untag"].failures[-1:]
    assert failure.startswith("untag, before changing call 1: unlinkat REPO/streams/refs/oci/other")
    assert "(again: --operation untag --call 1)\n    something is wrong" in failure
