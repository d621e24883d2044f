"""The fs-verity digest by hashlib: slow, and easy to compare with Documentation/filesystems/fsverity.rst."""

import hashlib
import struct

HASHES = {"sha256": (1, 64), "sha512": (2, 128)}  # the kernel's number; bytes of one compression


def verity_digest(data: bytes, hash_name: str, block_size: int = 4096, salt: bytes = b"") -> bytes:
    """Return the fs-verity digest of *data*."""
    number, hash_block = HASHES[hash_name]
    padded_salt = salt + bytes(-len(salt) % hash_block)

    def hash_blocks(level: bytes) -> list[bytes]:
        blocks = [level[i : i + block_size] for i in range(0, len(level), block_size)]
        return [hashlib.new(hash_name, padded_salt + block.ljust(block_size, b"\0")).digest() for block in blocks]

    hashes = hash_blocks(data)
    while len(hashes) > 1:
        hashes = hash_blocks(b"".join(hashes))
    root = hashes[0] if hashes else b""
    log_block_size = block_size.bit_length() - 1
    descriptor = struct.pack("<BBBBIQ64s32s144x", 1, number, log_block_size, len(salt), 0, len(data), root, salt)
    return hashlib.new(hash_name, descriptor).digest()
