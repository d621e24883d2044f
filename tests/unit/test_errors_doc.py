"""docs/errors.md quotes what the commands print now, and forgets nothing that they can say."""

import re
from collections.abc import Iterator

import pytest

from composefs.cli import failure
from composefs.errors import ComposefsError
from composefs.oci.fsck import OciKind
from composefs.repository.fsck import Kind
from tests.commands import ROOT
from tests.errors_doc.cases import CASES
from tests.errors_doc.page import PAGE, quotes, rewritten
from tests.errors_doc.scene import Scene

TEXT = PAGE.read_text()
QUOTES = quotes(TEXT)


@pytest.mark.parametrize("name", CASES)
def test_quote(name, original, tmp_path):
    """Each situation is quoted as it is; `python -m tests.errors_doc` writes the page anew."""
    assert QUOTES[name] == CASES[name](Scene(tmp_path, original))


def test_every_quote_is_of_a_situation():
    """Nothing is quoted that nobody makes."""
    assert QUOTES.keys() == CASES.keys()


@pytest.mark.parametrize("kind", [*Kind, *OciKind])
def test_every_kind_of_finding(kind):
    """Each has its own quote."""
    quote = QUOTES[kind.value]

    assert quote.startswith(f"fsck: {kind.value}: ")


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_error():
    """Each class of the library has its row."""
    rows = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))

    assert rows == {each.__name__ for each in subclasses(ComposefsError)}


def test_every_feature_that_a_kernel_can_lack():
    """Each is quoted, with the version that has it."""
    features = set()
    for path in (ROOT / "composefs").rglob("*.py"):
        features.update(re.findall(r'feature ?= ?f?"([^"]+)"', path.read_text()))

    assert len(features) > 4
    for feature in features:
        pattern = re.sub(r"\\\{.*?\\\}", ".+", re.escape(feature))
        assert re.search(rf"this kernel lacks {pattern}", TEXT), feature


def test_every_remedy():
    """What the command says about the system's errors is quoted."""
    said = "".join(QUOTES.values())

    assert all(remedy in said for remedy in failure._REMEDIES.values())


def test_links_lead_somewhere():
    """Links lead to files, and to headings of this page or those."""
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        name, mark, anchor = target.partition("#")
        text = (PAGE.parent / name).read_text() if name else TEXT
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not mark or anchor in anchors


def test_the_page_is_written_in_place():
    """Only what stands in quotes is written anew."""
    text = "a\n<!-- x -->\n```\nold\nlines\n```\nb\n"

    assert rewritten(text, str.upper) == "a\n<!-- x -->\n```\nX\n```\nb\n"
    assert rewritten(TEXT, QUOTES.get) == TEXT
