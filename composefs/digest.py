"""fs-verity algorithms and digests as values.

Source: Documentation/filesystems/fsverity.rst; textual forms as in composefs repositories.
"""

from __future__ import annotations

import enum
from functools import cached_property
from typing import NamedTuple, Self

_PREFIX = "fsverity-"
BLOCK_SIZE = 4096  # bytes; the only Merkle block size that composefs repositories use
LG_BLOCK_SIZE = 12
assert BLOCK_SIZE == 1 << LG_BLOCK_SIZE


class Algorithm(enum.Enum):
    """The hash of a repository's Merkle trees; the value is its name in `meta.json`."""

    SHA256 = "fsverity-sha256-12"
    SHA512 = "fsverity-sha512-12"

    @cached_property
    def hash_name(self) -> str:
        """The hash as hashlib spells it."""
        return self.value.removeprefix(_PREFIX).partition("-")[0]

    @cached_property
    def kernel_id(self) -> int:
        """The kernel's number, FS_VERITY_HASH_ALG_*."""
        return {"sha256": 1, "sha512": 2}[self.hash_name]

    @cached_property
    def digest_size(self) -> int:
        """The size of a digest in bytes."""
        return {"sha256": 32, "sha512": 64}[self.hash_name]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the algorithm called *text*, such as `fsverity-sha512-12`.

        Raises:
            ValueError: the text is none; the message says which part is wrong.
        """
        if not text.startswith(_PREFIX):
            raise ValueError(f"algorithm {text!r} does not begin with {_PREFIX!r}")
        hash_name, dash, block_size = text.removeprefix(_PREFIX).rpartition("-")
        if not dash:
            raise ValueError(f"algorithm {text!r} names no block size")
        if block_size != str(LG_BLOCK_SIZE):
            raise ValueError(f"algorithm {text!r} has block size {block_size}, only {LG_BLOCK_SIZE} is known")
        try:
            return cls(text)
        except ValueError:
            raise ValueError(f"algorithm {text!r} has unknown hash {hash_name!r}") from None


class Digest(NamedTuple):
    """The fs-verity digest of a file, which is also its name as an object."""

    algorithm: Algorithm
    raw: bytes

    @property
    def hex(self) -> str:
        """The digest as lower-case hexadecimal digits."""
        return self.raw.hex()

    @property
    def object_path(self) -> str:
        """The object's path below `objects/`: `xx/rest`."""
        return object_path(self.raw)

    def __str__(self) -> str:
        return f"{self.algorithm.hash_name}:{self.raw.hex()}"

    @classmethod
    def from_hex(cls, algorithm: Algorithm, text: str) -> Self:
        """Return the digest that *text*, hexadecimal digits of any case, names.

        Raises:
            ValueError: the text is no digest of that algorithm.
        """
        if len(text) != 2 * algorithm.digest_size or not text.isalnum() or not text.isascii():
            raise ValueError(f"{text!r} is no {algorithm.hash_name} digest in hexadecimal")
        try:
            return cls(algorithm, bytes.fromhex(text))
        except ValueError:
            raise ValueError(f"{text!r} is no {algorithm.hash_name} digest in hexadecimal") from None


def object_path(raw: bytes) -> str:
    """Return the path below `objects/` of the object whose digest is *raw*."""
    text = raw.hex()
    return f"{text[:2]}/{text[2:]}"
