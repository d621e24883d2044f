"""Labelling by the policy in a tree: its files, its expressions, and the walk."""

import itertools
import re
import tracemalloc

import pytest

from composefs.errors import FormatError, TreeError
from composefs.selinux import Policy, relabel, strip
from composefs.selinux.nodes import ExpressionError
from composefs.selinux.syntax import parse
from composefs.tree import Directory, Inline, Leaf, Special, Stat, Symlink

LABEL = b"security.selinux"
FILES = b"/etc/selinux/targeted/contexts/files/"
CONFIG = b"SELINUXTYPE=targeted\n"
PLAIN = Stat(0o644, 0, 0, 0, 0)


def policy(contexts, config=CONFIG, **files):
    """Return the policy of file_contexts with *contexts*; of `local=...` file_contexts.local, and so on."""
    found = {b"/etc/selinux/config": config, FILES + b"file_contexts": contexts.encode()}
    found |= {FILES + f"file_contexts.{name}".encode(): text.encode() for name, text in files.items()}
    return Policy.load(found.get)


def matches(expression, path):
    """Tell whether *expression* matches all of *path*, which is text or bytes."""
    raw = path if isinstance(path, bytes) else path.encode()
    return policy(f"{expression} x").label(raw, "-") is not None


# Files of a policy.


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (b"", None),
        (b"SELINUX=enforcing\n", None),
        (b"# SELINUXTYPE=targeted\n", None),
        (b"SELINUXTYPE\n", None),
        (b"XSELINUXTYPE=targeted\n", None),
        ("\u017fELINUXTYPE=targeted\n".encode(), None),  # in capitals it would be an S
        (b"SELINUXTYPE=targeted", "targeted"),
        (b"a=b\n\t SelinuxType \t=  targeted \r\nSELINUXTYPE=mls\n\xff", "targeted"),
        ("\u3000SELINUXTYPE\u00a0=\u2003targeted\u0085\n".encode(), "targeted"),
        (b"SELINUXTYPE='targeted'\n", "'targeted'"),
    ],
)
def test_the_type_of_the_policy(config, found):
    asked = []

    def read(path):
        asked.append(path)
        return config if path == b"/etc/selinux/config" else b""

    assert (Policy.load(read) is None) == (found is None)
    if found is not None:
        base = f"/etc/selinux/{found}/contexts/files/file_contexts"
        endings = ["", ".local", ".homedirs", ".subs", ".subs_dist"]
        assert asked[1:] == [(base + ending).encode() for ending in endings]


def test_without_a_configuration_there_is_no_policy():
    assert Policy.load(lambda path: None) is None


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/etc", b"a/b", b"a\0b"])
def test_a_type_that_leads_elsewhere_is_refused(name):
    with pytest.raises(
        FormatError, match="^/etc/selinux/config, offset 2: line 2: SELINUXTYPE=.* is no name of a policy"
    ):
        policy("", b"a\nSELINUXTYPE=" + name)


def test_configured_contexts_must_be_there():
    with pytest.raises(
        TreeError, match=f"^{FILES.decode()}file_contexts: is missing, but SELinux policy is configured"
    ):
        Policy.load({b"/etc/selinux/config": CONFIG, FILES + b"file_contexts.local": b""}.get)


def test_later_files_and_later_lines_win():
    found = policy("/a x:1\n/a x:2\n", local="/b x:3\n", homedirs="/b x:4\n/c x:5\n")
    later = policy("/b x:1\n/c x:1", local="/b x:2\n")

    assert [found.label(path, "-") for path in (b"/a", b"/b", b"/c", b"/d")] == [b"x:2", b"x:4", b"x:5", None]
    assert [later.label(path, "d") for path in (b"/b", b"/c")] == [b"x:2", b"x:1"]


def test_fields_blanks_and_comments():
    found = policy("\n \t\n# /a x\n #b\n#\n  /a\t\t--  x:a  \r\n/b\u00a0y\u2028\n\n")

    assert found.label(b"/a", "-") == b"x:a"
    assert found.label(b"/a", "d") is None
    assert found.label(b"/b", "d") == b"y"


