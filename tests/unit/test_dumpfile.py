r"""Dumps: what is written, what each dialect takes, and where in the input each mistake is."""

import io
import stat

import pytest

from composefs.dialect import Dialect
from composefs.digest import Algorithm
from composefs.dumpfile import (
    c,
    count_names,
    format_below,
    format_dump,
    format_entry,
    format_hard_link,
    parse_dump,
    read_lines,
    reader,
)
from composefs.errors import FormatError, UsageError
from composefs.tree import Backed, Directory, Inline, Leaf, Object, Special, Stat, Symlink, object_path, walk

ROOT = b"/ 0 40755 2 0 0 0 1.0 - - -\n"
DIGEST = bytes(range(32))
HEX = DIGEST.hex().encode()
OBJECT = object_path(DIGEST)
INFO = Stat(0o644, 0, 0, 1, 0)


def leaf(content, info=INFO, link_count=None):
    return Leaf(info, content, link_count)


def tree(**entries):
    """Return a tree with *entries* in the root."""
    root = Directory(Stat(0o755, 0, 0, 1, 0))
    root.entries.update({name.encode(): node for name, node in entries.items()})
    return root


def dump(root):
    return b"".join(format_dump(root))


def parse(text, dialect=Dialect.RUST, **options):
    return parse_dump(read_lines(io.BytesIO(text)), "a dump", dialect=dialect, **options)


def parse_one(line, dialect=Dialect.RUST, **options):
    """Return what stands at /f after a root and *line*."""
    return parse(ROOT + line + b"\n", dialect, **options).root.entries[b"f"]


def fields(line, **changes):
    """Return *line* with some fields replaced, by name."""
    names = "path size mode nlink uid gid rdev mtime payload content digest xattrs".split()
    values = line.split(b" ")
    for name, value in changes.items():
        values[names.index(name)] = value
    return b" ".join(values)


PLAIN = b"/f 0 100644 1 0 0 0 1.0 - - -"

CONTENTS = [
    pytest.param(Inline(b""), b"0 100644 1 0 0 0 1.0 - - -", id="empty"),
    pytest.param(Inline(b"a b\n"), rb"4 100644 1 0 0 0 1.0 - a\x20b\n -", id="inline"),
    pytest.param(Inline(b"-"), rb"1 100644 1 0 0 0 1.0 - \x2d -", id="inline-dash"),
    pytest.param(Object(99, DIGEST), b"99 100644 1 0 0 0 1.0 %b - %b" % (OBJECT, HEX), id="object"),
    pytest.param(Object(0, bytes(64)), b"0 100644 1 0 0 0 1.0 00/%b - %b" % (b"0" * 126, b"0" * 128), id="sha512"),
    pytest.param(Backed(99), b"99 100644 1 0 0 0 1.0 - - -", id="sparse"),
    pytest.param(Symlink(b"../x y"), rb"6 120644 1 0 0 0 1.0 ../x\x20y - -", id="symlink"),
    pytest.param(Symlink(b"-"), rb"1 120644 1 0 0 0 1.0 \x2d - -", id="symlink-dash"),
    pytest.param(Special(stat.S_IFCHR, 259), b"0 20644 1 0 0 259 1.0 - - -", id="character"),
    pytest.param(Special(stat.S_IFBLK, 2049), b"0 60644 1 0 0 2049 1.0 - - -", id="block"),
    pytest.param(Special(stat.S_IFIFO), b"0 10644 1 0 0 0 1.0 - - -", id="fifo"),
    pytest.param(Special(stat.S_IFSOCK), b"0 140644 1 0 0 0 1.0 - - -", id="socket"),
]


@pytest.mark.parametrize(("content", "line"), CONTENTS)
def test_content(content, line):
    """Each type of leaf has its line, and the line gives the leaf."""
    root = tree(f=leaf(content))

    assert dump(root) == ROOT + b"/f " + line + b"\n"
    assert parse_one(b"/f " + line).content == content
    if not (isinstance(content, Object) and len(content.digest) == 64):  # C knows SHA-256 only
        is_plain_in_c = isinstance(content, Object) and content.size == 0
        assert parse_one(b"/f " + line, Dialect.C).content == (Inline(b"") if is_plain_in_c else content)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (Backed(9, OBJECT), b"%b - %b" % (OBJECT, HEX)),  # as composefs-rs writes it: nothing tells the two apart
        (Backed(9, b"-"), rb"\x2d - -"),
        (Backed(9, b"some/path"), b"some/path - -"),
        (Backed(9, b"some/path", DIGEST), b"some/path - %b" % HEX),
        (Backed(9, None, DIGEST), b"- - %b" % HEX),
    ],
)
def test_content_elsewhere(content, line):
    assert dump(tree(f=leaf(content))) == ROOT + b"/f 9 100644 1 0 0 0 1.0 " + line + b"\n"


