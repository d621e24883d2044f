"""Sources of images, opened without anything of this host."""

from composefs.oci.sources.access import Access
from composefs.oci.sources.opening import open_source
from composefs.oci.sources.source import Place, Source


def opened(reference: str) -> Source:
    """Return the source that *reference* names."""
    return open_source(str(reference), Access())


def read_place(place: Place, size: int = 1 << 16) -> bytes:
    """Return all that is at *place*, asked for *size* bytes at a time."""
    stream = place.open("layer x", lambda: 1)
    try:
        return b"".join(iter(lambda: stream.read(size), b""))
    finally:
        stream.close()
