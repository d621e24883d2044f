"""The digests by which OCI names blobs; no fs-verity."""

from __future__ import annotations

import hashlib


def oci_digest(data: bytes | bytearray) -> str:
    """Return the digest of *data*: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
