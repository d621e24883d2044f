"""The known reasons for two ids that differ, and when each is worth a try.

A reason is mostly something that was done to one side only.  Its transform, applied to the other side, makes both
equal there; where it changes what was equal before, it is not the reason.  What is here only guesses, cheaply, from
the fields that differ: `explain` applies the transforms and judges.  Reasons of one family change the same fields and
are given the most telling first.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from operator import or_
from typing import TypeVar

from composefs.diff import rewrite
from composefs.diff.compare import HARD_LINK, LABEL, LINK_COUNT, TIME_FIELDS, XATTR, Change, Comparison, Value
from composefs.diff.rewrite import Rewrite, stats
from composefs.digest import Algorithm
from composefs.text import printable
from composefs.tree import Directory, Leaf, is_whiteout
from composefs.xattrs import XattrFilter

_T = TypeVar("_T")
_LABEL_FIELD = XATTR + printable(LABEL)
_TIMES = frozenset(TIME_FIELDS)
_ALGORITHMS = {algorithm.digest_size: algorithm for algorithm in Algorithm}
_FILE_TYPES = {
    "directory": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}


@dataclass(frozen=True, slots=True)
class Cause:
    """One possible reason."""

    name: str
    phrase: str  # a clause
    advice: str  # where it mostly comes from and what to do, in one sentence
    apply: Rewrite
    both: bool = False  # applied to both sides, else to the old one


class Facts:
    """What one direction, from *old* to *new*, shows; *backward*: old is b."""

    def __init__(self, old: Directory, new: Directory, comparison: Comparison, *, backward: bool) -> None:
        self.old, self.new, self.backward = old, new, backward
        self.old_name, self.new_name = ("b", "a") if backward else ("a", "b")
        self._changes = comparison.changes

    @cached_property
    def _fields(self) -> dict[str, list[tuple[Change, Value, Value]]]:
        found: dict[str, list[tuple[Change, Value, Value]]] = {}
        for change in self._changes:
            for name, old, new in change.fields:
                if self.backward:
                    old, new = new, old  # noqa: PLW2901  # the other direction
                found.setdefault(name, []).append((change, old, new))
        return found

    @cached_property
    def gone(self) -> list[Change]:
        """What only the old side has."""
        kind = "added" if self.backward else "removed"
        return [change for change in self._changes if change.kind == kind]

    @cached_property
    def paths(self) -> frozenset[bytes]:
        """Where anything differs."""
        return frozenset(change.path for change in self._changes)

    @property
    def xattr_names(self) -> list[str]:
        """The fields that are extended attributes."""
        return [name for name in self._fields if name.startswith(XATTR)]

    def pairs(self, name: str, of: type[_T]) -> list[tuple[_T | None, _T | None]]:
        """Return old and new of the field *name*, whose values have the type *of*, wherever it differs."""
        return [
            (old if isinstance(old, of) else None, new if isinstance(new, of) else None)
            for _, old, new in self._fields.get(name, ())
        ]

    def numbers(self, name: str) -> list[tuple[int, int]]:
        """Return old and new of the field *name*, which every node has; a node of another type counts as well."""
        found = self._fields.get(name, ())
        return [(old, new) for _, old, new in found if isinstance(old, int) and isinstance(new, int)]

    def types(self, *names: str) -> set[str]:
        """Return the types of the nodes that differ in one of the fields *names*."""
        return {change.node_type for name in names for change, _, _ in self._fields.get(name, ())}

    def inlined(self) -> list[tuple[int, bytes]]:
        """Return size and new digest of each file that is inline on the old side only."""
        digests = {change.path: new for change, _, new in self._fields.get("digest", ())}
        found = []
        for change, old, new in self._fields.get("inline data", ()):
            digest = digests.get(change.path)
            if isinstance(old, bytes) and new is None and isinstance(digest, bytes):
                found.append((len(old), digest))
        return found


def containers(facts: Facts) -> Iterator[Cause]:
    """The transform for containers, done to the new side only."""
    touched = any(path == b"/" or path.startswith(b"/run") for path in facts.paths)
    if not touched or not isinstance(facts.old.entries.get(b"usr"), Directory):
        return
    for mode in XattrFilter:
        yield Cause(
            "oci-transform",
            f"the transform for containers ({mode.value}) was done to {facts.new_name} only",
            "It gives the root the metadata of /usr, empties /run and drops extended attributes: make both with it, or "
            "both without (--no-propagate-usr-to-root).",
            partial(rewrite.as_container, mode),
        )


def booting(facts: Facts) -> Iterator[Cause]:
    """The transform for booting, done to the new side only."""
    touched = any(path.startswith((b"/boot", b"/sysroot")) for path in facts.paths)
    if touched and isinstance(facts.old.entries.get(b"usr"), Directory):
        yield Cause(
            "boot-transform",
            f"/boot and /sysroot are emptied in {facts.new_name}",
            "The id of a bootable image is that after the transform for booting: use --bootable on both sides.",
            partial(rewrite.with_emptied, (b"boot", b"sysroot")),
        )


def times(facts: Facts) -> Iterator[Cause]:
    """Modification times."""
    seconds, nanoseconds = facts.numbers("mtime"), facts.numbers("nanoseconds")
    if not seconds and not nanoseconds:
        return
    new, new_parts = {new for _, new in seconds}, {new for _, new in nanoseconds}
    side = facts.new_name
    if len(new) == 1 and len(new_parts) <= 1:
        value, part = new.pop(), next(iter(new_parts), None)
        if value == 0 and not part:
            yield Cause(
                "mtimes-zero",
                f"all mtimes are 0 in {side}",
                "One side was made with --use-epoch or from a checkout without times: make both the same way.",
                stats(rewrite.set_mtime, 0, 0),
            )
        elif len(seconds) > 1:  # a single one says nothing of a rule
            if not part and all(old > value for old, _ in seconds):
                yield Cause(
                    "mtimes-clamped",
                    f"mtimes are clamped to {value} in {side}",
                    "A build tool clamps times to SOURCE_DATE_EPOCH: set it to the same value for both.",
                    stats(rewrite.clamp_mtime, value),
                )
            yield Cause(
                "mtimes-set",
                f"all mtimes are {value} in {side}",
                "A build tool sets all times to one value: give both sides the same one.",
                stats(rewrite.set_mtime, value, part),
            )
    if nanoseconds and new_parts <= {0}:
        yield Cause(
            "nanoseconds-dropped",
            f"mtimes are truncated to seconds in {side}",
            "V2 images and plain tar headers have no nanoseconds: compare images of one version, made from one source.",
            stats(rewrite.set_mtime, None, 0),
        )
    if facts.backward:
        return
    if facts.types(*_TIMES) == {"directory"}:
        yield Cause(
            "directory-mtimes",
            "the mtimes of directories differ",
            "A build tool touched directories when it unpacked into them: set their times, or build from the layers.",
            stats(rewrite.set_mtime, 0, 0, types=frozenset({stat.S_IFDIR})),
            both=True,
        )
    else:
        yield Cause(
            "mtimes",
            "mtimes differ",
            "Files were written anew on one side: keep their times, or set SOURCE_DATE_EPOCH for both.",
            stats(rewrite.set_mtime, 0, 0),
            both=True,
        )


def xattrs(facts: Facts) -> Iterator[Cause]:
    """Extended attributes, SELinux labels first."""
    labels = facts.pairs(_LABEL_FIELD, bytes)
    names = facts.xattr_names
    if labels and all(new is None for _, new in labels):
        yield Cause(
            "selinux-missing",
            f"SELinux labels are missing in {facts.new_name}",
            "One side was read from a labelled host or labelled by a policy, the other not: strip or label both.",
            stats(rewrite.no_label),
        )
    if labels and all(old is not None and new is not None and old == new + b"\0" for old, new in labels):
        yield Cause(
            "selinux-nul",
            f"SELinux labels end with a NUL in {facts.old_name} only",
            "Labels read from a host end with a NUL, those that a policy gives in an image do not: relabel both alike.",
            stats(rewrite.trimmed_label),
        )
    if labels and not facts.backward:
        yield Cause(
            "selinux",
            "SELinux labels differ",
            "The labels come from two policies, or from a host and a policy: relabel both with the image's policy.",
            stats(rewrite.no_label),
            both=True,
        )
    if names and all(new is None for name in names for _, new in facts.pairs(name, bytes)):
        yield Cause(
            "xattrs-dropped",
            f"{facts.new_name} has no extended attributes",
            "A copy or an archive lost them: use `cp -a`, `tar --xattrs`, `rsync -X`, and no --skip-xattrs.",
            stats(rewrite.no_xattrs),
        )
        for mode in XattrFilter:
            yield Cause(
                "xattrs-filtered",
                f"extended attributes are filtered ({mode.value}) in {facts.new_name}",
                "Images of containers keep few attributes: choose the same --xattrs for both, and do the transform for "
                "containers on both.",
                stats(rewrite.filtered_xattrs, mode.keeps),
            )


def links(facts: Facts) -> Iterator[Cause]:
    """Hard links."""
    joined = facts.pairs(HARD_LINK, bytes)
    if not joined and not facts.numbers(LINK_COUNT):
        return
    if all(new is None for _, new in joined) and all(new == 1 for _, new in facts.numbers(LINK_COUNT)):
        yield Cause(
            "hard-links-broken",
            f"hard links are separate files in {facts.new_name}",
            "mkcomposefs without --hardlinks and many copying tools break links: keep them (`cp -a`, `rsync -H`).",
            rewrite.without_links,
        )
    if not facts.backward:
        yield Cause(
            "hard-links",
            "other names are linked to each other",
            "A tool linked equal files, or broke links, on one side: link the same names on both.",
            rewrite.without_links,
            both=True,
        )


def owners(facts: Facts) -> Iterator[Cause]:
    """Users and groups."""
    uids, gids = facts.numbers("uid"), facts.numbers("gid")
    if not uids and not gids:
        return
    uid, gid = ({new for _, new in pairs} for pairs in (uids, gids))
    uid_shift, gid_shift = ({new - old for old, new in pairs} for pairs in (uids, gids))
    if uid | gid == {0}:
        yield Cause(
            "owners-root",
            f"everything belongs to root in {facts.new_name}",
            "A build without root, or an archive with numeric owners reset, loses them: build as root or by `unshare`.",
            stats(rewrite.set_owner, 0 if uids else None, 0 if gids else None),
        )
    by = (next(iter(uid_shift), 0), next(iter(gid_shift), 0))
    if len(uid_shift) <= 1 and len(gid_shift) <= 1 and by > (0, 0):  # the other direction has the same, downwards
        yield Cause(
            "owners-shifted",
            f"uids are shifted by {by[0]} and gids by {by[1]} in {facts.new_name}",
            "One side was read through the id mapping of a user namespace: read it inside, as with `podman unshare`.",
            stats(rewrite.shift_owner, *by),
        )
    if len(uid) <= 1 and len(gid) <= 1 and uid | gid != {0}:
        one = (next(iter(uid), None), next(iter(gid), None))
        told = ":".join("*" if number is None else str(number) for number in one)
        yield Cause(
            "owners-set",
            f"everything belongs to {told} in {facts.new_name}",
            "The tree was unpacked by a user who cannot give files away: unpack as root or by `unshare`.",
            stats(rewrite.set_owner, *one),
        )
    if not facts.backward:
        yield Cause(
            "owners",
            "owners differ",
            "Names of users were resolved by two user databases: use numeric owners, and fixed ids in the image.",
            stats(rewrite.set_owner, 0, 0),
            both=True,
        )


def modes(facts: Facts) -> Iterator[Cause]:
    """Permission bits."""
    pairs = facts.numbers("mode")
    if not pairs or any(new & ~old for old, new in pairs):
        return
    mask = reduce(or_, (old & ~new for old, new in pairs))
    types = frozenset(_FILE_TYPES[name] for name in facts.types("mode"))
    if not mask & ~0o777:
        name, phrase = "umask", f"permissions are masked by {mask:04o} in {facts.new_name}"
        advice = "The tree was unpacked under a umask: unpack with `tar -p`, `cp -p` or umask 0."
    elif not mask & ~0o7000:
        name, phrase = "special-bits", f"setuid, setgid or sticky bits ({mask:04o}) are lost in {facts.new_name}"
        advice = "Changing an owner or unpacking without root drops these bits: unpack as root with `tar -p`."
    else:
        name, phrase = "mode-bits", f"mode bits {mask:04o} are missing in {facts.new_name}"
        advice = "Layers may have bits above 07777, which images drop and dumps show: compare two of one kind."
    yield Cause(name, phrase, advice, stats(rewrite.mask_mode, mask, types=types))


def devices(facts: Facts) -> Iterator[Cause]:
    """Whiteouts and devices that only the old side has."""
    gone = [change for change in facts.gone if change.node_type in ("character device", "block device")]
    if not gone:
        return
    nodes = {change.path: facts.old.node(change.path) for change in gone}
    hidden = {path for path, node in nodes.items() if isinstance(node, Leaf) and is_whiteout(node.content)}
    if any(rewrite.is_stub(path[1:], nodes[path]) for path in hidden):
        yield Cause(
            "stubs-lost",
            f"whiteouts named 00 to ff in the root are lost in {facts.new_name}",
            "Images keep 256 such names for themselves, so reading one loses those of the tree: give them other names.",
            rewrite.without_stubs,
        )
    if hidden:
        yield Cause(
            "whiteouts",
            f"whiteouts are missing in {facts.new_name}",
            "One side is the upper directory of an overlay or an unmerged layer: merge the layers first.",
            partial(rewrite.without, is_whiteout),
        )
    yield Cause(
        "devices-skipped",
        f"devices are missing in {facts.new_name}",
        "One side was made with --skip-devices or without the right to make devices: skip them on both.",
        partial(rewrite.without, lambda content: content.type in (stat.S_IFCHR, stat.S_IFBLK)),
    )


def contents(facts: Facts) -> Iterator[Cause]:
    """How contents are stored and named."""
    inlined = facts.inlined()
    if inlined and len(inlined[0][1]) in _ALGORITHMS:
        smallest = min(size for size, _ in inlined)
        yield Cause(
            "inline-threshold",
            f"files of {smallest} bytes and more are inline in {facts.old_name} but objects in {facts.new_name}",
            "The tools inline files up to different sizes, 64 bytes by default: use the same tool and limit for both.",
            partial(rewrite.with_contents, partial(rewrite.as_object, _ALGORITHMS[len(inlined[0][1])], smallest)),
        )
    digests = facts.pairs("digest", bytes)
    if digests and not facts.backward and all(old and new and len(old) != len(new) for old, new in digests):
        yield Cause(
            "digest-algorithm",
            "the digests are of different algorithms, so that contents of one size cannot be told apart",
            "One repository has sha256 and the other sha512: make both images with one algorithm, then compare again.",
            partial(rewrite.with_contents, rewrite.no_digest),
            both=True,
        )


# Each with the beginnings of the names of the fields and kinds it can explain: once none is left, it is not asked on.
FAMILIES: tuple[tuple[Callable[[Facts], Iterator[Cause]], tuple[str, ...]], ...] = (
    (containers, ()),
    (booting, ()),
    (times, ("mtime", "nanoseconds")),
    (xattrs, (XATTR,)),
    (links, (HARD_LINK, LINK_COUNT)),
    (owners, ("uid", "gid")),
    (modes, ("mode",)),
    (devices, ("added", "removed")),
    (contents, ("digest", "inline data")),
)