@pytest.mark.parametrize("character", "bcdpls-")
def test_types(character):
    found = policy(f"/a any\n/a -{character} typed\n")

    for other in "bcdpls-":
        assert found.label(b"/a", other) == (b"typed" if other == character else b"any")


def test_no_label_hides_what_comes_before():
    found = policy("/.* x\n/proc(/.*)? <<none>>\n/proc/a -- y\n")

    assert [found.label(path, "-") for path in (b"/b", b"/proc/b", b"/proc/a")] == [b"x", None, b"y"]


@pytest.mark.parametrize(
    ("contexts", "offset", "message"),
    [
        ("/a\n", 2, "line 1: there is no context"),
        ("\n/a --\n", 6, "line 2: there is no context"),
        ("/a -- x y\n", 8, "line 1: there is more than expression, type and context"),
        ("/a x y\n", 5, "line 1: there is more than expression, type and context"),
        ("# \u00e4\n/\u00e4 -x y", 9, "line 2: -x is no type: wanted one of -b -c -d -p -l -s --"),
        ("/a - y", 3, "line 1: - is no type"),
        ("/a -dd y", 3, "line 1: -dd is no type"),
        ("/b y\n /a( x", 6, r"line 2: expression /a\(: a group is not closed"),
    ],
)
def test_wrong_lines(contexts, offset, message):
    with pytest.raises(FormatError, match=f"^{FILES.decode()}file_contexts, offset {offset}: {message}"):
        policy(contexts)


@pytest.mark.parametrize("name", ["file_contexts", "file_contexts.local", "file_contexts.subs", "config"])
def test_policies_are_utf_8(name):
    files = {b"/etc/selinux/config": CONFIG, FILES + b"file_contexts": b""}
    path = b"/etc/selinux/config" if name == "config" else FILES + name.encode()
    files[path] = b"a b\n\na \xff"

    with pytest.raises(FormatError, match=f"{name}, offset 7: line 3: not UTF-8"):
        Policy.load(files.get)


@pytest.mark.parametrize(("text", "count"), [("/a\n", 1), ("\n/a /b /c\n", 3)])
def test_wrong_aliases(text, count):
    with pytest.raises(FormatError, match=f"file_contexts.subs_dist, .*wanted alias and original, got {count} fields"):
        policy("", subs_dist=text)


# Expressions: by groups what each matches and what it does not.