def test_order_and_counts():
    """Depth first, by name; directories count their subdirectories, leaves their names."""
    twice = leaf(Inline(b"x"))
    below = Directory(Stat(0o700, 1, 2, -5, 7), {b"b": twice, b"a": leaf(Inline(b"")), b"-": Directory(INFO)})
    root = tree(z=twice, d=below)

    assert dump(root).decode().splitlines() == [
        "/ 0 40755 3 0 0 0 1.0 - - -",
        "/d 0 40700 3 1 2 0 -5.7 - - -",
        "/d/- 0 40644 2 0 0 0 1.0 - - -",
        "/d/a 0 100644 1 0 0 0 1.0 - - -",
        "/d/b 1 100644 2 0 0 0 1.0 - x -",
        "/z 0 @120000 - - - - 0.0 /d/b - -",
    ]


def test_escapes():
    """Whatever is no visible ASCII character has an escape, in xattrs also the equals sign."""
    every = bytes(range(256))
    name = every.replace(b"\0", b"").replace(b"/", b"")
    root = tree()
    root.entries[name] = leaf(
        Symlink(b"t=\xc3\xa9"), INFO._replace(xattrs={b"user.=": every, b"user.e": b"", b"a": b"-"})
    )

    text = dump(root)

    assert text.split(b" ")[10].startswith(b"-\n/\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08\\t\\n\\x0b\\x0c\\r\\x0e")
    assert rb" t=\xc3\xa9 - - a=- user.\x3d=\x00\x01" in text
    assert b"<\\x3d>" in text
    assert text.endswith(b" user.e=\n")
    assert all(0x21 <= byte < 0x7F for line in text.splitlines() for byte in line.replace(b" ", b""))
    for dialect in Dialect:
        (node,) = parse(text, dialect).root.entries.items()
        assert node[0] == name
        assert node[1].content == Symlink(b"t=\xc3\xa9")
        assert node[1].stat.xattrs == {b"user.=": every, b"user.e": b"", b"a": b"-"}


def test_recorded_link_counts_are_written():
    assert b"/f 0 100644 7 " in dump(tree(f=leaf(Inline(b""), link_count=7)))


def test_modes_are_not_masked():
    """A layer's modes may have more bits than an image takes."""
    assert b"/f 0 7100644 1 " in dump(tree(f=leaf(Inline(b""), INFO._replace(mode=0o7000644))))


def test_a_part_of_a_tree():
    """A leaf has its whole line with the links of the whole tree; a directory names only what it has itself."""
    twice = leaf(Inline(b"x"))
    below = Directory(INFO, {b"a": twice, b"b": twice})
    root = tree(d=below, z=twice)
    counts = count_names(root)

    assert counts[twice] == 3
    assert b"".join(format_below(twice, b"./z", counts)) == b"./z 1 100644 3 0 0 0 1.0 - x -\n"
    for path in (b"d", b"/d/", b"d"):
        start = path if path.endswith(b"/") else path + b"/"
        assert b"".join(format_below(below, path, counts)).splitlines() == [
            path + b" 0 40644 2 0 0 0 1.0 - - -",
            start + b"a 1 100644 3 0 0 0 1.0 - x -",
            start + b"b 0 @120000 - - - - 0.0 " + start + b"a - -",
        ]


def test_entries_without_a_tree():
    info = INFO._replace(xattrs={b"user.x": b"y"})

    assert format_entry(b"/d", info, None) == b"/d 0 40644 1 0 0 0 1.0 - - - user.x=y\n"
    assert format_entry(b"/f", info, Inline(b"ab"), 3) == b"/f 2 100644 3 0 0 0 1.0 - ab - user.x=y\n"
    assert format_hard_link(b"/a b", b"/c d") == b"/a\\x20b 0 @120000 - - - - 0.0 /c\\x20d - -\n"


def test_a_deep_tree_is_written():
    """No recursion: depth has no limit."""
    root = directory = tree()
    for _ in range(5000):
        directory.entries[b"d"] = directory = Directory(INFO)

    assert sum(1 for _ in format_dump(root)) == 5001


