"""Kernel arguments that say which image to boot.

    composefs.digest=[?]v1-sha512-12:HEX    format of the image, hash, log2 of the block size
    composefs=[?]HEX                        the older spelling: format 2, the hash by the number of digits

A `?` says that fs-verity is not required.  They are read as composefs-setup-root 0.9.4 reads them: all of both
spellings, in their order; one that is malformed is an error, whatever the others say.  The first whose image exists is
booted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from composefs.digest import Algorithm, Digest
from composefs.errors import FormatError

SOURCE = "kernel command line"  # in messages

_DIGEST_KEY, _LEGACY_KEY = "composefs.digest=", "composefs="
_INSECURE = "?"
_ALGORITHM_PREFIX = "fsverity-"
_FORMATS = {"v1": 1, "v2": 2}
_LEGACY_FORMAT = 2
_DIGITS = {2 * algorithm.digest_size: algorithm for algorithm in Algorithm}
# One blank or newline ends a token, unless a quote is open: quotes stay part of it, and nothing escapes them.
_TOKEN = re.compile(r'(?:[^" \t\n\f\r]|"[^"]*(?:"|\Z))+')


class ImageArgument(NamedTuple):
    """A kernel argument that names an image."""

    digest: Digest
    version: int  # of the EROFS format: 1, which stands for 0, too, or 2
    insecure: bool  # fs-verity is not required

    def __str__(self) -> str:
        return format_argument(self.digest, self.version, insecure=self.insecure)


def format_argument(digest: Digest, version: int, *, insecure: bool) -> str:
    """Return the kernel argument for the image *digest* of the EROFS version *version*.

    Args:
        digest: of the image.
        version: 0, 1 or 2.
        insecure: boot it also without fs-verity.
    """
    mark = _INSECURE if insecure else ""
    if version == _LEGACY_FORMAT:
        return f"{_LEGACY_KEY}{mark}{digest.hex}"
    return f"{_DIGEST_KEY}{mark}v1-{digest.algorithm.value.removeprefix(_ALGORITHM_PREFIX)}:{digest.hex}"


def parse_cmdline(text: str) -> list[ImageArgument]:
    """Return the images that the kernel command line *text* names, in its order.

    Raises:
        FormatError: an argument is malformed; the offset counts characters.
    """
    found = []
    for offset, token in split_cmdline(text):
        for key, parse in ((_DIGEST_KEY, _parse_digest), (_LEGACY_KEY, _parse_legacy)):
            if token.startswith(key):
                value = token.removeprefix(key)
                try:
                    digest, version = parse(value.removeprefix(_INSECURE))
                except ValueError as error:
                    raise FormatError(SOURCE, offset, f"{token}: {error}") from None
                found.append(ImageArgument(digest, version, value.startswith(_INSECURE)))
    return found


def split_cmdline(text: str) -> Iterator[tuple[int, str]]:
    """Yield the arguments of the kernel command line *text*, each after its offset, in characters."""
    return ((match.start(), match.group()) for match in _TOKEN.finditer(text))


def _parse_digest(value: str) -> tuple[Digest, int]:
    descriptor, colon, digits = value.partition(":")
    if not colon:
        raise ValueError("expected '<version>-<hash>-<blocksize>:<hex>'")
    version, _, algorithm = descriptor.partition("-")
    if version not in _FORMATS:
        raise ValueError(f"unsupported format version {version!r}, wanted v1 or v2")
    return Digest.from_hex(Algorithm.parse(_ALGORITHM_PREFIX + algorithm), digits), _FORMATS[version]


def _parse_legacy(value: str) -> tuple[Digest, int]:
    if len(value) not in _DIGITS:
        raise ValueError(f"invalid composefs= digest length: {len(value)}, wanted 64 or 128 hexadecimal digits")
    return Digest.from_hex(_DIGITS[len(value)], value), _LEGACY_FORMAT