RUST = [
    ("/usr/bin", ["/usr/bin"], ["/usr/bin/", "/usr/bi", "x/usr/bin", ""]),
    ("a|b", ["a", "b"], ["ab", ""]),
    ("/a(/.*)?", ["/a", "/a/", "/a/b/c"], ["/ab"]),
    ("/.+", ["/a", "/\n", b"/\xff\xfe"], ["/", b"/a\0"]),
    ("(a|)(|b)c{2}", ["cc", "acc", "abcc", "bcc"], ["abc"]),
    ("x{2,3}y{0}z{1,}", ["xxz", "xxxzz"], ["xz", "xxxxz", "xx", "xxyz"]),
    ("a*?b+?c??", ["aabbc", "b"], ["a", "cb"]),
    ("a*+", ["", "aaa"], ["b"]),  # not possessive: a quantifier on a quantifier
    ("(a*+)a", ["a", "aa"], [""]),
    ("(a+)+b(c?)*", ["aab", "abcc"], ["b"]),
    (r"\.\*\\\/\-\_\"", ['.*\\/-_"'], ["xx"]),
    (r"\x41\x7A[\x30-\x39]", ["Az5"], ["az5"]),
    (r"\a\f\n\r\t\v", ["\a\f\n\r\t\v"], ["afnrtv"]),
    (r"\d\w\s", ["1_ ", "9Z\v"], ["a_ ", "1- ", b"1\xe9 "]),
    (r"\D\W\S", ["a-b", b"\xff\xff\xff"], ["1-b", "aab", "a- "]),
    ("[^/]+", ["ab\n", b"\xff"], ["a/b", ""]),
    ("[]a]+", ["]a"], ["b"]),
    ("[^]a]", ["b"], ["]", "a"]),
    ("[]-a]+", ["]-a"], ["^"]),  # the bracket begins no range
    ("[--a]+", ["-a"], ["0"]),
    ("[a-]+", ["a-"], ["b"]),
    ("[a-c-e]+", ["abc-e"], ["d"]),
    (r"[\]\-\\^]+", ["]-\\^"], ["a"]),
    ("[[:alpha:][:digit:]_]+", ["aZ9_"], ["-"]),
    ("[[:^alpha:]]", ["1", b"\xff"], ["a"]),
    ("[^[:space:]x]", ["a"], [" ", "x"]),
    ("[a[bc]]+", ["abc"], ["[", "]"]),
    ("[a-z&&[^b-y]]+", ["az"], ["b"]),
    ("[a-e--bd]+", ["ace"], ["b"]),
    ("[a-c~~b-d]+", ["ad"], ["b"]),
    (r"[\w&&\d]", ["1"], ["a"]),
    ("[a&&b]?", [""], ["a", "b", "&"]),
    ("[a&]+", ["a&"], ["b"]),
    ("[[:wrong:]]+", [":", "w"], ["x"]),  # a class in a class
    ("\u00e9?", ["\u00e9", ""], [b"\xc3", "\u00e9\u00e9"]),
    ("}]x", ["}]x"], ["x"]),
    ("(?:a)(?P<n>b)(?<m>c)", ["abc"], ["ab"]),
    ("^/a", ["/a"], ["//a"]),
    ("/^a", [], ["/a", "/^a"]),
    ("/a$", [], ["/a", "/a$"]),  # behind it comes the character for the type
    (r"\A/a(\z|b)", ["/ab"], ["/a"]),
    (r"/a\b.*", ["/a", "/a-b"], ["/ab", "/a_"]),
    (r"/a\B.*", ["/ab"], ["/a", "/a-"]),
    (r"/\<a.*", ["/a"], ["//a"]),
    (r".*a\>-", ["a-", "xa-"], ["ab-"]),
    (r".*\b{start}a\b{end}.*", ["a", "b-a"], ["ab", "ba"]),
    (r".*\b{start-half}-\b{end-half}.*", ["-", "a--"], ["a-", "-a"]),
    (r".*\b{2}a\>{0}.*", ["a", "-ab"], ["ba"]),
]
PCRE = [
    ("/a(?!b).*", ["/a", "/ac", "/ab"[:2]], ["/ab", "/abc"]),
    ("/(?!lib$|lib/).*", ["/usr", "/lib64", "/"], ["/lib/x"]),
    ("/a(?=b|c).*", ["/ab", "/acd"], ["/a", "/ad"]),
    ("/.*(?<!\\.so)", ["/a", "/a.so.1", "/so"], ["/a.so", "/.so"]),
    ("/.*(?<=a|bc)", ["/a", "/xbc"], ["/b", "/"]),
    ("/.*(?<=b{2}c?)x", ["/abbx", "/bbcx"], ["/bx", "/bcx"]),
    ("/((?!ab).)*", ["/", "/ba", "/aab"[:3]], ["/ab", "/aab"]),
    ("/(?!.*(?=xy)).*", ["/x", "/yx"], ["/axyb"]),
    ("/(?=.*(?!-).a).*", ["/ba", "/ab-aa"], ["/-b"]),
    ("(?!)a", [], ["a"]),
    ("(?=)a", ["a"], ["b"]),
    ("x?a(?<!xa)b|c", ["ab", "c"], ["xab"]),
    ("a{b}(?!x)", ["a{b}"], ["a", "ab"]),  # a brace that is no count
    ("[[a]+(?!x)", ["[a"], ["b", "]"]),  # classes are not nested
    ("[]-a]+(?!x)", ["]^_a"], ["-"]),  # a range
    (r"\e\-\<(?!x)", ["\x1b-<"], ["e-<"]),
    ("a.b(?!x)", ["a-b", b"a\0b"], ["a\nb"]),
    ("\u00e9?(?!x)", ["\u00e9", b"\xc3"], [""]),  # bytes, not characters
    (r"a(?!x)\Z", [], ["a"]),
    (r"a\b{x}", ["a{x}"], ["a"]),
]


