"""Short texts: names and links of a repository, references, platforms, digests, kernel arguments."""

from __future__ import annotations

import os
import random

from composefs.boot.kargs import ImageArgument, parse_cmdline, split_cmdline
from composefs.digest import Algorithm, Digest
from composefs.errors import ComposefsError
from composefs.oci.manifest import Platform
from composefs.reference import parse_reference
from composefs.repository import refs
from composefs.text import printable
from tests.fuzz.mutations import havoc
from tests.fuzz.target import Target

_HEX = {algorithm: "0123456789abcdef" * (algorithm.digest_size // 8) for algorithm in Algorithm}


def check(data: bytes) -> bool:
    """Read the text as each of them; what is taken means the same when it is written again."""
    text = os.fsdecode(data)
    taken = [_check_cmdline(text)]
    for read in (
        _check_tag,
        _check_ref,
        _check_link,
        _check_digest,
        _check_algorithm,
        _check_platform,
        _check_reference,
    ):
        try:
            read(text)
            taken.append(True)
        except ComposefsError as error:
            assert str(error).encode("utf-8", "backslashreplace")
        except ValueError as error:  # what values raise, which callers make errors of
            assert read in (_check_digest, _check_algorithm), error
    shown = printable(data)
    assert shown.isprintable()
    shown.encode()
    return any(taken)


def _check_cmdline(text: str) -> bool:
    tokens = list(split_cmdline(text))
    assert all(text[offset:].startswith(token) for offset, token in tokens)
    try:
        found = parse_cmdline(text)
    except ComposefsError as error:
        assert 0 <= error.offset <= len(text)  # type: ignore[attr-defined]  # it is a FormatError
        return False
    again = parse_cmdline(" ".join(map(str, found)))
    assert again == found
    assert all(isinstance(argument, ImageArgument) for argument in found)
    return bool(found)


def _check_tag(text: str) -> None:
    encoded = refs.encode_tag(text)
    assert refs.decode_tag(encoded) == text
    assert "/" not in encoded
    assert encoded not in ("", ".", "..")
    assert len(os.fsencode(encoded)) <= 255
    refs.check_ref(f"oci/{encoded}")


def _check_ref(text: str) -> None:
    refs.check_ref(text)
    place = os.path.normpath(f"/refs/{text}")
    assert place == f"/refs/{text}", "it leads elsewhere"
    assert all(0 < len(os.fsencode(part)) <= 255 for part in text.split("/"))


def _check_link(text: str) -> None:
    for algorithm in Algorithm:
        try:
            digest = refs.object_of(text, algorithm, "link")
        except ComposefsError:
            continue
        assert text.endswith(digest.object_path) or text.lower().endswith(digest.object_path)
        assert len(digest.raw) == algorithm.digest_size
        return
    refs.object_of(text, Algorithm.SHA256, "link")


def _check_digest(text: str) -> None:
    for algorithm in Algorithm:
        if len(text) == 2 * algorithm.digest_size:
            digest = Digest.from_hex(algorithm, text)
            assert digest.hex == text.lower()
            return
    Digest.from_hex(Algorithm.SHA256, text)


def _check_algorithm(text: str) -> None:
    assert Algorithm.parse(text).value == text


def _check_platform(text: str) -> None:
    assert str(Platform.parse(text)) == text


def _check_reference(text: str) -> None:
    found = parse_reference(text, exists=_nothing, is_directory=_nothing)
    assert parse_reference(str(found), exists=_nothing, is_directory=_nothing) == found


def _nothing(_path: str) -> bool:
    return False


_WORDS = [
    b"/", b"..", b".", b"../", b"%", b"%2F", b"%25", b"%252F", b"@", b":", b"\0", b"\xff", b"\xed\xa0\x80",
    "é".encode(),
    b"oci:", b"docker://", b"composefs=", b"composefs.digest=", b"v1-", b"v2-", b"sha256-12:", b"sha512-12:",
    b"?", b'"',
    b" ", b"\n", b"\t", b"a" * 255, b"objects/", b"../objects/", _HEX[Algorithm.SHA256].encode(),
    _HEX[Algorithm.SHA512].encode(), b"AB", "\uff10".encode(), "²".encode(), b"-", b"linux/", b"fsverity-",
]  # fmt: skip


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Put in what means something to some of them."""
    return havoc(chance, data, _WORDS)


def _seeds() -> dict[str, bytes]:
    short, long = _HEX[Algorithm.SHA256], _HEX[Algorithm.SHA512]
    texts = {
        "tag": "registry.example/a/image:tag",
        "escaped-tag": "a%2Fb%25",
        "ref": "oci/name",
        "link": f"../objects/{short[:2]}/{short[2:]}",
        "deep-link": f"../../../objects/{long[:2]}/{long[2:]}",
        "digest": short,
        "long-digest": long.upper(),
        "algorithm": Algorithm.SHA512.value,
        "platform": "linux/arm/v7",
        "reference": "oci:/srv/layout:tag",
        "cmdline": f'root=x "quoted  composefs=1" composefs={short} quiet composefs=?{long}\n',
        "cmdline-v1": f"composefs.digest=?v1-sha512-12:{long} composefs.digest=v2-sha256-12:{short}",
    }
    return {name: text.encode() for name, text in texts.items()}


TEXTS = Target("texts", check, mutate, _seeds, share=40, size_max=1 << 13)
