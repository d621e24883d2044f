"""Try the known causes: apply each to copies of the trees, compare again, and see which differences are gone.

Large trees would take long, so there a sample says which causes are worth that; what comes out was tried on all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from composefs.diff.causes import FAMILIES, Cause, Facts
from composefs.diff.compare import Comparison, compare
from composefs.diff.sample import sample
from composefs.errors import ComposefsError
from composefs.tree import Directory

_TRIED_ON_ALL = 6  # a guess: each takes as long as two comparisons

_Unit = tuple[bytes, str]  # a path, and the field or kind that differs there


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is behind the differences, or some of them."""

    name: str  # those of several causes joined by +
    sentence: str
    explains_all: bool
    explained: int  # changes that are gone once it is taken into account
    partly: int  # changes of which it explains some fields
    total: int
    advice: str  # the usual cause, and what to do


@dataclass(frozen=True, slots=True)
class _Tried:
    """Causes that hold, and what they leave."""

    causes: tuple[tuple[Cause, bool], ...]  # and whether it is applied to b rather than a
    remaining: frozenset[_Unit]


def explain(a: Directory, b: Directory, *, comparison: Comparison | None = None) -> list[Explanation]:
    """Return what explains the differences between *a* and *b*, the most telling first.

    Where no cause explains all that any explains, those that do so together are one more explanation.

    Args:
        a: one tree.
        b: the other.
        comparison: of *a* with *b*, if it is there already.
    """
    if comparison is None:
        comparison = compare(a, b)
    if comparison.equal:
        return []
    units = _units(comparison)
    small_a, small_b = sample(a, b, comparison)
    if small_a is a:
        found = _search(a, b, comparison, units)
    else:
        small = compare(small_a, small_b)
        guesses = sorted(_search(small_a, small_b, small, _units(small)), key=lambda guess: len(guess.remaining))
        tried = [_try(a, b, guess.causes) for guess in guesses[:_TRIED_ON_ALL]]
        found = [each for each in tried if each is not None and each.remaining < units]
    before = Counter(path for path, _ in units)
    explanations = [_explanation(tried, before) for tried in found]
    return sorted(explanations, key=lambda item: (not item.explains_all, -item.explained, -item.partly))


def _units(comparison: Comparison) -> frozenset[_Unit]:
    found: set[_Unit] = set()
    for change in comparison.changes:
        path = change.path
        if change.fields:
            found.update([(path, field.name) for field in change.fields])
        else:
            found.add((path, change.kind))
    return frozenset(found)


def _search(a: Directory, b: Directory, comparison: Comparison, units: frozenset[_Unit]) -> list[_Tried]:
    """Return the causes that hold, each leaving something else, and last those that hold together."""
    found: list[_Tried] = []
    left: set[frozenset[_Unit]] = {units}
    directions = (Facts(a, b, comparison, backward=False), Facts(b, a, comparison, backward=True))
    for family, names in FAMILIES:
        causes = [(cause, facts.backward) for facts in directions for cause in family(facts)]
        for cause, backward in sorted(causes, key=lambda item: item[0].both):
            tried = _try(a, b, ((cause, backward),))
            # What was equal and is no longer shows that this was not done to the other side.
            if tried is None or not tried.remaining < units or tried.remaining in left:
                continue
            left.add(tried.remaining)
            found.append(tried)
            if not any(name.startswith(names) for _, name in tried.remaining):
                break
    together = _try(a, b, _cover(units, found))
    if together is not None and together.remaining < units and together.remaining not in left:
        found.append(together)
    return found


def _try(a: Directory, b: Directory, causes: tuple[tuple[Cause, bool], ...]) -> _Tried | None:
    """Return what *causes* leave together, or None if one cannot be applied."""
    try:
        for cause, backward in causes:
            if cause.both or not backward:
                a = cause.apply(a)
            if cause.both or backward:
                b = cause.apply(b)
    except ComposefsError:
        return None
    return _Tried(causes, _units(compare(a, b)))


def _cover(units: frozenset[_Unit], single: Sequence[_Tried]) -> tuple[tuple[Cause, bool], ...]:
    """Return few causes that explain all that any of *single* explains, if each works beside the others."""
    explained = [units - tried.remaining for tried in single]
    missing = set().union(*explained)
    chosen: list[int] = []
    while missing:
        best = max(range(len(single)), key=lambda i: len(explained[i] & missing))
        chosen.append(best)
        missing -= explained[best]
    for i in list(chosen):
        others = set().union(*(explained[j] for j in chosen if j != i))
        if explained[i] <= others:
            chosen.remove(i)
    return tuple(cause for i in sorted(chosen) for cause in single[i].causes)


def _explanation(tried: _Tried, before: Counter[bytes]) -> Explanation:
    after = Counter(path for path, _ in tried.remaining)
    total, explained = len(before), len(before) - len(after)
    partly = sum(count < before[path] for path, count in after.items())
    causes = [cause for cause, _ in tried.causes]
    clauses = " and ".join(cause.phrase for cause in causes)
    if not after:
        verdict = "together this explains every difference" if len(causes) > 1 else "this explains every difference"
    elif not partly:
        verdict = f"this explains {explained:,} of {total:,} differences"
    else:
        verdict = f"this explains {explained:,} of {total:,} differences, and {partly:,} in part"
    return Explanation(
        "+".join(cause.name for cause in causes),
        f"{clauses[0].upper()}{clauses[1:]}: {verdict}.",
        not after,
        explained,
        partly,
        total,
        " ".join(cause.advice for cause in causes),
    )
