"""What all calls of the extension have in common."""

from __future__ import annotations

import errno
import os
from typing import TypeAlias

from composefs._cfs import ffi, lib

__all__ = ["DIGEST_MAX", "SHA256", "SHA512", "SPAN_SIZE", "Buffer", "check", "encode_path", "ffi", "lib"]

Buffer: TypeAlias = bytes | bytearray | memoryview

SHA256 = 1  # FS_VERITY_HASH_ALG_SHA256
SHA512 = 2
DIGEST_MAX = 64  # bytes; FS_VERITY_MAX_DIGEST_SIZE
SPAN_SIZE = 16  # bytes of struct cfs_span: offset and size


def check(ret: int, path: str | None = None) -> int:
    """Return *ret*, or raise the exception that a negative errno names."""
    if ret == -errno.ENOMEM:
        raise MemoryError
    if ret < 0:
        raise OSError(-ret, os.strerror(-ret), path)
    return ret


def encode_path(path: str) -> bytes:
    """Return *path* for C, which would take a zero byte for its end."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    return raw
