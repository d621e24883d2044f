"""The comparison finds a difference exactly where the dumps have one, and explaining changes nothing."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from composefs.diff import as_json, compare, explain, groups, render
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump
from composefs.tree import NO_XATTRS, Directory, Inline, Leaf, walk
from tests.strategies import trees


def dump(root):
    return b"".join(format_dump(root))


def lines(root):
    return dict(line.split(b" ", 1) for line in dump(root).splitlines())


@st.composite
def pairs(draw):
    """Return a tree, and a copy with a few changes, perhaps none."""
    root = draw(trees(Algorithm.SHA256, max_nodes=12))
    other = copy.deepcopy(root, {id(NO_XATTRS): NO_XATTRS})
    for _ in range(draw(st.integers(0, 3))):
        directories = [node for _, node in walk(other) if isinstance(node, Directory)]
        leaves = [node for _, node in walk(other) if isinstance(node, Leaf)]
        directory = draw(st.sampled_from(directories))
        names = sorted(directory.entries)
        node = draw(st.sampled_from([*directories, *leaves]))
        match draw(st.sampled_from(["mtime", "mode", "xattr", "remove", "add", "link", "unlink", "content"])):
            case "mtime":
                node.stat = node.stat._replace(mtime=draw(st.integers(0, 3)))
            case "mode":
                node.stat = node.stat._replace(mode=node.stat.mode ^ 0o100)
            case "xattr":
                node.stat = node.stat._replace(
                    xattrs={**node.stat.xattrs, b"user.a": draw(st.sampled_from([b"", b"x"]))}
                )
            case "remove" if names:
                del directory.entries[draw(st.sampled_from(names))]
            case "add":
                directory.entries[b"new"] = Leaf(directory.stat, Inline(b"new"))
            case "link" if leaves:
                directory.entries[draw(st.sampled_from([*names, b"linked"]))] = draw(st.sampled_from(leaves))
            case "unlink" if names:
                name = draw(st.sampled_from(names))
                old = directory.entries[name]
                if isinstance(old, Leaf):
                    directory.entries[name] = Leaf(old.stat, old.content)
            case "content" if leaves:
                draw(st.sampled_from(leaves)).content = Inline(draw(st.binary(max_size=3)))
    return root, other


@given(pairs())
def test_differences_are_those_of_the_dumps(pair):
    a, b = pair
    before = dump(a), dump(b)

    comparison = compare(a, b)

    assert comparison.equal == (before[0] == before[1])
    back = compare(b, a)
    assert {change.path for change in comparison.changes} == {change.path for change in back.changes}
    assert sum(group.count for group in groups(comparison)) == len(comparison.changes)
    names_a, names_b = lines(a), lines(b)
    assert (comparison.entries_a, comparison.entries_b) == (len(names_a), len(names_b))
    gone = sum(1 + change.below for change in comparison.changes if change.kind == "removed")
    new = sum(1 + change.below for change in comparison.changes if change.kind == "added")
    if not any(change.kind == "type" for change in comparison.changes):
        assert len(names_b) - len(names_a) == new - gone
    assert before == (dump(a), dump(b))


@given(pairs())
def test_explanations_hold(pair):
    """An explanation for all is one, what is explained is counted, and neither tree is changed by trying."""
    a, b = pair
    before = dump(a), dump(b)
    comparison = compare(a, b)

    explanations = explain(a, b, comparison=comparison)

    for each in explanations:
        assert each.total == len(comparison.changes)
        assert 0 <= each.explained <= each.total - each.partly
        assert each.explains_all == (each.explained == each.total)
    assert before == (dump(a), dump(b))
    list(render(comparison, groups(comparison), explanations))
    assert as_json(comparison, groups(comparison), explanations)["equal"] is comparison.equal
