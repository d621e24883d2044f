"""Sum up changes: those that differ in the same way are one group, and every change is in exactly one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from composefs.diff.compare import HARD_LINK, LINK_COUNT, STAT_FIELDS, XATTR, Change, Comparison, Field, Kind, Layer
from composefs.diff.text import sides, with_whole_times
from composefs.digest import Algorithm
from composefs.text import counted
from composefs.verity import compute_digest

_SAMPLES = 3  # paths that stand for a group
_UNIFORM_WIDTH = 40  # characters of a value in a description
_CONTENT = frozenset({"size", "digest", "inline data", "backing path"})
_BY_TYPE = frozenset(STAT_FIELDS) - {"uid", "gid"}  # where it matters whether directories or files differ
_ALGORITHMS = {algorithm.digest_size: algorithm for algorithm in Algorithm}
_ANY = "entry"  # the type of a group that has several


@dataclass(frozen=True, slots=True)
class Group:
    """*count* changes of one kind."""

    description: str
    count: int
    below: int  # entries of directories added, removed or replaced, which have no changes of their own
    kind: Kind
    node_type: str  # or `entry` for several
    fields: tuple[str, ...]
    uniform: tuple[Field, ...]  # old and new, where they are the same in all of several changes
    samples: tuple[bytes, ...]
    layer: Layer | None  # that brought all of it


def groups(comparison: Comparison) -> list[Group]:
    """Return the groups of all changes, those with the most entries first."""
    members: dict[tuple[str, ...], list[Change]] = {}
    for change in comparison.changes:
        key = signature(change)
        if "nanoseconds" in key:  # to people part of the time, and chance decides whether that differs
            names = ("mtime" if name == "nanoseconds" else name for name in key[2:])
            key = (*key[:2], *dict.fromkeys(names))
        members.setdefault(key, []).append(change)
    found = [_group(key[2:], changes) for key, changes in members.items()]
    return sorted(found, key=lambda group: (-group.count - group.below, group.description))


def signature(change: Change) -> tuple[str, ...]:
    """Return what the changes of a group have in common: kind, type, and the names of what differs.

    `+NAME` only b has it, `-NAME` only a, the bare name both.
    """
    _, kind, node_type, fields, _, _ = change
    if not fields:
        return kind, node_type
    if kind == "type":
        return kind, node_type, str(fields[0].old), str(fields[0].new)
    names = tuple(
        name if not name.startswith(XATTR) or (old is not None and new is not None) else f"{'+-'[new is None]}{name}"
        for name, old, new in fields
    )
    if kind == "metadata" and _BY_TYPE.isdisjoint(names):
        node_type = _ANY
    if kind == "content" or names[-1] in (HARD_LINK, LINK_COUNT):
        names = _merge(change, names)
    return kind, node_type, *names


def _merge(change: Change, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return *names* with one word for all that makes up the content of a file, and one for its links."""
    inside = [name for name in names if name in _CONTENT]
    rest = [name for name in names if name not in _CONTENT and name not in (HARD_LINK, LINK_COUNT)]
    if len(rest) < len(names) - len(inside):
        rest.append("hard links")
    if not inside:
        return tuple(rest)
    if inside == ["backing path"]:
        return ("backing path", *rest)
    return ("storage" if _is_storage(change) else "content", *rest)


def _is_storage(change: Change) -> bool:
    """Tell whether the content of a file is the same, inline on one side and an object on the other."""
    fields = {field.name: field for field in change.fields}
    if "size" in fields or "inline data" not in fields or "digest" not in fields:
        return False
    data = fields["inline data"].old or fields["inline data"].new
    digest = fields["digest"].old or fields["digest"].new
    if not isinstance(data, bytes) or not isinstance(digest, bytes) or len(digest) not in _ALGORITHMS:
        return False
    return compute_digest(data, _ALGORITHMS[len(digest)]).raw == digest


def _group(names: tuple[str, ...], changes: list[Change]) -> Group:
    kind = changes[0].kind
    types = {change.node_type for change in changes}
    node_type = types.pop() if len(types) == 1 else _ANY
    below = sum(change.below for change in changes)
    uniform = _uniform(changes)
    layers = {change.layer for change in changes}
    layer = layers.pop() if len(layers) == 1 else None
    origin = "" if layer is None else f", from layer {layer.number}"
    return Group(
        _describe(kind, node_type, names, len(changes), below) + _describe_uniform(uniform, len(changes)) + origin,
        len(changes),
        below,
        kind,
        node_type,
        tuple(dict.fromkeys(field.name for change in changes for field in change.fields)),
        uniform,
        tuple(change.path for change in changes[:_SAMPLES]),
        layer,
    )


def _uniform(changes: list[Change]) -> tuple[Field, ...]:
    """Return the fields that are the same, old and new, in all changes; none if there is only one change."""
    if len(changes) == 1 or changes[0].kind == "type":
        return ()
    common = list(changes[0].fields)
    for change in changes:
        fields = change.fields
        for field in common:
            if field not in fields:
                common = [field for field in common if field in fields]
                break
        if not common:
            break
    return tuple(common)


def _describe(kind: Kind, node_type: str, differing: tuple[str, ...], count: int, below: int) -> str:
    what = counted(count, node_type)
    inside = f", with {counted(below, 'entry')} below" if below else ""
    if kind in ("added", "removed"):
        return f"{what} {kind}{inside}"
    if kind == "type":
        return f"{what} changed from {differing[0]} to {differing[1]}{inside}"
    clauses = []
    for sign, has in (("+", "b has"), ("-", "a has")):
        names = [name[1:].removeprefix(XATTR) for name in differing if name[0] == sign]
        if names:
            verb = "lacks" if count == 1 else "lack"
            clauses.append(f"{verb} {_and(names)} ({has} {'it' if len(names) == 1 else 'them'})")
    plain = [name for name in differing if name[0] not in "+-"]
    if plain:
        verb = "differs" if count == 1 else "differ"
        only = "only " if not clauses and len(plain) == 1 and plain != ["content"] else ""
        clauses.insert(0, f"{verb} {only}in {_and(plain)}")
    return f"{what} {' and '.join(clauses)}"


def _describe_uniform(uniform: Sequence[Field], count: int) -> str:
    told = [
        f"{field.name} {' -> '.join(sides(field, _UNIFORM_WIDTH))}"
        for field in with_whole_times(uniform)
        if not (field.name.startswith(XATTR) and (field.old is None or field.new is None))
    ]
    return f": {', '.join(told)} in {'both' if count == 2 else 'all of them'}" if told else ""


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
