r"""Expressions of a policy as a tree of nodes, in either of two syntaxes.

composefs-rs reads an expression as Rust's regex-syntax has it, for bytes; what does not parse so, mostly because it
looks around, it hands to PCRE2.  The same text may mean different things to the two (`a*+`, `[a&&b]`, `.`), so both are
parsed here.  What neither has is an error, and so are flags and what of PCRE2 no automaton can match: back references,
possessive quantifiers and atomic groups.

Source: the crates regex-syntax 0.8 and regex-automata 0.4, pcre2pattern(3).
"""

from __future__ import annotations

import re
import string
from enum import Enum
from itertools import product
from typing import NamedTuple

from composefs.selinux.nodes import Ahead, Behind, Bytes, Choice, ExpressionError, Node, Repeat, Sequence


class _TooDeepError(ExpressionError):
    """An expression that is nested too deeply to be parsed in either syntax."""


class _Syntax(Enum):
    RUST = "utf-8"  # the value: which bytes a character stands for
    PCRE = "latin-1"  # without its UTF mode every byte is a character


class Expression(NamedTuple):
    """A whole expression."""

    node: Node
    looks_around: bool  # it has an assertion


def parse(expression: str) -> Expression:
    """Parse an expression as Rust's, or else as one of PCRE2.

    Raises:
        ExpressionError: it is neither.
    """
    try:
        return _Parser(expression, _Syntax.RUST).run()
    except _TooDeepError:
        raise
    except ExpressionError:
        return _Parser(expression.encode().decode("latin-1"), _Syntax.PCRE).run()


def _bytes_of(characters: str) -> frozenset[int]:
    return frozenset(characters.encode())


_ALL = frozenset(range(256))
_SINGLE = [Bytes(frozenset({byte})) for byte in range(256)]
_POSIX = {
    "alnum": _bytes_of(string.ascii_letters + string.digits),
    "alpha": _bytes_of(string.ascii_letters),
    "ascii": frozenset(range(128)),
    "blank": _bytes_of(" \t"),
    "cntrl": frozenset([*range(32), 127]),
    "digit": _bytes_of(string.digits),
    "graph": frozenset(range(33, 127)),
    "lower": _bytes_of(string.ascii_lowercase),
    "print": frozenset(range(32, 127)),
    "punct": _bytes_of(string.punctuation),
    "space": _bytes_of(" \t\n\v\f\r"),
    "upper": _bytes_of(string.ascii_uppercase),
    "word": _bytes_of(string.ascii_letters + string.digits + "_"),
    "xdigit": _bytes_of(string.hexdigits),
}
_PERL_CLASSES = {"d": _POSIX["digit"], "s": _POSIX["space"], "w": _POSIX["word"]}
_PERL_CLASSES |= {name.upper(): _ALL - members for name, members in _PERL_CLASSES.items()}
_DOT = {_Syntax.RUST: _ALL - {0}, _Syntax.PCRE: _ALL - _bytes_of("\n")}
_CONTROLS = {
    _Syntax.RUST: {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11},
    _Syntax.PCRE: {"a": 7, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9},
}

_START = Behind(negative=True, texts=((_ALL,),))
_END = Ahead(negative=True, node=Bytes(_ALL))
_AFTER_WORD, _AFTER_OTHER = (Behind(negative, ((_POSIX["word"],),)) for negative in (False, True))
_BEFORE_WORD, _BEFORE_OTHER = (Ahead(negative, Bytes(_POSIX["word"])) for negative in (False, True))
_WORD_START, _WORD_END = Sequence((_AFTER_OTHER, _BEFORE_WORD)), Sequence((_AFTER_WORD, _BEFORE_OTHER))
_BOUNDARY = Choice((_WORD_START, _WORD_END))
_NO_BOUNDARY = Choice((Sequence((_AFTER_WORD, _BEFORE_WORD)), Sequence((_AFTER_OTHER, _BEFORE_OTHER))))
_ASSERTIONS: dict[_Syntax, dict[str, Node]] = {
    _Syntax.RUST: {
        "A": _START,
        "z": _END,
        "b": _BOUNDARY,
        "B": _NO_BOUNDARY,
        "<": _WORD_START,
        ">": _WORD_END,
    },
    # PCRE2's end is also before a newline that ends the text, but no text here ends so.
    _Syntax.PCRE: {"A": _START, "z": _END, "Z": _END, "b": _BOUNDARY, "B": _NO_BOUNDARY},
}

_NAMED_BOUNDARIES: dict[str, Node] = {
    "start": _WORD_START,
    "end": _WORD_END,
    "start-half": _AFTER_OTHER,
    "end-half": _BEFORE_OTHER,
}

_TEXT = re.compile(r"[^][\\.+*?(){}|^$]+")  # without anything special
_NAMED_BOUNDARY = re.compile(rf"\\b\{{({'|'.join(_NAMED_BOUNDARIES)})\}}")
_POSIX_CLASS = re.compile(r"\[:(\^?)([a-z]+):\]")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})")
_COUNT = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}")
_GROUP = re.compile(r"\((?:\?(?::|P?<([A-Za-z_][A-Za-z0-9_]*)>))?(?!\?)")
_LOOK = re.compile(r"\(\?(<?)([=!])")
_SET_OPERATORS = ("&&", "--", "~~")
_DEPTH_MAX = 50  # a guess: groups and nested classes in one another
_BEHIND_MAX = 255  # texts, and bytes of each: what PCRE2 allows at most