def test_stats_and_xattrs_are_shared():
    """Equal fields are one object: a whole system has few of them."""
    line = b" 0 100644 1 0 0 0 1.0 - - - security.selinux=x\n"
    for dialect in Dialect:
        root = parse(ROOT + b"/a" + line + b"/b" + line + b"/c" + line.replace(b"1.0", b"2.0"), dialect).root
        a, b, c = (root.entries[name].stat for name in (b"a", b"b", b"c"))
        assert a is b
        assert a.xattrs is c.xattrs


def test_many_different_stats(monkeypatch):
    """What is remembered of earlier lines has a limit."""
    monkeypatch.setattr(reader, "_KNOWN_MAX", 3)
    sizes = []
    remember = reader._remember

    def counted(known, key, value):
        remember(known, key, value)
        sizes.append(len(known))

    monkeypatch.setattr(reader, "_remember", counted)
    lines = [b"/%d 0 100644 1 %d 0 0 1.0 - - - user.a=%d\n" % (number, number, number % 5) for number in range(20)]

    for dialect in Dialect:
        entries = parse(ROOT + b"".join(lines), dialect).root.entries
        assert [node.stat.uid for node in entries.values()] == list(range(20))
        assert [node.stat.xattrs[b"user.a"] for node in entries.values()] == [
            b"%d" % (number % 5) for number in range(20)
        ]
    assert max(sizes) == 3


@pytest.mark.parametrize("dialect", Dialect)
def test_the_last_newline_may_be_missing(dialect):
    assert parse(ROOT + PLAIN, dialect).root.entries[b"f"].content == Inline(b"")


@pytest.mark.parametrize("dialect", Dialect)
def test_order_of_siblings_is_free(dialect):
    text = ROOT + b"/z 0 40755 2 0 0 0 1.0 - - -\n/a 0 100644 1 0 0 0 1.0 - - -\n/z/y 0 100644 1 0 0 0 1.0 - - -\n"
    assert [path for path, _ in walk(parse(text, dialect).root)] == [b"/", b"/a", b"/z", b"/z/y"]


@pytest.mark.parametrize("dialect", Dialect)
def test_mtime_is_two_numbers(dialect):
    assert parse_one(fields(PLAIN, mtime=b"5.7"), dialect).stat[3:5] == (5, 7)
    assert parse_one(fields(PLAIN, mtime=b"18446744073709551615.0"), dialect).stat.mtime == -1


RUST_TAKES = [
    (fields(PLAIN, size=b"+00000000000000000000003", nlink=b"+1", content=b"abc"), Inline(b"abc")),
    (fields(PLAIN, size=b"7", content=b"abc"), Inline(b"abc")),
    (fields(PLAIN, content=rb"\x+5\x4A\\\t"), Inline(b"\5J\\\t")),
    (fields(PLAIN, content="é".encode()), Inline("é".encode())),
    (fields(PLAIN, mode=b"37777700644"), Inline(b"")),
    (fields(PLAIN, size=b"9", payload=b"any/where", digest=HEX.upper(), content=b"ignored"), Object(9, DIGEST)),
    (fields(PLAIN, size=b"9", payload=b"below/" + OBJECT.upper()), Backed(9, OBJECT)),
    (fields(PLAIN, size=b"9", payload=object_path(bytes(64))), Backed(9, object_path(bytes(64)))),
    (PLAIN + b"\r", Inline(b"")),
    (b"  \t\n" + PLAIN, Inline(b"")),
    (rb"\x2ff 0 100644 1 0 0 0 1.0 - - -", Inline(b"")),
    (fields(PLAIN, mode=b"20644", rdev=b"4294967295", payload=b"ignored"), Special(stat.S_IFCHR, 0xFFFFFFFF)),
    (fields(PLAIN, mode=b"120777", size=b"99", payload=b"a//../b"), Symlink(b"a//../b")),
]


@pytest.mark.parametrize(("line", "content"), RUST_TAKES)
def test_composefs_rs_takes(line, content):
    assert parse_one(line).content == content


def test_composefs_rs_on_repeated_xattrs():
    """The greatest value counts there, the last one in C."""
    line = PLAIN + b" user.a=2 user.a=3 user.a=1 user.b=x=y"

    assert parse_one(line).stat.xattrs == {b"user.a": b"3", b"user.b": b"x=y"}
    assert parse_one(line, Dialect.C).stat.xattrs == {b"user.a": b"1", b"user.b": b"x=y"}


