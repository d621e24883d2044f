"""What an expression consists of, once it is parsed."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class ExpressionError(ValueError):
    """An expression that neither syntax has, or that cannot be matched in bounded time and space."""


class Bytes(NamedTuple):
    """One byte out of *members*."""

    members: frozenset[int]


class Sequence(NamedTuple):
    """One node after the other."""

    nodes: tuple[Node, ...]


class Choice(NamedTuple):
    """One of the nodes."""

    nodes: tuple[Node, ...]


class Repeat(NamedTuple):
    """A node *least* to *most* times; None: any number."""

    node: Node
    least: int
    most: int | None


class Ahead(NamedTuple):
    """What follows begins with a match of *node*, or, negative, does not."""

    negative: bool
    node: Node


class Behind(NamedTuple):
    """What precedes ends with one of *texts*, or, negative, does not."""

    negative: bool
    texts: tuple[tuple[frozenset[int], ...], ...]


Node: TypeAlias = Bytes | Sequence | Choice | Repeat | Ahead | Behind