@pytest.mark.parametrize(("expression", "good", "bad"), RUST + PCRE)
def test_expressions(expression, good, bad):
    assert [path for path in good if not matches(expression, path)] == []
    assert [path for path in bad if matches(expression, path)] == []


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a)", "a parenthesis too many"),
        ("(a", "a group is not closed"),
        ("(", "a group is not closed"),
        ("*a", "nothing to repeat before *"),
        ("a|+", "nothing to repeat before +"),
        ("(?", "groups that begin with (? are not supported"),
        ("(?i)a", "groups that begin with (?i are not supported"),
        ("(?>a)", "groups that begin with (?> are not supported"),
        ("(?P<1>a)", "groups that begin with (?P are not supported"),
        ("(?<m>a)(?P<m>b)", "two groups are called m"),
        ("[a", "a class is not closed"),
        ("[]", "a class is not closed"),
        ("[^", "a class is not closed"),
        ("[b-a]", "a range that ends before it begins"),
        (r"[\d-a]", "a range that begins with a class"),
        (r"[a-\d]", r"escape sequence \d is not supported"),
        ("[[.a.]](?!x)", "a named class that does not exist"),
        ("a{2,1}", "{2,1} is no count"),
        ("a{,2}", "a brace that is no quantifier"),
        ("a++(?!x)", "quantifiers on quantifiers or assertions are not supported"),
        ("^*(?!x)", "quantifiers on quantifiers or assertions are not supported"),
        (r"(a)\1", r"escape sequence \1 is not supported"),
        (r"\pL", r"escape sequence \p is not supported"),
        (r"\Qa\E", r"escape sequence \Q is not supported"),
        (r"\x{41}", r"escape sequence \x is not supported"),
        (r"\b{2}(?!x)", "quantifiers on quantifiers or assertions are not supported"),
        ("a\\", "escape sequence \\ is not supported"),
        ("(?<=a*)b", "looks behind for something of unlimited length"),
        ("(?<=(?=a))b", "looks behind for something of unlimited length"),
        ("(?<=a{256})b", "looks behind for something of unlimited length"),
        ("(?<=(a{200}){2})b", "looks too far behind"),
        ("(?<=(a|b){8})b", "looks too far behind"),
        ("(" * 51 + ")" * 51, "more than 50 groups or classes in one another"),
        ("[" * 51 + "a" + "]" * 51, "more than 50 groups or classes in one another"),
        ("a" + "*" * 51, "more than 50 quantifiers on one another"),
        ("(?<=^a)b", "looks behind for something of unlimited length"),
    ],
)
def test_what_is_no_expression(expression, message):
    with pytest.raises(ExpressionError, match=f"^{re.escape(message)}$"):
        parse(expression)


@pytest.mark.parametrize(
    "expression", ["((a{100}){100}){100}", "(((){1000}){1000}){1000}", "a{70000}", "(?=a{20000})", "[ab]{9999}{9}"]
)
def test_expressions_that_are_too_large(expression):
    with pytest.raises(FormatError, match="line 1: expression .*: too large$"):
        policy(f"{expression} x")


def test_policies_that_are_too_large():
    with pytest.raises(FormatError, match="line 125: expression .*: too large$"):
        policy("a{8000} x\n" * 200)


# What takes a backtracking engine years, and what makes an automaton grow without bound.
HOSTILE = [
    ["/([ab]+)+c"],
    ["/(([ab]*)*)*c", "/([ab]|[ab][ab])*c", "/(.*)(.*)(.*)(.*)(.*)(.*)c"],
    ["([ab]?){4000}x"],
    ["/((?!b)a|(?!a)b)*x", "/((?=.*b)[ab])*"],
    [f".*a.{{{size}}}" for size in range(100)],
    [f".*(?!.*a.{{{size}}}b).*(?=.*b)" for size in range(30)],
]


def hostile_tree():
    """Return a tree of 4,000 names of 120 bytes, all of them a and b."""
    names = (f"{i * 2654435761 % (1 << 62):0120b}".translate({48: "a", 49: "b"}).encode() for i in range(4000))
    return Directory(PLAIN, {name: Leaf(PLAIN, Inline(b"")) for name in names})


@pytest.mark.parametrize("expressions", HOSTILE[:4])
def test_backtracking_does_not_explode(expressions):
    relabel(hostile_tree(), policy("".join(f"{each} x\n" for each in expressions)))