def test_composefs_rs_on_hard_links():
    """Only path and target count; the leaf is one object; another hard link may be the target."""
    text = ROOT + PLAIN + b"\n/a 0 x@0 - - - - - /f\n/b 0 @100644 - junk - - - /a\n"

    root = parse(text).root

    assert root.entries[b"a"] is root.entries[b"b"] is root.entries[b"f"]
    assert root.entries[b"f"].link_count is None
    assert parse(text).homes == {}


def test_composefs_rs_on_the_root():
    """Its type does not count, later lines replace its metadata."""
    text = b"/ 5 100600 1 0 0 0 9.0 - hello -\n" + PLAIN + b"\n/ 0 40700 2 1 2 0 3.4 - - -\n"

    root = parse(text).root

    assert root.stat == Stat(0o700, 1, 2, 3, 4)
    assert list(root.entries) == [b"f"]
    assert parse(ROOT + b"/ 0 @0 - - - - - /x\n").root.stat == Stat(0, 0, 0, 0, 0)


def test_composefs_rs_on_repeated_directories():
    """The later one counts, and what the earlier one had is gone: no path leads there."""
    directories = b"/d 0 40700 2 0 0 0 1.0 - - -\n/d/e 0 40700 2 0 0 0 1.0 - - -\n"
    again = b"/d 0 40755 2 0 0 0 1.0 - - -\n"

    root = parse(ROOT + directories + again + b"/d/x 0 40755 2 0 0 0 1.0 - - -\n").root

    assert [path for path, _ in walk(root)] == [b"/", b"/d", b"/d/x"]
    with pytest.raises(FormatError, match="line 5, column 1: PATH: there is no directory '/d/e'"):
        parse(ROOT + directories + again + b"/d/e/f 0 100644 1 0 0 0 1.0 - - -\n")
    linked = b"/d/f 0 100644 1 0 0 0 1.0 - - -\n/g 0 @0 - - - - - /d/f\n"
    assert list(parse(ROOT + directories + linked + again).root.entries) == [b"d", b"g"]


C_TAKES = [
    (fields(PLAIN, size=b"\t+0003", nlink=b"-1", content=b"abc"), Inline(b"abc")),
    (fields(PLAIN, mtime=b"-5.0"), Inline(b"")),
    (fields(PLAIN, uid=b"1", gid=b"x", rdev=b""), Inline(b"")),
    (b"/f 0 100644 1 0 0 0 1.0", Inline(b"")),
    (PLAIN + b" ", Inline(b"")),
    (PLAIN + b"\r", Inline(b"")),
    (b"f" + PLAIN[2:], Inline(b"")),
    (b"///f" + PLAIN[2:], Inline(b"")),
    (b"/f\\x00g" + PLAIN[2:], Inline(b"")),
    (b"/\xff\\x2e 0 40755 2 0 0 0 1.0 - - -\n" + PLAIN, Inline(b"")),
    (fields(PLAIN, mode=b"200100644"), Inline(b"")),
    (fields(PLAIN, payload=b"a", digest=b"short"), Inline(b"")),
    (fields(PLAIN, size=b"3", payload=b"a", digest=b"short", content=b"abc"), Inline(b"abc")),
    (fields(PLAIN, size=b"9", payload=b"any/where", digest=HEX + b"junk"), Backed(9, b"any/where", DIGEST)),
    (fields(PLAIN, size=b"9", payload=b"any/where"), Backed(9, b"any/where")),
    (fields(PLAIN, size=b"9", payload=b"", digest=HEX.upper()), Backed(9, None, DIGEST)),
    (fields(PLAIN, size=b"5000", content=b"c" * 5000), Inline(b"c" * 5000)),
    (fields(PLAIN, mode=b"120777", payload=b"t" * 4095, content=b"", digest=b"x"), Symlink(b"t" * 4095)),
    (fields(PLAIN, mode=b"120777", payload=rb"a\x00b"), Symlink(b"a")),
    (fields(PLAIN, mode=b"20644", rdev=b"4294967297"), Special(stat.S_IFCHR, 1)),
    (fields(PLAIN, mode=b"20644", size=b"99999999999"), Special(stat.S_IFCHR, 0)),
    (fields(PLAIN, mode=b"10644", rdev=b"5", payload=b"p"), Special(stat.S_IFIFO)),
]


@pytest.mark.parametrize(("line", "content"), C_TAKES)
def test_c_takes(line, content):
    assert parse_one(line, Dialect.C).content == content


