"""Label a tree by a policy."""

from __future__ import annotations

import stat
from collections.abc import Mapping

from composefs.selinux.policy import Policy, advance
from composefs.tree import NO_XATTRS, Directory, Leaf, Special, Stat, Symlink, nodes

XATTR = b"security.selinux"

_DIRECTORY, _REGULAR, _SYMLINK = b"d-l"
_SPECIAL = dict(zip((stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK), b"bcps", strict=True))


def strip(root: Directory) -> None:
    """Remove the label of everything in the tree, in place."""
    for node in nodes(root):
        if XATTR in node.stat.xattrs:
            node.stat = _labelled(node.stat, None, NO_XATTRS)


def relabel(root: Directory, policy: Policy) -> None:
    """Set or remove the label of everything in the tree as *policy* wants it, in place.

    The first name of a leaf, depth first and in the order of names, labels it.  A later name that is to have another
    label gets a copy of the leaf.

    Raises:
        TreeError: matching the expressions of the policy takes too much work; some labels are set already.
    """
    aliases, context_of = policy.aliases, policy.context
    alone: dict[bytes | None, Mapping[bytes, bytes]] = {None: NO_XATTRS}  # the label as the only attribute, shared
    for context in policy.contexts:
        if context is not None and context not in alone:
            alone[context] = {XATTR: context}
    labels: dict[Leaf, bytes | None] = {}  # of the leaves seen
    position = advance(policy.start, b"/")
    context = context_of(position, _DIRECTORY)
    root.stat = _labelled(root.stat, context, alone[context])
    stack = [(b"/", position, root, name) for name in sorted(root.entries, reverse=True)]
    while stack:
        base, position, directory, name = stack.pop()
        path = base + name
        node = directory.entries[name]
        original = aliases.get(path)
        if original is None:
            position = advance(position, name)
        else:
            path = original
            position = advance(policy.start, path)
        if isinstance(node, Directory):
            context = context_of(position, _DIRECTORY)
            node.stat = _labelled(node.stat, context, alone[context])
            if not path.endswith(b"/"):
                path += b"/"
                position = advance(position, b"/")
            stack += [(path, position, node, below) for below in sorted(node.entries, reverse=True)]
            continue
        context = context_of(position, _type_character(node))
        if node not in labels:
            labels[node] = context
            node.stat = _labelled(node.stat, context, alone[context])
        elif labels[node] != context:
            directory.entries[name] = Leaf(_labelled(node.stat, context, alone[context]), node.content)


def _type_character(leaf: Leaf) -> int:
    content = leaf.content
    if isinstance(content, Symlink):
        return _SYMLINK
    if isinstance(content, Special):
        return _SPECIAL[content.type]
    return _REGULAR


def _labelled(before: Stat, context: bytes | None, alone: Mapping[bytes, bytes]) -> Stat:
    """Return *before* with another label; *alone* is what the attributes are if there are no others."""
    mode, uid, gid, mtime, nanoseconds, xattrs = before
    if xattrs.get(XATTR) == context:
        return before
    if xattrs and (others := {name: value for name, value in xattrs.items() if name != XATTR}):
        return Stat(mode, uid, gid, mtime, nanoseconds, {**others, **alone})
    return Stat(mode, uid, gid, mtime, nanoseconds, alone)
