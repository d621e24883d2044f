"""Random SELinux policies for a given set of paths, in all that expressions may have."""

import random

_LITERALS = 'a b foo usr lib 64 x so 1 - A _ é / / / / z # & ~ , " % @ } ]'.split()
_ESCAPED = r"\. \- \/ \x61 \n \_ \' \& \~ \w \d \s \W \S \D".split()
_CLASSES = (
    "[^/] [ab] [^a] [a-c] []a] [^]a] [-a] [a-] [--a] []-a] [[:alpha:]] [[:^alpha:]0] [[:digit:][:upper:]] [a&&b] "
    r"[a-z&&[^b]] [a-z--b] [a-c~~b-d] [\w.] [^\w/] [\-a] [a[b/]] [[a] [a\]b] [\x61-\x62] . . [a-b-c] [&&a] [a&] [+--] "
    r"[a-\d] [\d-a] [[:foo:]] [é] [z-a] [] [^] [\n] [[.a.]] [a^] [$.] [(] [)|] [{}]"
).split()
_ASSERTIONS = r"^ $ \b \B \A \z \< \>".split()
_LOOKS = ["(?!", "(?=", "(?<!", "(?<="]
_QUANTIFIERS = [
    "*",
    "*",
    "+",
    "+",
    "?",
    "?",
    "?",
    "{2}",
    "{0,2}",
    "{1,}",
    "{0}",
    "*?",
    "+?",
    "??",
    "**",
    "{",
    "{a}",
    "{3,2}",
]
_ENDINGS = ["", "", ".*", "(/.*)?", "/[^/]*", "/.+", "[^/]+"]
_PARTS = ["[^/]*", "[^/]+", ".*", "(a|b|foo)", r"\w+"]
_WHOLE = [
    "/usr/(?!lib).*",
    r"/usr/.*(?<!\.so)",
    "/(?=usr/[ab]).*",
    ".*(?<=/a)",
    "/usr/([^/]*/)*a",
    "/usr/.*/(?!a$).*",
    r"/usr/\w+\b.*",
]
_SPECIAL = set(r".[]{}()+*?^$|\#")


def random_policy(seed: int, paths: list[str]) -> dict[str, str]:
    """Return the files of a policy by name, for some of *paths*; the same of each seed."""
    chance = random.Random(seed)
    files = {"file_contexts": _lines(chance, paths, chance.choice([1, 3, 20]))}
    for name in ("file_contexts.local", "file_contexts.homedirs"):
        if chance.random() < 0.3:
            files[name] = _lines(chance, paths, 2)
    for name in ("file_contexts.subs", "file_contexts.subs_dist"):
        if chance.random() < 0.4:
            originals = [*paths, "/", "/nothing", "usr/a", "/usr/"]
            files[name] = "".join(f"{chance.choice(paths)} {chance.choice(originals)}\n" for _ in range(3))
    return files


def _lines(chance, paths, count):
    types = ["", "", "", "--", "-d", "-l", "-p", "-s", "-b", "-c"]
    contexts = ["<<none>>", *(f"context_{i}" for i in range(8))]
    return "".join(f"{_spec(chance, paths)} {chance.choice(types)} {chance.choice(contexts)}\n" for _ in range(count))


def _spec(chance, paths):
    kind = chance.random()
    path = chance.choice(paths)
    if kind < 0.45:
        return _escaped(path) + chance.choice(_ENDINGS)
    if kind < 0.6:
        parts = [_escaped(part) for part in path.split("/")]
        parts[chance.randrange(1, len(parts))] = chance.choice([*_PARTS, _expression(chance, 2)])
        return "/".join(parts)
    if kind < 0.8:
        return chance.choice(["/usr/", "/", ".*", "/usr/.*/", "/usr(/.*)?"]) + _expression(chance, 3)
    return chance.choice(_WHOLE)


def _escaped(path):
    return "".join("\\" + each if each in _SPECIAL else each for each in path)


def _expression(chance, depth):
    return "".join(_atom(chance, depth) + _quantifier(chance) for _ in range(chance.randint(1, 4)))


def _quantifier(chance):
    return chance.choice(_QUANTIFIERS) if chance.random() < 0.3 else ""


def _atom(chance, depth):
    kind = chance.random()
    if kind < 0.35 or depth <= 0:
        return chance.choice(_LITERALS)
    if kind < 0.5:
        return chance.choice(_ESCAPED)
    if kind < 0.68:
        return chance.choice(_CLASSES)
    if kind < 0.71:
        return chance.choice(_ASSERTIONS)
    if kind < 0.76:
        return f"{chance.choice(_LOOKS)}{_expression(chance, depth - 2)})"
    begin = chance.choice(["(", "(", "(?:", f"(?P<p{chance.random()}>".replace(".", "_"), "(?<m>"])
    return begin + "|".join(_expression(chance, depth - 1) for _ in range(chance.randint(1, 3))) + ")"