def test_c_numbers():
    """As strtoull(3) has them: too large ones saturate, negative ones are taken from 2^64; then bits are cut off."""
    line = fields(PLAIN, nlink=b"-1", uid=b"99999999999999999999999999", gid=b"4294967298", mtime=b"-5.4294967297")

    node = parse_one(line, Dialect.C)

    assert (node.link_count, node.stat.uid, node.stat.gid) == (0xFFFFFFFF, 0xFFFFFFFF, 2)
    assert (node.stat.mtime, node.stat.nanoseconds) == (-5, 1)


def test_c_hard_links():
    """Targets may come later, be relative, and be links themselves; the line of the leaf is its home."""
    text = ROOT + b"/a 0 @-77700 x x x x x d//c/ junk =\n/d 0 40755 2 0 0 0 1.0 - - -\n"
    text += b"/d/b 0 @120000 - - - - - /a - -\n/d/c 3 100600 1 0 0 0 1.0 - abc -\n"

    result = parse(text, Dialect.C)

    directory = result.root.entries[b"d"]
    linked = directory.entries[b"c"]
    assert result.root.entries[b"a"] is directory.entries[b"b"] is linked
    assert linked.content == Inline(b"abc")
    assert linked.link_count == 1  # as the line says
    assert result.homes == {linked: (directory, b"c")}


MISTAKES_OF_BOTH = [
    (fields(PLAIN, path=rb"/a\q"), 3, r"PATH: wanted .* got '\\qb?'"),
    (fields(PLAIN, path=rb"/a\x4"), 3, "PATH: wanted"),
    (fields(PLAIN, path=b"/f\\"), 3, "PATH: wanted"),
    (fields(PLAIN, path=b"/d/f"), 1, "PATH: there is no directory '/d'"),
    (fields(PLAIN, path=b"/.."), 1, "PATH: wanted"),
    (fields(PLAIN, path=b"//"), 1, "PATH: wanted"),
    (fields(PLAIN, size=b"x"), 4, "SIZE: wanted a number, got 'x'"),
    (fields(PLAIN, size=b"1_0"), 4, "SIZE: wanted a number, got '1_0'"),
    (fields(PLAIN, size=b""), 4, "SIZE: wanted a number, got ''"),
    (fields(PLAIN, mode=b"100684"), 6, "MODE: wanted octal digits, got '100684'"),
    (fields(PLAIN, mode=b"644"), 6, "MODE: wanted a mode with the type"),
    (fields(PLAIN, mode=b"170644"), 6, "MODE: wanted a mode with the type"),
    (fields(PLAIN, mode=b"@40755", payload=b"/"), 6, "MODE: wanted"),
    (fields(PLAIN, mode=b"@100644"), 26, "PAYLOAD: wanted the target of the hard link, got none"),
    (fields(PLAIN, mode=b"@100644", payload=b"/none"), 26, "PAYLOAD: .*'/none'"),
    (fields(PLAIN, mode=b"@100644", payload=b"/f"), 26, "PAYLOAD: .*'/f'"),
    (fields(PLAIN, nlink=b"one"), 13, "NLINK: wanted a number, got 'one'"),
    (fields(PLAIN, uid=b"-"), 15, "UID: wanted a number, got '-'"),
    (fields(PLAIN, gid=b"-"), 17, "GID: wanted a number, got '-'"),
    (fields(PLAIN, rdev=b"-"), 19, "RDEV: wanted a number, got '-'"),
    (fields(PLAIN, mtime=b"1"), 21, "MTIME: wanted"),
    (fields(PLAIN, mtime=b"1.2.3"), 21, "MTIME: wanted"),
    (fields(PLAIN, mode=b"120777"), 25, "PAYLOAD: wanted the target of the symbolic link, got none"),
    (fields(PLAIN, mode=b"120777", payload=b""), 25, "PAYLOAD: wanted"),
    (fields(PLAIN, mode=b"120777", payload=b"t" * 4096), 25, "PAYLOAD: wanted"),
    (fields(PLAIN, content=rb"a\z"), 28, "CONTENT: wanted"),
    (fields(PLAIN, size=b"5001", content=b"c" * 5001), 30, "CONTENT: wanted at most"),
    (fields(PLAIN, size=b"9", payload=b"x", digest=b"abc"), 29, "DIGEST: wanted .* got 'abc'"),
    (PLAIN + b" user.a", 31, "XATTR: wanted name=value, got 'user.a'"),
    (PLAIN + b" =x", 31, "XATTR: wanted a name"),
    (PLAIN + b" u=1 %b=1" % (b"n" * 256), 35, "XATTR: wanted a name"),
    (PLAIN + rb" user.a=\y", 38, "XATTR: wanted"),
    (PLAIN + rb" \y=", 31, "XATTR: wanted"),
    (PLAIN + b" a=1  b=2", 35, "XATTR: wanted name=value, got ''"),
    (PLAIN + b" a=%b" % (b"v" * 65536), 31, "XATTR: wanted"),
]