@pytest.mark.parametrize("expressions", HOSTILE[4:])
def test_work_is_bounded(expressions, monkeypatch):
    monkeypatch.setattr("composefs.selinux.automaton._WORK_MAX", 1_000_000)
    with pytest.raises(
        TreeError, match="^/etc/selinux: matching the expressions of the policy takes more work than is"
    ):
        relabel(hostile_tree(), policy("".join(f"{each} x\n" for each in expressions)))


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("composefs.selinux.automaton._WORK_HELD_MAX", 20_000)
    found = policy("".join(f".*a.{{{size}}} x{size}\n" for size in range(40)))
    names = list(hostile_tree().entries)[:40]
    monkeypatch.setattr("composefs.selinux.automaton._WORK_MAX", 1 << 60)

    tracemalloc.start()
    labels = [found.label(name, "-") for name in names]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 20 << 20
    assert labels == [next(f"x{n}".encode() for n in range(39, -1, -1) if name[-n - 1] == 97) for name in names]


def test_a_state_that_was_forgotten_finds_its_way_again(monkeypatch):
    found = policy("/usr/(bin|lib)/.* x\n/usr/bin/a y\n")
    before = found.label(b"/usr/bin/a", "-"), found.label(b"/usr/lib/a", "-")
    monkeypatch.setattr("composefs.selinux.automaton._WORK_HELD_MAX", 0)

    assert (found.label(b"/usr/bin/a", "-"), found.label(b"/usr/lib/a", "-")) == before == (b"y", b"x")


def test_expressions_agree_with_python_where_both_mean_the_same():
    """All expressions of up to three parts against all texts of up to four letters."""
    parts = ["a", "b", ".", "[^a]", "(a|bb)", "(a|b*)*", "a?", "b+", "(ab){1,2}", "(?!a)", "(?=b.)", "(?<!a)", "(?<=b)"]
    texts = ["".join(each) for size in range(5) for each in itertools.product("ab", repeat=size)]
    expressions = ["".join(each) for size in range(1, 4) for each in itertools.product(parts, repeat=size)]
    for expression in expressions[::7]:
        wanted = [text for text in texts if re.fullmatch(f"(?:{expression})-", text + "-")]
        found = policy(f"{expression} x")

        assert [text for text in texts if found.label(text.encode(), "-")] == wanted, expression


# The walk.


def leaf(kind=None, label=None):
    info = PLAIN if label is None else PLAIN._replace(xattrs={LABEL: label})
    return Leaf(info, Inline(b"") if kind is None else kind)


def label_of(root, path):
    return root.node(path).stat.xattrs.get(LABEL)


def directory(**entries):
    return Directory(PLAIN, {name.encode(): node for name, node in entries.items()})


def test_every_node_is_labelled_by_its_type():
    kinds = {"b": 0o060000, "c": 0o020000, "p": 0o010000, "s": 0o140000}
    root = directory(
        usr=directory(f=leaf(), l=leaf(Symlink(b"x")), **{name: leaf(Special(kind)) for name, kind in kinds.items()})
    )

    relabel(root, policy("".join(f"/.* -{each} is_{each}\n" for each in "bcdpls") + "/.* -- is_file\n"))

    assert label_of(root, b"/") == label_of(root, b"/usr") == b"is_d"
    assert label_of(root, b"/usr/f") == b"is_file"
    for name in "bcpsl":
        assert label_of(root, f"/usr/{name}".encode()) == f"is_{name}".encode()


def test_old_labels_are_replaced_or_removed_and_other_attributes_stay():
    info = PLAIN._replace(xattrs={b"user.a": b"a", LABEL: b"old", b"user.b": b"b"})
    root = directory(
        new=Leaf(info, Inline(b"")), none=Leaf(info, Inline(b"")), same=leaf(label=b"x"), other=leaf(label=b"o")
    )
    same = root.entries[b"same"].stat

    relabel(root, policy("/new x\n/same x\n/none x\n/none <<none>>\n"))

    assert root.entries[b"new"].stat.xattrs == {b"user.a": b"a", b"user.b": b"b", LABEL: b"x"}
    assert root.entries[b"none"].stat.xattrs == {b"user.a": b"a", b"user.b": b"b"}
    assert root.entries[b"other"].stat == PLAIN
    assert root.entries[b"same"].stat is same
    assert info.xattrs == {b"user.a": b"a", LABEL: b"old", b"user.b": b"b"}  # shared with other trees


