"""Match many expressions at once, byte by byte, in time that no expression can make explode.

The expressions become one nondeterministic automaton.  Which of its nodes a text can have reached is a `State`, and a
state remembers where each byte led: once its states are known, a text costs a lookup for each of its bytes, and a walk
through a tree of names goes on from the state of the directory.

Looking ahead makes a thread of a node and what is pending: what the rest of the text has to be like, or must not be.
Looking behind needs the last few bytes that were read, the tail.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from composefs.errors import TreeError
from composefs.selinux.nodes import Ahead, Behind, Bytes, Choice, ExpressionError, Node, Repeat, Sequence

NODES_MAX = 1_000_000  # of all expressions; the largest known policies have an eighth of that
_EXPRESSION_NODES_MAX = 10_000
_WORK_MAX = 50_000_000  # nodes looked at, in ten seconds; the largest known policies need a twentieth of that
_WORK_HELD_MAX = 4_000_000  # work whose results are remembered, in up to 300 MB
_PENDING_WORK = 30  # what it costs to look at something pending, measured in nodes

_NO_MATCH = -1
_NO_BYTES: frozenset[int] = frozenset()
_DONE = 0  # the node behind an expression that looks ahead: what follows does not matter


class _Split(NamedTuple):
    """A node that is left for any of *targets*, without reading."""

    targets: tuple[int, ...]


class _IfBehind(NamedTuple):
    """A node that is left for *after* if what was read allows it."""

    look: Behind
    after: int


class _IfAhead(NamedTuple):
    """A node that is left for *after*, with a condition on what follows; *body* is where its expression begins."""

    negative: bool
    body: int
    after: int


_Pending: TypeAlias = "frozenset[tuple[bool, _Threads]]"  # negative, and how far the expression that looks ahead got
_Thread: TypeAlias = "int | tuple[int, _Pending]"  # a node, alone if nothing is pending
_Threads: TypeAlias = "frozenset[_Thread]"

_NOTHING: _Pending = frozenset()


class State(dict[int, "State"]):
    """Where a text leads: by its next byte, the next state."""

    __slots__ = ("_automaton", "_order", "_tail", "_threads")

    def __init__(self, automaton: Automaton, threads: _Threads, tail: bytes) -> None:
        super().__init__()
        self._automaton, self._threads, self._tail = automaton, threads, tail
        self._order: int | None = None

    def __missing__(self, byte: int) -> State:
        state = self[byte] = self._automaton.step(self._threads, self._tail, byte)
        return state

    @property
    def order(self) -> int:
        """That of the best expression that matches the text so far, or -1."""
        if self._order is None:
            self._order = self._automaton.order(self._threads)
        return self._order


class Automaton:
    """Expressions, each with its order: of those that match a text the one with the highest counts."""

    def __init__(self) -> None:
        self._members: list[frozenset[int]] = [frozenset(range(256))]  # by node: the bytes that lead on
        self._after: list[int] = [_DONE]  # by node: where to
        self._inner: dict[int, _Split | _IfBehind | _IfAhead] = {}  # nodes that are left without reading
        self._orders: dict[int, int] = {}  # of the nodes where an expression ends
        self._begins: list[int] = []
        self._tail_size = 0
        self._room = 0  # for nodes of the expression that is being added
        self._work = 0
        self._work_forgotten = 0  # whose results are not remembered any more
        self._states: dict[tuple[_Threads, bytes], State] = {}

    def add(self, order: int, expression: Node) -> None:
        """Add an expression.

        Raises:
            ExpressionError: it is too large.
        """
        self._room = _EXPRESSION_NODES_MAX
        end = self._node(_NO_BYTES, _DONE)
        self._orders[end] = order
        self._begins.append(self._build(expression, end))

    def __len__(self) -> int:
        return len(self._begins)

    def start(self) -> State:
        """Return where every text begins; nothing can be added any more."""
        return self._state(self._close([*self._begins], b""), b"")

    # Building: each node is made after the one it leads to.

    def _node(self, members: frozenset[int], after: int) -> int:
        self._members.append(members)
        self._after.append(after)
        return len(self._after) - 1

    def _inner_node(self, kind: _Split | _IfBehind | _IfAhead) -> int:
        number = self._node(_NO_BYTES, _DONE)
        self._inner[number] = kind
        return number

    def _build(self, node: Node, after: int) -> int:
        """Add *node*, which leads to the node *after*, and return where it begins."""
        self._room -= 1
        if self._room < 0 or len(self._after) > NODES_MAX:
            raise ExpressionError("too large")
        match node:
            case Bytes(members):
                return self._node(members, after)
            case Sequence(nodes):
                for each in reversed(nodes):
                    after = self._build(each, after)
                return after
            case Choice(nodes):
                return self._inner_node(_Split(tuple(self._build(each, after) for each in nodes)))
            case Repeat():
                return self._build_repeat(node, after)
            case Ahead(negative, inner):
                return self._inner_node(_IfAhead(negative, self._build(inner, _DONE), after))
            case Behind(_, texts):
                self._tail_size = max(self._tail_size, *map(len, texts))
                return self._inner_node(_IfBehind(node, after))

    def _build_repeat(self, repeat: Repeat, after: int) -> int:
        inner, least, most = repeat
        begin = after
        if most is None:
            begin = self._inner_node(_Split(()))
            self._inner[begin] = _Split((self._build(inner, begin), after))
        else:
            for _ in range(most - least):
                begin = self._inner_node(_Split((self._build(inner, begin), after)))
        for _ in range(least):
            begin = self._build(inner, begin)
        return begin

    # Matching.

    def step(self, threads: _Threads, tail: bytes, byte: int) -> State:
        """Return the state after *byte*, where *tail* is what was read last before it."""
        tail = (tail + bytes((byte,)))[-self._tail_size :] if self._tail_size else b""
        return self._state(self._advance(threads, byte, tail), tail)

    def _state(self, threads: _Threads, tail: bytes) -> State:
        state = self._states.get((threads, tail))
        if state is None:
            if self._work - self._work_forgotten > _WORK_HELD_MAX:
                self._forget()
            state = self._states[threads, tail] = State(self, threads, tail)
        return state

    def _forget(self) -> None:
        """Drop all remembered states but those that somebody holds; these find their way again."""
        for state in self._states.values():
            state.clear()
        self._states.clear()
        self._work_forgotten = self._work

    def order(self, threads: _Threads) -> int:
        """Return the highest order of the expressions that *threads* complete if the text ends here, or -1."""
        orders = self._orders
        best = _NO_MATCH
        for thread in threads:
            node, pending = (thread, _NOTHING) if isinstance(thread, int) else thread
            order = orders.get(node, _NO_MATCH)
            if order > best and _holds(pending):
                best = order
        return best

    def _advance(self, threads: _Threads, byte: int, tail: bytes) -> _Threads:
        members, after = self._members, self._after
        self._spend(len(threads))
        entered: list[_Thread] = []
        for thread in threads:
            if isinstance(thread, int):
                if byte in members[thread]:
                    entered.append(after[thread])
            elif byte in members[thread[0]]:
                pending = self._advance_pending(thread[1], byte, tail)
                if pending is not None:
                    entered.append((after[thread[0]], pending) if pending else after[thread[0]])
        return self._close(entered, tail)

    def _advance_pending(self, pending: _Pending, byte: int, tail: bytes) -> _Pending | None:
        """Return what is pending after *byte*, or None if it cannot be fulfilled any more."""
        self._spend(_PENDING_WORK * len(pending))
        rest = _NOTHING
        for negative, threads in pending:
            settled = _settle(negative, self._advance(threads, byte, tail))
            if settled is None:
                return None
            rest |= settled
        return rest

    def _close(self, entered: list[_Thread], tail: bytes) -> _Threads:
        """Return the threads at nodes that read or end, which are reached from *entered* without reading."""
        inner = self._inner
        seen: set[_Thread] = set()
        found = set()
        stack = entered
        while stack:
            thread = stack.pop()
            node, pending = (thread, _NOTHING) if isinstance(thread, int) else thread
            kind = inner.get(node)
            if kind is None:
                found.add(thread)
            elif thread not in seen:
                seen.add(thread)
                if isinstance(kind, _Split):
                    stack += [(target, pending) for target in kind.targets] if pending else kind.targets
                elif isinstance(kind, _IfBehind):
                    if _is_behind(kind.look, tail):
                        stack.append((kind.after, pending) if pending else kind.after)
                else:
                    settled = _settle(kind.negative, self._close([kind.body], tail))
                    if settled is not None:
                        pending |= settled
                        stack.append((kind.after, pending) if pending else kind.after)
        self._spend(len(seen) + len(found))
        return frozenset(found)

    def _spend(self, count: int) -> None:
        self._work += count
        if self._work > _WORK_MAX:
            raise TreeError(b"/etc/selinux", "matching the expressions of the policy takes more work than is sensible")


def _settle(negative: bool, threads: _Threads) -> _Pending | None:  # noqa: FBT001  # as in every pending pair
    """Return what stays pending of looking ahead that got to *threads*, or None if it cannot be fulfilled."""
    if _DONE in threads:
        return None if negative else _NOTHING
    if not threads:
        return _NOTHING if negative else None
    return frozenset({(negative, threads)})


def _holds(pending: _Pending) -> bool:
    """Tell whether what is pending is fulfilled if the text ends here."""
    return all(
        negative
        is not any(not isinstance(thread, int) and thread[0] == _DONE and _holds(thread[1]) for thread in threads)
        for negative, threads in pending
    )


def _is_behind(look: Behind, tail: bytes) -> bool:
    """Tell whether *tail* is what *look* wants."""
    return look.negative is not any(
        len(text) <= len(tail)
        and all(byte in members for byte, members in zip(reversed(tail), reversed(text), strict=False))
        for text in look.texts
    )