RUST_MISTAKES = [
    (b"f" + PLAIN[2:], 1, "PATH: wanted an absolute path, got 'f'"),
    (b"/f/" + PLAIN[2:], 1, "PATH: wanted a path without empty parts"),
    (b"/./f" + PLAIN[2:], 1, "PATH: wanted a path without empty parts"),
    (b"/f\\x00" + PLAIN[2:], 1, "PATH: wanted a path without NUL"),
    (b"/" + b"f" * 4096 + PLAIN[2:], 1, "PATH: wanted at most 4096 bytes, got 4097"),
    (b"/f 0 100644 1 0 0 0 1.0 - -", 28, "DIGEST is missing"),
    (b"/f 0 @100644 1 0 0 0 1.0", 25, "PAYLOAD is missing"),
    (b"/f", 3, "SIZE is missing"),
    (b"/\xff" + PLAIN[2:], 2, "wanted UTF-8"),
    (fields(PLAIN, size=b"18446744073709551616"), 4, "SIZE: wanted a number up to"),
    (fields(PLAIN, size=b"9" * 5000), 4, "SIZE: wanted a number up to"),
    (fields(PLAIN, size=b"-1"), 4, "SIZE: wanted a number"),
    (fields(PLAIN, mode=b"777777777777"), 6, "MODE: wanted a number up to"),
    (fields(PLAIN, mode=b"@"), 6, "MODE: wanted octal digits"),
    (fields(PLAIN, nlink=b"4294967296"), 13, "NLINK: wanted a number up to"),
    (fields(PLAIN, rdev=b"5"), 19, "RDEV: wanted 0 for what is no device"),
    (fields(PLAIN, mode=b"60644", rdev=b"4294967296"), 18, "RDEV: wanted a number up to"),
    (fields(PLAIN, mode=b"20644", nlink=b"2"), 12, "NLINK: wanted 1 for a whiteout"),
    (fields(PLAIN, mtime=b"-1.0"), 21, "MTIME: wanted a number"),
    (fields(PLAIN, mtime=b"1.1000000000"), 23, "MTIME: wanted less than 1000000000 nanoseconds"),
    (fields(PLAIN, mode=b"120777", payload=b"t" * 1025), 25, "PAYLOAD: wanted 1 to 1024 bytes"),
    (fields(PLAIN, mode=b"120777", payload=rb"a\x00"), 25, "PAYLOAD: wanted 1 to 1024 bytes without NUL"),
    (fields(PLAIN, content=b"c" * 513), 27, "CONTENT: wanted at most 512 bytes, got 513"),
    (fields(PLAIN, digest=HEX), 29, "DIGEST: wanted none for an inline file"),
    (fields(PLAIN, mode=b"10644", content=b"x"), 26, "CONTENT: wanted none"),
    (fields(PLAIN, mode=b"40644", digest=HEX), 28, "DIGEST: wanted none"),
    (fields(PLAIN, payload=b"some/path"), 25, "PAYLOAD: wanted a path that ends in that of an object"),
    (fields(PLAIN, payload=b""), 25, "PAYLOAD: wanted 1 to 4096 bytes"),
    (fields(PLAIN, payload=b"x", digest=b"g" * 64), 29, "DIGEST: wanted 64 or 128 hexadecimal digits"),
    (fields(PLAIN, mode=b"@0", payload=b"relative"), 21, "PAYLOAD: wanted an absolute path"),
    (fields(PLAIN, mode=b"@0", payload=b"/"), 21, "PAYLOAD: wanted a file of an earlier line"),
    (PLAIN + b" ", 31, "XATTR: wanted name=value, got ''"),
    (PLAIN + rb" a\x00=", 31, "XATTR: wanted a name of 1 to 255 bytes without NUL"),
    (PLAIN + b"".join(b" %0255d=" % number for number in range(258)), 66080, "XATTR: wanted names of at most 65535"),
    (PLAIN + b"\n" + PLAIN, None, "line 2, column 1|line 3, column 1: PATH: wanted one line for each file"),
]

