"""Images read as file systems: no mount, no root."""

from composefs.image.entry import Entry
from composefs.image.extraction import Extraction, extract
from composefs.image.files import Image, Place
from composefs.image.names import resolve
from composefs.image.restore import Shortfall

__all__ = ["Entry", "Extraction", "Image", "Place", "Shortfall", "extract", "resolve"]
