"""Show a comparison: lines for people, or one value for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from composefs.diff.compare import Change, Comparison, Field, Layer
from composefs.diff.explain import Explanation
from composefs.diff.grouping import Group
from composefs.diff.text import shown, sides, with_whole_times
from composefs.text import counted, printable

_WIDTH = 80  # columns, where nobody says how many there are
_INDENT = 8  # columns before a value
_LIMIT = 20  # a guess: what is still read
_SIGNS = {"added": "+", "removed": "-"}


def render(
    comparison: Comparison,
    groups: Sequence[Group] = (),
    explanations: Sequence[Explanation] = (),
    *,
    limit: int | None = _LIMIT,
    width: int = _WIDTH,
) -> Iterator[str]:
    """Yield lines for people, without line ends: groups, explanations, then path by path.

    Args:
        comparison: what to show.
        groups: its groups.
        explanations: what explains it.
        limit: how many changes to show path by path; None for all.
        width: columns that lines may have; a single word may have more.
    """
    if comparison.equal:
        yield f"Equal: {counted(comparison.entries_a, 'entry')} on each side."
        return
    changes = comparison.changes
    yield (
        f"{counted(len(changes), 'difference')}; a has {counted(comparison.entries_a, 'entry')}, "
        f"b has {comparison.entries_b:,}."
    )
    for group in groups:
        yield from _wrap(group.description, "  ", width)
        if group.count > len(group.samples):
            yield from _wrap("such as " + ", ".join(map(printable, group.samples)), "      ", width)
    if explanations:
        yield ""
        for explanation in explanations:
            yield from _wrap(explanation.sentence, "", width)
            yield from _wrap(explanation.advice, "  ", width)
    count = len(changes) if limit is None else min(limit, len(changes))
    if count:
        yield ""
        for change in changes[:count]:
            yield from _change(change, width)
    if count and count < len(changes):
        yield f"... and {len(changes) - count:,} more"


def _wrap(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _change(change: Change, width: int) -> Iterator[str]:
    below = f", {counted(change.below, 'entry')} below" if change.below else ""
    layer = "" if change.layer is None else f", layer {change.layer.number}"
    yield f"{_SIGNS.get(change.kind, '~')} {printable(change.path)} ({change.node_type}{below}{layer})"
    for field in with_whole_times(change.fields):
        old, new = sides(field, width - _INDENT)
        line = f"    {field.name}: {old} -> {new}"
        if len(line) <= width:
            yield line
        else:
            yield f"    {field.name}:"
            yield f"      - {old}"
            yield f"      + {new}"


def as_json(
    comparison: Comparison, groups: Sequence[Group] = (), explanations: Sequence[Explanation] = ()
) -> dict[str, object]:
    """Return all of it as `json.dumps` takes it; the shape is that of the package's docstring."""
    return {
        "equal": comparison.equal,
        "entries": {"a": comparison.entries_a, "b": comparison.entries_b},
        "total": len(comparison.changes),
        "groups": [
            {
                "description": group.description,
                "count": group.count,
                "below": group.below,
                "kind": group.kind,
                "node_type": group.node_type,
                "fields": list(group.fields),
                "uniform": [_field(field) for field in group.uniform],
                "samples": [printable(path) for path in group.samples],
                "layer": _layer(group.layer),
            }
            for group in groups
        ],
        "explanations": [
            {
                "name": item.name,
                "sentence": item.sentence,
                "explains_all": item.explains_all,
                "explained": item.explained,
                "partly": item.partly,
                "total": item.total,
                "advice": item.advice,
            }
            for item in explanations
        ],
        "changes": [
            {
                "path": printable(change.path),
                "kind": change.kind,
                "node_type": change.node_type,
                "below": change.below,
                "layer": _layer(change.layer),
                "fields": [_field(field) for field in change.fields],
            }
            for change in comparison.changes
        ],
    }


def _layer(layer: Layer | None) -> dict[str, object] | None:
    return None if layer is None else layer._asdict()


def _field(field: Field) -> dict[str, object]:
    return {"name": field.name, "old": shown(field.name, field.old), "new": shown(field.name, field.new)}