C_MISTAKES = [
    (b"\n" + PLAIN, None, "line 2, column 1: PATH: wanted a path, got none"),
    (b"\\x00f" + PLAIN[2:], 1, "PATH: wanted a path, got none"),
    (b"/f\0" + PLAIN[2:], 3, "got a NUL"),
    (b"/" + b"f" * 256 + PLAIN[2:], 1, "PATH: wanted a name of 1 to 255 bytes"),
    (fields(PLAIN, path=b"/"), 1, "PATH: wanted|MODE: wanted"),
    (ROOT + PLAIN, 1, "PATH: wanted one line of /, got another"),
    (fields(PLAIN, mode=b"7" * 50 + b"8"), 6, "MODE: wanted octal digits"),
    (fields(PLAIN, size=b"+"), 4, "SIZE: wanted a number, got '\\+'"),
    (b"/f 0 @100644", 13, "PAYLOAD: wanted a hard link to a file, '' is a directory"),
    (b"/f 0 100644", 12, "NLINK: wanted a number, got ''"),
    (b"/f 5 100644 1 0 0 0 1.0", 24, "CONTENT: wanted 5 bytes, as SIZE says, got 0"),
    (fields(PLAIN, size=b"4", content=b"abc"), 27, "CONTENT: wanted 4 bytes, as SIZE says, got 3"),
    (fields(PLAIN, mode=b"@170000", payload=b"/"), 6, "MODE: wanted"),
    (fields(PLAIN, mode=b"@0", payload=b"/"), 6, "MODE: wanted"),
    (fields(PLAIN, mode=b"@100644", payload=b"/"), 26, "PAYLOAD: wanted a hard link to a file, '/' is a directory"),
    (fields(PLAIN, mode=b"10644", payload=b"p" * 4096), 24, "PAYLOAD: wanted at most 4095 bytes, got 4096"),
    (fields(PLAIN, mode=b"10644", size=b"4294967296"), 4, "SIZE: wanted less than 4 GiB"),
    (fields(PLAIN, size=b"9", digest=b"a" * 63), 29, "DIGEST: wanted 64 hexadecimal digits"),
    (fields(PLAIN, size=b"9", digest=b"a" * 62 + b"gg"), 29, "DIGEST: wanted 64 hexadecimal digits"),
    (fields(PLAIN, size=b"9", digest=b"-\r"), 29, "DIGEST: wanted 64 hexadecimal digits"),
    (PLAIN + b" user.a=" + b"v" * 32743, 31, "XATTR: wanted at most 32767 bytes with overhead"),
    (PLAIN + b" user.a=" + rb"\x41" * 20000, 31, "XATTR: wanted at most 65535 bytes of them, got 80007"),
    (PLAIN + b"\n" + PLAIN, 1, "PATH: wanted a path that no earlier line has, got '/f'"),
]


def check_mistake(line, column, message, dialect, **options):
    text = ROOT + line + b"\n"
    with pytest.raises(FormatError, match=message) as caught:
        parse(text, dialect, **options)
    assert caught.value.source == "a dump"
    if column is not None:
        number = text.count(b"\n") if not line.startswith(ROOT) else 2
        assert f"line {number}, column {column}: " in caught.value.what
        assert caught.value.offset == len(b"".join(text.splitlines(keepends=True)[: number - 1])) + column - 1


@pytest.mark.parametrize(("line", "column", "message"), MISTAKES_OF_BOTH)
@pytest.mark.parametrize("dialect", Dialect)
def test_mistake_in_either_dialect(line, column, message, dialect):
    check_mistake(line, column, message, dialect)


@pytest.mark.parametrize(("line", "column", "message"), RUST_MISTAKES)
def test_mistake_for_composefs_rs(line, column, message):
    check_mistake(line, column, message, Dialect.RUST)


@pytest.mark.parametrize(("line", "column", "message"), C_MISTAKES)
def test_mistake_for_c(line, column, message):
    check_mistake(line, column, message, Dialect.C)


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        (fields(PLAIN, rdev=b"5"), 19, "RDEV: wanted 0 for what is no device, got '5'"),
        (fields(PLAIN, mode=b"120777", size=b"5", payload=b"abc"), 4, "SIZE: wanted 3, the size of the target, got 5"),
        (fields(PLAIN, mode=b"120777", size=b"3", payload=b"abc", content=b"abc"), 29, "CONTENT: wanted none"),
    ],
)
def test_mistake_for_strict_c(line, column, message):
    """What the C implementation takes, but not in its strict mode."""
    assert parse_one(line, Dialect.C)
    check_mistake(line, column, message, Dialect.C, strict=True)