class _Parser:
    """Reads one expression from left to right."""

    def __init__(self, text: str, syntax: _Syntax) -> None:
        self._text, self._syntax = text, syntax
        self._rust = syntax is _Syntax.RUST
        self._at = 0
        self._depth = 0
        self._names: set[str] = set()  # of groups
        self._looks_around = False

    def run(self) -> Expression:
        node = self._choice()
        if self._at < len(self._text):
            raise ExpressionError("a parenthesis too many")
        return Expression(node, self._looks_around)

    def _choice(self) -> Node:
        nodes = [self._sequence()]
        while self._text.startswith("|", self._at):
            self._at += 1
            nodes.append(self._sequence())
        return nodes[0] if len(nodes) == 1 else Choice(tuple(nodes))

    def _sequence(self) -> Node:
        text = self._text
        nodes: list[Node] = []
        while self._at < len(text) and text[self._at] not in "|)":
            run = _TEXT.match(text, self._at)
            if run is not None:
                self._at = run.end()
                nodes += [_SINGLE[byte] for byte in run[0][:-1].encode(self._syntax.value)]
                atom = self._character(run[0][-1])
            else:
                atom = self._atom(text[self._at])
            nodes.append(self._repeated(atom))
        return nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))

    def _character(self, character: str) -> Node:
        encoded = character.encode(self._syntax.value)
        return _SINGLE[encoded[0]] if len(encoded) == 1 else Sequence(tuple(_SINGLE[byte] for byte in encoded))

    def _atom(self, character: str) -> Node:
        if character == "(":
            return self._group()
        if character == "\\":
            return self._escape()
        if character == "[":
            return Bytes(self._class())
        if character in "*+?" or (character == "{" and self._is_count()):
            raise ExpressionError(f"nothing to repeat before {character}")
        self._at += 1
        if character == ".":
            return Bytes(_DOT[self._syntax])
        if character in "^$":
            self._looks_around = True
            return _START if character == "^" else _END
        return self._character(character)

    def _is_count(self) -> bool:
        """Tell whether the brace here is a quantifier; if not it is an error in Rust, and itself in PCRE2."""
        if _COUNT.match(self._text, self._at):
            return True
        if self._rust or self._text.startswith("{,", self._at):  # of the latter PCRE2's versions think differently
            raise ExpressionError("a brace that is no quantifier")
        return False

    def _repeated(self, node: Node) -> Node:
        """Pass over the quantifiers here, and return *node* repeated as they want."""
        text = self._text
        count = 0
        while self._at < len(text) and (
            (character := text[self._at]) in "*+?" or (character == "{" and self._is_count())
        ):
            count += 1
            if not self._rust and (count > 1 or any(node is each for each in _ASSERTIONS[self._syntax].values())):
                raise ExpressionError("quantifiers on quantifiers or assertions are not supported")
            if count > _DEPTH_MAX:
                raise _TooDeepError(f"more than {_DEPTH_MAX} quantifiers on one another")
            node = self._once_repeated(node, character)
        return node

    def _once_repeated(self, node: Node, character: str) -> Node:
        if character == "{":
            count = _COUNT.match(self._text, self._at)
            assert count is not None
            self._at = count.end()
            least = int(count[1])
            most = int(count[3]) if count[3] else None if count[2] else least
            if most is not None and least > most:
                raise ExpressionError(f"{count[0]} is no count")
        else:
            self._at += 1
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        if self._text.startswith("?", self._at):
            self._at += 1  # which match is found first matters to nobody: only whether there is one
        return Repeat(node, least, most)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise _TooDeepError(f"more than {_DEPTH_MAX} groups or classes in one another")

    def _group(self) -> Node:
        text = self._text
        look = None if self._rust else _LOOK.match(text, self._at)
        begin = look or _GROUP.match(text, self._at)
        if begin is None:
            raise ExpressionError(f"groups that begin with {text[self._at : self._at + 3]} are not supported")
        if look is None and (name := begin[1]) is not None:
            if name in self._names:
                raise ExpressionError(f"two groups are called {name}")
            self._names.add(name)
        self._enter()
        self._at = begin.end()
        node = self._choice()
        if not text.startswith(")", self._at):
            raise ExpressionError("a group is not closed")
        self._at += 1
        self._depth -= 1
        if look is None:
            return node
        self._looks_around = True
        negative = look[2] == "!"
        return Behind(negative, _texts(node)) if look[1] else Ahead(negative, node)

    def _escape(self) -> Node:
        character = self._text[self._at + 1 : self._at + 2]
        if character in _PERL_CLASSES:
            self._at += 2
            return Bytes(_PERL_CLASSES[character])
        if character in _ASSERTIONS[self._syntax]:
            self._looks_around = True
            if self._rust and (named := _NAMED_BOUNDARY.match(self._text, self._at)) is not None:
                self._at = named.end()
                return _NAMED_BOUNDARIES[named[1]]
            self._at += 2
            return _ASSERTIONS[self._syntax][character]
        return _SINGLE[self._escaped_byte()]

    def _escaped_byte(self) -> int:
        """Pass over an escape sequence that stands for one byte."""
        character = self._text[self._at + 1 : self._at + 2]
        hexadecimal = _HEX.match(self._text, self._at + 1)
        if hexadecimal is not None:
            self._at = hexadecimal.end()
            return int(hexadecimal[1], 16)
        value = _CONTROLS[self._syntax].get(character)
        if value is None:
            if not character or not character.isascii() or character.isalnum() or (self._rust and character in "<>"):
                raise ExpressionError(f"escape sequence \\{character} is not supported")
            value = ord(character)
        self._at += 2
        return value

    def _class(self) -> frozenset[int]:
        """Pass over a class in brackets, and return its members."""
        text = self._text
        self._enter()
        self._at += 1
        negated = text.startswith("^", self._at)
        self._at += negated
        members = self._first_members() | self._members()
        while (operator := text[self._at : self._at + 2]) in _SET_OPERATORS:
            self._at += 2
            right = self._members()
            members = {"&&": members & right, "--": members - right, "~~": members ^ right}[operator]
        self._at += 1  # the closing bracket
        self._depth -= 1
        return _ALL - members if negated else members

    def _first_members(self) -> frozenset[int]:
        """Pass over what is literal only where a class begins: a closing bracket, and in Rust hyphens."""
        text = self._text
        begin = self._at
        if self._rust:
            while text.startswith("-", self._at):
                self._at += 1
        if self._at == begin and text.startswith("]", self._at):
            if not self._rust:
                return self._class_item()  # it may begin a range
            self._at += 1
        return _bytes_of(text[begin : self._at])

    def _members(self) -> frozenset[int]:
        """Pass over items up to the closing bracket or an operator, and return the members of all."""
        text = self._text
        members: frozenset[int] = frozenset()
        while not text.startswith("]", self._at):
            if self._at >= len(text):
                raise ExpressionError("a class is not closed")
            if self._rust and text[self._at : self._at + 2] in _SET_OPERATORS:
                break
            members |= self._class_item()
        return members

    def _class_item(self) -> frozenset[int]:
        text = self._text
        posix = _POSIX_CLASS.match(text, self._at)
        if posix is not None and posix[2] in _POSIX:
            self._at = posix.end()
            return _ALL - _POSIX[posix[2]] if posix[1] else _POSIX[posix[2]]
        if text[self._at] == "[":
            if self._rust:
                return self._class()
            if text[self._at : self._at + 2] in {"[:", "[.", "[="}:
                raise ExpressionError("a named class that does not exist")
        if text[self._at] == "\\" and (named := _PERL_CLASSES.get(text[self._at + 1 : self._at + 2])) is not None:
            self._at += 2
            if text.startswith("-", self._at) and text[self._at + 1 : self._at + 2] not in {"-", "]"}:
                raise ExpressionError("a range that begins with a class")
            return named
        low = self._class_byte()
        following = text[self._at : self._at + 2]
        if not following.startswith("-") or following == "-]" or (self._rust and following == "--"):
            return frozenset({low})
        self._at += 1
        high = self._class_byte()
        if high < low:
            raise ExpressionError("a range that ends before it begins")
        return frozenset(range(low, high + 1))

    def _class_byte(self) -> int:
        character = self._text[self._at : self._at + 1]
        if character == "\\":
            return self._escaped_byte()
        encoded = character.encode(self._syntax.value)
        if len(encoded) != 1:
            raise ExpressionError("classes have single bytes only")
        self._at += 1
        return encoded[0]


def _texts(node: Node) -> tuple[tuple[frozenset[int], ...], ...]:
    """Return all sequences of classes that *node*, which looks behind, can match."""
    found = _texts_of(node)
    if len(found) > _BEHIND_MAX or any(len(text) > _BEHIND_MAX for text in found):
        raise ExpressionError("looks too far behind")
    return found


def _texts_of(node: Node) -> tuple[tuple[frozenset[int], ...], ...]:
    match node:
        case Bytes(members):
            return ((members,),)
        case Choice(nodes):
            return tuple(text for each in nodes for text in _texts(each))
        case Sequence(nodes):
            texts: tuple[tuple[frozenset[int], ...], ...] = ((),)
            for each in nodes:
                more = _texts(each)
                if len(texts) * len(more) > _BEHIND_MAX:
                    raise ExpressionError("looks too far behind")
                texts = tuple(before + after for before, after in product(texts, more))
            return texts
        case Repeat(inner, least, most) if most is not None and most <= _BEHIND_MAX:
            return tuple(text for count in range(least, most + 1) for text in _texts(Sequence((inner,) * count)))
        case _:
            raise ExpressionError("looks behind for something of unlimited length")
