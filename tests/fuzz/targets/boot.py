"""What a tree has to boot, and its SELinux policy: files inside of images, which anybody may have written."""

from __future__ import annotations

import random
import struct

from composefs.boot.entries import check_entries
from composefs.errors import FormatError, TreeError
from composefs.selinux import Policy
from composefs.tree import Directory, Inline, Leaf, Stat
from tests.fuzz.mutations import INTERESTING, havoc
from tests.fuzz.target import Target

_STAT = Stat(0o755, 0, 0, 0, 0)
_ENTRY, _ABOOT, _CONTEXTS = b"E", b"A", b"S"  # the first byte of an input: what the rest is
_POLICY = b"/etc/selinux/targeted/contexts/files/"
_PATHS = (b"/", b"/usr", b"/usr/bin/a", b"/usr/lib/modules/1", b"/etc/shadow", b"/\xff\n", b"/aaaaaaaaaaaaaaaaaaaaaaaa")


def check(data: bytes) -> bool:
    """A boot entry, an aboot payload, or contexts of a policy, by the first byte."""
    kind, rest = data[:1], data[1:]
    try:
        if kind == _CONTEXTS:
            _check_policy(rest)
        elif kind in (_ABOOT, _ENTRY):
            check_entries(_tree(kind, rest), lambda leaf: b"")
        else:
            return False
    except (FormatError, TreeError) as error:
        assert str(error).encode("utf-8", "backslashreplace")
        assert not isinstance(error, FormatError) or error.offset >= 0
        return False
    return True


def _check_policy(data: bytes) -> None:
    contexts, _, others = data.partition(b"\f\n")
    files = {b"/etc/selinux/config": b"SELINUXTYPE=targeted\n", _POLICY + b"file_contexts": contexts}
    files |= {_POLICY + b"file_contexts.local": others, _POLICY + b"file_contexts.subs": others}
    if others.startswith(b"SELINUX"):
        files[b"/etc/selinux/config"] = others
    policy = Policy.load(files.get)
    if policy is None:
        return
    for path in _PATHS:
        for kind in "-dl":
            label = policy.label(path, kind)
            assert label is None or label in contexts + others
            assert policy.label(path, kind) == label


def _directory(**entries) -> Directory:
    return Directory(_STAT, {name.encode(): node for name, node in entries.items()})


def _tree(kind: bytes, data: bytes) -> Directory:
    leaf = Leaf(_STAT, Inline(data))
    if kind == _ABOOT:
        boot = Directory(_STAT, {b"aboot-1.img": leaf})
    else:
        entries = Directory(_STAT, {b"a.conf": leaf, b"notes": Leaf(_STAT, Inline(b"\xff"))})
        boot = _directory(loader=_directory(entries=entries), vmlinuz=Leaf(_STAT, Inline(b"kernel")))
    return _directory(boot=boot, usr=_directory())


_WORDS = [
    b"linux", b"initrd", b"efi", b" ", b"\t", b"\f", b"\r", b"\n", b"\0", b"\xff", b"/boot/vmlinuz", b"/boot",
    b"./x", b"..",
    b"/boot/../boot/vmlinuz", b"//", b".linux\0\0", b".initrd\0", b"PE\0\0", b"ANDROID!", "\u3000".encode(),
    b"/usr(/.*)?", b"(", b")", b"(?:", b"(?=a)", b"(?<=a)", b"(?!", b"[", b"]", b"[^", b"[[:alpha:]]",
    b"{2,3}", b"{999}",
    b"{1,}", b"*", b"+", b"?", b"|", b"\\", b"\\d", b"\\b", b"\\x41", b"\\b{start}", b"&&", b"--", b"~~", b".",
    b"^", b"$",
    b"a{50}{50}", b"(a*)*", b"(a|a)*b", b"((((", b" -- ", b" -d ", b"<<none>>", b"system_u:object_r:etc_t:s0",
    b"x" * 300,
    b"(?P<n>a)", b"SELINUXTYPE=", b"../x", b"\f\n", b"/a /b\n",
]  # fmt: skip


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Change the text, or a number of a header."""
    if data[:1] == _ABOOT and len(data) > 64 and chance.randrange(2):
        at = chance.choice((61, 1 + 40, 1 + 1644, 1 + 128 + 4, 1 + 128 + 20, chance.randrange(1, len(data))))
        value = struct.pack("<I", chance.choice(INTERESTING) & 0xFFFF_FFFF)
        return data[:at] + value + data[at + 4 :]
    if chance.randrange(30) == 0:
        return chance.choice((_ENTRY, _ABOOT, _CONTEXTS)) + data[1:]
    return data[:1] + havoc(chance, data[1:], _WORDS)


def _android() -> bytes:
    head = struct.pack("<8s6II3I", b"ANDROID!", 1, 0, 1, 0, 0, 0, 0, 4096, 2, 0)
    return (head + bytes(16 + 512 + 32 + 1024) + struct.pack("<IQIIQ", 0, 0, 1660, 0, 0)).ljust(4096, b"\0")


def _pe() -> bytes:
    names = (b".linux", b".initrd", b".cmdline")
    sections = b"".join(struct.pack("<8sIIIIIIHHI", name, 16, 0, 16, 512, 0, 0, 0, 0, 0) for name in names)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(names), 0, 0, 0, 16, 0)
    return (
        (bytes(60) + struct.pack("<I", 128)).ljust(128, b"\0")
        + (coff + bytes(16) + sections).ljust(384, b"\0")
        + bytes(528)
    )


def _seeds() -> dict[str, bytes]:
    entry = b"title Linux\nversion 1\nlinux /boot/vmlinuz\ninitrd\t/boot/vmlinuz\noptions root=x\n"
    contexts = b"# comment\n/.* system_u:object_r:default_t:s0\n/usr(/.*)? -d u:usr_t\n/etc/shadow -- u:shadow_t\n"
    contexts += rb"/usr/lib(32|64)?/[^/]+\.so(\.[0-9]+)* u:lib_t" + b"\n/proc <<none>>\n/a{2,5}(?=b) u:a\n"
    return {
        "entry": _ENTRY + entry,
        "entry-without-file": _ENTRY + b"efi /boot/none.efi\n",
        "android": _ABOOT + _android(),
        "pe": _ABOOT + _pe(),
        "contexts": _CONTEXTS + contexts,
        "subs": _CONTEXTS + contexts + b"\f\n/usr/local /usr\n",
        "config": _CONTEXTS + contexts + b"\f\nSELINUXTYPE=targeted\n",
        "looking": _CONTEXTS + b"(?<!x)/usr(?!/a)[[:alpha:]&&[^b]]*\\b l:1\n(?:a|b)+?/\\x41\\d{2} l:2\n",
    }


BOOT = Target("boot", check, mutate, _seeds, share=20, size_max=1 << 13)
