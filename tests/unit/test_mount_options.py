"""The options of mount.composefs: how the text is cut, and what it asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composefs import Algorithm, Digest, UsageError
from composefs.kernel import Attribute, Verity
from composefs.mount.options import FileOptions, parse_options, split_options

SHORT, LONG = "ab" * 32, "cd" * 64


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", []),
        ("ro", [("ro", None)]),
        ("ro,", [("ro", None)]),
        (",ro", [("", None), ("ro", None)]),
        ("a,,b", [("a", None), ("", None), ("b", None)]),
        ("a=", [("a", "")]),
        ("a=b=c", [("a", "b=c")]),
        ("=a", [("", "a")]),
        (r"a=b\,c,d", [("a", "b,c"), ("d", None)]),
        (r"a=b\\,c", [("a", "b\\"), ("c", None)]),
        (r"a=\b\=c", [("a", "b=c")]),
        ("a=b\\", [("a", "b")]),
        ("a\\", [("a\\", None)]),
        (r"a\,b=c", [(r"a\,b", "c")]),
        (r"a\=b=c", [(r"a\=b", "c")]),
        ("a=\udcff\n,b", [("a", "\udcff\n"), ("b", None)]),
    ],
)
def test_split(text, options):
    """Commas separate, the first = ends a key, and a backslash protects what is behind it; it stays in keys."""
    assert list(split_options(text)) == options


@given(st.lists(st.tuples(st.text("ab-_", min_size=1), st.none() | st.text("a,=\\:\n"))))
def test_protected(options):
    """Any value comes through with backslashes before what separates."""
    protected = str.maketrans({character: f"\\{character}" for character in ",\\="})
    words = [key if value is None else f"{key}={value.translate(protected)}" for key, value in options]

    assert list(split_options(",".join(words))) == options


@given(st.text("ab,=\\\n"))
def test_any_text(text):
    """All of any text is looked at."""
    found = list(split_options(text))

    assert sum(len(key) for key, _ in found) <= len(text)
    assert (found == []) == (text == "")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("basedir=/b", {"basedirs": ("/b",)}),
        ("basedir=:/b::c:", {"basedirs": ("/b", "c")}),
        ("ro", {"read_only": True}),
        ("rw", {}),
        ("ro,rw", {}),
        ("rw,ro", {"read_only": True}),
        ("ro=no", {"read_only": True}),  # values of flags mean nothing
        ("verity", {"verity": Verity.REQUIRED}),
        ("tryverity", {"verity": Verity.TRY}),
        ("tryverity,verity", {"verity": Verity.REQUIRED}),
        ("verity,tryverity", {"verity": Verity.REQUIRED}),
        (f"digest={SHORT}", {"digest": Digest.from_hex(Algorithm.SHA256, SHORT), "verity": Verity.REQUIRED}),
        (f"digest={LONG.upper()}", {"digest": Digest.from_hex(Algorithm.SHA512, LONG), "verity": Verity.REQUIRED}),
        ("upperdir=u,workdir=w", {"upper": "u", "work": "w"}),
        (r"upperdir=u\,v,workdir=w=x", {"upper": "u,v", "work": "w=x"}),
        ("idmap=/proc/1/ns/user", {"idmap": "/proc/1/ns/user"}),
        ("nosuid,nodev,noexec", {"attributes": Attribute.NO_SUID | Attribute.NO_DEV | Attribute.NO_EXEC}),
        ("nosuid,noexec,suid,dev", {"attributes": Attribute.NO_EXEC}),
        ("noatime,nodiratime", {"attributes": Attribute.NO_ATIME | Attribute.NO_DIR_ATIME}),
        ("noatime,strictatime", {"attributes": Attribute.STRICT_ATIME}),
        ("strictatime,noatime", {"attributes": Attribute.NO_ATIME}),
        ("noatime,relatime", {}),
        ("nofail,_netdev,x-systemd.automount,user=me,defaults", {}),
    ],
)
def test_parse(text, wanted):
    """What the options ask for; what mount(8) keeps for itself is passed over."""
    assert parse_options(f"basedir=/other,{text}") == FileOptions(**({"basedirs": ("/other",)} | wanted))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "No object dirs specified"),
        ("ro", "No object dirs specified"),
        ("basedir=", "No object dirs specified"),
        ("basedir=::", "No object dirs specified"),
        ("basedir", "No value specified for basedir option"),
        ("basedir=b,digest", "No value specified for digest option"),
        ("basedir=b,idmap", "No value specified for idmap option"),
        ("basedir=b,upperdir", "No value specified for upperdir option"),
        ("basedir=b,workdir,upperdir=u", "No value specified for workdir option"),
        ("basedir=b,upperdir=u", "Both workdir and upperdir must be specified if used"),
        ("basedir=b,workdir=w", "Both workdir and upperdir must be specified if used"),
        ("basedir=b,,ro", "Unsupported option: "),
        ("basedir=b,discard", "Unsupported option: discard"),
        ("basedir=b,Verity", "Unsupported option: Verity"),
        (f"basedir=b,digest={SHORT}a", f"Invalid digest value: '{SHORT}a' is no sha256 digest in hexadecimal"),
        ("basedir=b,digest=", "Invalid digest value: '' is no sha256 digest in hexadecimal"),
    ],
)
def test_refused(text, what):
    """What makes no sense is refused, in the words of composefs-rs."""
    with pytest.raises(UsageError) as caught:
        parse_options(text)

    assert str(caught.value) == what


def test_sloppy():
    """Unknown options are passed over if that is asked for; others still need their values."""
    assert parse_options("basedir=b,discard,foo=bar", sloppy=True) == FileOptions(basedirs=("b",))
    with pytest.raises(UsageError, match="No value"):
        parse_options("basedir=b,digest", sloppy=True)