def test_strip():
    shared = leaf(label=b"x")
    root = directory(a=shared, b=shared, d=Directory(PLAIN._replace(xattrs={LABEL: b"d", b"user.a": b"a"})))
    root.stat = PLAIN._replace(xattrs={LABEL: b"r"})

    strip(root)

    assert root.stat == shared.stat == PLAIN
    assert root.entries[b"d"].stat.xattrs == {b"user.a": b"a"}
    assert root.entries[b"a"] is root.entries[b"b"]


def test_aliases_stand_for_a_path_and_all_below():
    root = directory(
        run=directory(lock=directory(f=leaf())),
        usr=directory(lib64=directory(bin=directory(f=leaf()), l=leaf()), lib6=leaf()),
    )
    contexts = "/.* any\n/var/lock/f lock\n/usr/lib/.* lib\n/opt/f opt\n/ root\n"

    relabel(root, policy(contexts, subs="/run/lock /var/lock\n/usr/lib64 /usr/lib\n/usr/lib/bin /opt\n"))

    assert label_of(root, b"/run/lock/f") == b"lock"
    assert label_of(root, b"/usr/lib64") == b"any"
    assert label_of(root, b"/usr/lib64/l") == b"lib"
    assert label_of(root, b"/usr/lib64/bin/f") == b"opt"  # looked up behind the first alias
    assert label_of(root, b"/usr/lib6") == b"any"
    assert label_of(root, b"/") == b"root"


def test_of_two_aliases_the_later_file_wins_and_the_root_has_none():
    root = directory(a=leaf(), b=directory(c=leaf()))
    contexts = "/x x\n/y y\n/ root\n/c c\n/b/c deep\n"

    relabel(root, policy(contexts, subs="/a /x\n/ /x\n/b /\n", subs_dist="/a /x\n/a /y\n"))

    assert label_of(root, b"/a") == b"y"
    assert label_of(root, b"/") == b"root"
    assert label_of(root, b"/b") == b"root"
    assert label_of(root, b"/b/c") == b"c"


def test_hard_links_that_want_other_labels_are_broken():
    shared = leaf(label=b"old")
    root = directory(a=directory(z=shared), b=shared, c=shared, d=shared, e=shared)

    relabel(root, policy("/a/z first\n/b first\n/c other\n/d other\n/e <<none>>\n"))

    entries = root.entries
    assert entries[b"b"] is entries[b"a"].entries[b"z"] is shared
    assert [label_of(root, path) for path in (b"/b", b"/c", b"/d", b"/e")] == [b"first", b"other", b"other", None]
    assert len({id(entries[name]) for name in (b"b", b"c", b"d", b"e")}) == 4
    assert entries[b"c"].content is shared.content


def test_the_first_name_in_order_labels_a_leaf():
    """Depth first and by bytes: what is in a directory comes before the names behind it."""
    shared = leaf()
    root = directory(b=shared, a=directory(z=directory(y=shared)), B=directory())

    relabel(root, policy("/.* any\n/a/z/y deep\n"))

    assert root.entries[b"a"].entries[b"z"].entries[b"y"] is shared
    assert label_of(root, b"/a/z/y") == b"deep"
    assert root.entries[b"b"] is not shared


def test_licences_linked_across_packages_stay_one_file():
    shared = leaf()
    names = ["glibc", "systemd", "zlib"]
    root = directory(
        usr=directory(share=directory(licenses=directory(**{name: directory(GPL=shared) for name in names})))
    )

    relabel(root, policy("/.* any\n/usr/share(/.*)? usr\n/usr/share/licenses/zlib/GPL usr\n"))

    assert {id(root.node(f"/usr/share/licenses/{name}/GPL".encode())) for name in names} == {id(shared)}


def test_deep_trees_do_not_recurse():
    root = below = directory()
    for _ in range(5000):
        below.entries[b"d"] = below = directory()

    relabel(root, policy("/(d/)*d deep\n"))

    assert below.stat.xattrs == {LABEL: b"deep"}
