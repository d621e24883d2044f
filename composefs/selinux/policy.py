"""The policy of a tree: which SELinux label each path is to have.

A specification is an expression for the path followed by one character for the type; of all that match, in whatever
file, the last counts.  Those without assertions make one automaton, the others, which are rare, a second: it has more
states.

Source: file_contexts(5), selinux_config(5), file_contexts.subs in selabel_file(5); where these and composefs-rs 0.9.4
do not agree on the order of files or the syntax of expressions, the latter counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import NamedTuple, TypeAlias

from composefs.errors import FormatError, TreeError
from composefs.selinux.automaton import Automaton, State
from composefs.selinux.nodes import ExpressionError, Sequence
from composefs.selinux.syntax import parse

Read: TypeAlias = Callable[[bytes], bytes | None]
Position: TypeAlias = tuple[State, ...]  # where a path leads to, in each automaton

# Unicode's White_Space.  Python's own idea of it has U+001C to U+001F, too.
WHITE_SPACE = "".join(each for each in map(chr, range(0x3001)) if each.isspace() and each not in "\x1c\x1d\x1e\x1f")

_CONFIG = b"/etc/selinux/config"
_CONTEXT_FILES = (b"file_contexts", b"file_contexts.local", b"file_contexts.homedirs")  # the first is mandatory
_ALIAS_FILES = (b"file_contexts.subs", b"file_contexts.subs_dist")
_NO_LABEL = "<<none>>"
_FIELD = re.compile(f"[^{WHITE_SPACE}]+")
_TYPES = {f"-{character}": parse(re.escape(character)).node for character in "bcdpls-"}
_ANY_TYPE = parse(".").node


@dataclass(frozen=True, slots=True)
class Policy:
    """What the policy of a tree says of every path."""

    aliases: dict[bytes, bytes]  # from a path to the one whose place it takes, with all below it
    start: Position  # before a path
    contexts: list[bytes | None]  # by order of specification; without a trailing NUL; None: no label

    @classmethod
    def load(cls, read: Read) -> Policy | None:
        """Return the policy of a tree, or None if it has none.

        Args:
            read: gives the contents of a file of the tree by its absolute path, None if there is no such file.

        Raises:
            FormatError: a line of the policy is wrong, or its expression cannot be matched.
            TreeError: a policy is configured, but not there.
        """
        config = read(_CONFIG)
        policy_type = None if config is None else _policy_type(config)
        if policy_type is None:
            return None
        base = b"/etc/selinux/" + policy_type.encode() + b"/contexts/files/"
        contexts: list[bytes | None] = []
        automata = _Automata(Automaton(), Automaton())
        for name in _CONTEXT_FILES:
            data = read(base + name)
            if data is None and name == _CONTEXT_FILES[0]:
                raise TreeError(base + name, "is missing, but SELinux policy is configured and must have it")
            for line in _lines(base + name, data or b""):
                contexts.append(_add_specification(automata, len(contexts), line))
        aliases = {}
        for name in _ALIAS_FILES:
            for line in _lines(base + name, read(base + name) or b""):
                alias, original = _alias(line)
                aliases[alias] = original
        return cls(aliases, automata.start(), contexts)

    def label(self, path: bytes, type_character: str) -> bytes | None:
        """Return the context of *path*, or None if it is to have none.

        Args:
            path: absolute, aliases resolved.
            type_character: `-` regular file, `d`, `l`, `c`, `b`, `p` or `s`.

        Raises:
            TreeError: matching takes too much work.
        """
        return self.context(advance(self.start, path), ord(type_character))

    def context(self, position: Position, type_character: int) -> bytes | None:
        """Return the context of the path that led to *position*; see `label`."""
        order = max([state[type_character].order for state in position])
        return self.contexts[order] if order >= 0 else None


def advance(position: Position, path: bytes) -> Position:
    """Return where *path* leads to from *position*."""
    return tuple([reduce(getitem, path, state) for state in position])


class _Automata(NamedTuple):
    """The specifications of a policy."""

    plain: Automaton
    looking: Automaton

    def start(self) -> Position:
        return (self.plain.start(), self.looking.start()) if len(self.looking) else (self.plain.start(),)


class _Line(NamedTuple):
    """A line of a policy file that says something."""

    source: str
    number: int  # from 1
    offset: int  # of its first byte, from the start of the file
    text: str
    fields: list[re.Match[str]]

    def error(self, position: int, what: str) -> FormatError:
        """Return the error that *what* is wrong at character *position*."""
        return FormatError(self.source, self.offset + len(self.text[:position].encode()), f"line {self.number}: {what}")


def _lines(path: bytes, data: bytes) -> Iterator[_Line]:
    """Yield the lines of a policy file that are neither blank nor comments."""
    source = path.decode("utf-8", "backslashreplace")
    offset = 0
    for number, raw in enumerate(data.split(b"\n"), 1):
        text = _decode(source, number, offset, raw)
        fields = list(_FIELD.finditer(text))
        if fields and not fields[0][0].startswith("#"):
            yield _Line(source, number, offset, text, fields)
        offset += len(raw) + 1


def _decode(source: str, number: int, offset: int, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise FormatError(source, offset + error.start, f"line {number}: not UTF-8") from None


def _policy_type(config: bytes) -> str | None:
    """Return the value of the first line `SELINUXTYPE=...`, which is a name in /etc/selinux."""
    offset = 0
    for number, raw in enumerate(config.split(b"\n"), 1):
        key, equals, value = _decode(_CONFIG.decode(), number, offset, raw).partition("=")
        if equals and key.strip(WHITE_SPACE).encode().upper() == b"SELINUXTYPE":
            name = value.strip(WHITE_SPACE)
            if name in {"", ".", ".."} or "/" in name or "\0" in name:
                raise FormatError(_CONFIG.decode(), offset, f"line {number}: SELINUXTYPE={name} is no name of a policy")
            return name
        offset += len(raw) + 1
    return None


def _add_specification(automata: _Automata, order: int, line: _Line) -> bytes | None:
    """Add the expression of *line*, and return its context."""
    fields = line.fields
    has_type = len(fields) > 1 and fields[1][0].startswith("-")
    wanted = 3 if has_type else 2
    if len(fields) < wanted:
        raise line.error(len(line.text), "there is no context")
    if len(fields) > wanted:
        raise line.error(fields[wanted].start(), "there is more than expression, type and context")
    type_node = _TYPES.get(fields[1][0]) if has_type else _ANY_TYPE
    if type_node is None:
        raise line.error(fields[1].start(), f"{fields[1][0]} is no type: wanted one of {' '.join(_TYPES)}")
    try:
        node, looks_around = parse(fields[0][0])
        automaton = automata.looking if looks_around else automata.plain
        automaton.add(order, Sequence((node, type_node)))
    except ExpressionError as error:
        raise line.error(fields[0].start(), f"expression {fields[0][0]}: {error}") from None
    context = fields[-1][0]
    return None if context == _NO_LABEL else context.encode()


def _alias(line: _Line) -> tuple[bytes, bytes]:
    if len(line.fields) != 2:
        raise line.error(line.fields[0].start(), f"wanted alias and original, got {len(line.fields)} fields")
    alias, original = (field[0].encode() for field in line.fields)
    return alias, original
