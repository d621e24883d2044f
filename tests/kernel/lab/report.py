"""What pytest says of its tests in a guest, as it comes in JUnit's XML."""

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = {"failure": "failed", "error": "failed", "skipped": "skipped"}  # by the element that tells of them


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test."""

    name: str
    kind: str  # passed, failed or skipped
    text: str  # why, when it is not passed


def parse_report(report: bytes) -> list[Outcome]:
    """Return the outcome of each test of *report*; one that fails in its teardown too has two."""
    return [outcome for case in ET.fromstring(report).iter("testcase") for outcome in _outcomes(case)]


def summarise(outcomes: list[Outcome]) -> str:
    """Return how many tests came out how, as in `3 passed, 1 failed`."""
    counts = Counter(outcome.kind for outcome in outcomes)
    return ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped") if counts[kind]) or "no tests"


def explain(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield what is to be said of the tests that did not pass: all of a failure, a line of a skip."""
    for outcome in outcomes:
        if outcome.kind == "failed":
            yield f"FAILED {outcome.name}\n{outcome.text}"
        elif outcome.kind == "skipped":
            yield f"SKIPPED {outcome.name}: {outcome.text.splitlines()[0]}"


def _outcomes(case: ET.Element) -> Iterator[Outcome]:
    name = f"{case.get('classname')}::{case.get('name')}"
    told = [element for element in case if element.tag in KINDS]
    if not told:
        yield Outcome(name, "passed", "")
    for element in told:
        message = element.get("message") or ""
        text = message if element.tag == "skipped" else element.text or message
        yield Outcome(name, KINDS[element.tag], text or "no reason given")