def test_strict_c_wants_the_last_newline():
    with pytest.raises(FormatError, match="line 2, column 30: wanted a newline at the end"):
        parse(ROOT + PLAIN, Dialect.C, strict=True)
    parse(ROOT + PLAIN + b"\n", Dialect.C, strict=True)


@pytest.mark.parametrize("dialect", Dialect)
def test_the_root_comes_first(dialect):
    for text in (b"", PLAIN + b"\n", PLAIN + b"\n" + ROOT):
        with pytest.raises(FormatError, match="wanted the line of / first"):
            parse(text, dialect)


def test_links_in_a_circle():
    """The C implementation itself refuses some circles and hangs on others."""
    links = b"/a 0 @100644 - - - - - /b\n/b 0 @100644 - - - - - /c\n/c 0 @100644 - - - - - /b\n"
    with pytest.raises(FormatError, match="line 4, column 24: PAYLOAD: hard links in a circle, from '/b'"):
        parse(ROOT + links, Dialect.C)


def test_a_long_chain_of_links(monkeypatch):
    """Every link is followed once."""
    followed = []
    find = c.CReader._find_leaf
    monkeypatch.setattr(c.CReader, "_find_leaf", lambda self, link: followed.append(link) or find(self, link))
    lines = [b"/%d 0 @100644 - - - - - /%d\n" % (number, number + 1) for number in range(5000)]
    root = parse(ROOT + b"".join(lines) + b"/5000 0 100644 1 0 0 0 1.0 - - -\n", Dialect.C).root

    assert len(set(root.entries.values())) == 1
    assert len(followed) == 5000


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("name", ["size", "mode"])
def test_long_numbers(dialect, name):
    """However many zeros begin it, what is no number is refused in no time, and not in an hour."""
    zeros, short = b"0" * 1_000_000, parse_one(PLAIN, dialect)
    number = zeros + PLAIN.split(b" ")[1 if name == "size" else 2]
    assert parse_one(fields(PLAIN, **{name: number}), dialect).stat == short.stat
    with pytest.raises(FormatError, match=f"{name.upper()}: wanted"):
        parse_one(fields(PLAIN, **{name: number + b"x"}), dialect)


@pytest.mark.parametrize("dialect", Dialect)
def test_the_longest_line(dialect):
    """Beyond a limit a line is not even read: no dump can fill the memory with one."""

    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    with pytest.raises(FormatError, match="^endless, offset 0: more than 4194304 bytes in line 1$"):
        parse_dump(read_lines(io.BufferedReader(Endless())), "endless", dialect=dialect)


def test_the_depth_of_c():
    """Its paths have no limit, ours have one that no kernel reaches."""
    lines = [b"/d" * depth + b" 0 40755 2 0 0 0 1.0 - - -\n" for depth in range(1, 2051)]
    parse(ROOT + b"".join(lines[:2048]), Dialect.C)
    with pytest.raises(FormatError, match="more than 2049 levels of directories in line 2050$"):
        parse(ROOT + b"".join(lines), Dialect.C)


def test_one_algorithm():
    """All digests of a dump have one size: the one asked for, or that of the first."""
    other = bytes(64)
    first, second = (
        fields(PLAIN, path=b"/" + name, size=b"9", payload=object_path(digest), digest=digest.hex().encode()) + b"\n"
        for name, digest in ((b"f", DIGEST), (b"g", other))
    )
    with pytest.raises(FormatError, match="line 3, .* DIGEST: wanted 64 hexadecimal digits"):
        parse(ROOT + first + second)
    with pytest.raises(FormatError, match="line 3, .* DIGEST: wanted 128 hexadecimal digits"):
        parse(ROOT + second + first)
    with pytest.raises(FormatError, match="line 2, .* DIGEST: wanted 128 hexadecimal digits"):
        parse(ROOT + first, algorithm=Algorithm.SHA512)
    assert parse(ROOT + second, algorithm=Algorithm.SHA512).root.entries[b"g"].content == Object(9, other)


def test_impossible_arguments():
    with pytest.raises(UsageError, match="strict"):
        parse(ROOT, strict=True)
    with pytest.raises(UsageError, match="SHA-256"):
        parse(ROOT, Dialect.C, algorithm=Algorithm.SHA512)
    assert parse(ROOT, Dialect.C, algorithm=Algorithm.SHA256).root.entries == {}
