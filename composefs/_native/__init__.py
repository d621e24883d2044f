"""The C extension with types, bytes and exceptions; nothing else imports `composefs._cfs`.

`alg` is the kernel's number of a hash (1 SHA-256, 2 SHA-512).  A buffer is never copied, and nobody may change it
during the call, since the GIL is released.  A negative errno of C becomes the exception that it means.  What may be a
memoryview is let go of before: an exception keeps its frames, and CPython 3.11 crashes when it collects a memoryview
that is still exported.

`composefs._native.columns` and `composefs._native.mounts`, which only some need, are imported by themselves.
"""

from composefs._native.archives import (
    ChunkMerger,
    TarCutter,
    TarPart,
    TarReader,
    TarTexts,
    pack_chunks,
    sum_bytes,
)
from composefs._native.core import (
    DIGEST_MAX,
    SHA256,
    SHA512,
    SPAN_SIZE,
    Buffer,
)
from composefs._native.files import (
    OBJECT_FOUND,
    OBJECT_NEW,
    OBJECT_SEALED,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    FoundObjects,
    ObjectChecker,
    ObjectState,
    enable_verity,
    link_fd,
    make_directory,
    measure_verity,
    missing_objects,
    open_below,
    reflink,
    rename,
    reopen_near,
    seal,
    set_mode,
    stamp_objects,
    store_file,
    store_objects,
    syncfs,
)
from composefs._native.hashes import (
    StreamHash,
    VerityState,
    hash_implementation,
    hash_implementations,
    select_hash_implementation,
    verity_digest,
    verity_digest_fd,
    verity_digest_fds,
    verity_digests,
)

__all__ = [
    "DIGEST_MAX",
    "OBJECT_FOUND",
    "OBJECT_NEW",
    "OBJECT_SEALED",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "SHA256",
    "SHA512",
    "SPAN_SIZE",
    "Buffer",
    "ChunkMerger",
    "FoundObjects",
    "ObjectChecker",
    "ObjectState",
    "StreamHash",
    "TarCutter",
    "TarPart",
    "TarReader",
    "TarTexts",
    "VerityState",
    "enable_verity",
    "hash_implementation",
    "hash_implementations",
    "link_fd",
    "make_directory",
    "measure_verity",
    "missing_objects",
    "open_below",
    "pack_chunks",
    "reflink",
    "rename",
    "reopen_near",
    "seal",
    "select_hash_implementation",
    "set_mode",
    "stamp_objects",
    "store_file",
    "store_objects",
    "sum_bytes",
    "syncfs",
    "verity_digest",
    "verity_digest_fd",
    "verity_digest_fds",
    "verity_digests",
]
