"""Tar archives, split into what a splitstream keeps inline and the contents that become objects; no I/O."""

from composefs.tar.header import BLOCK, REGULAR, Entry
from composefs.tar.splitter import INLINE_MAX, Content, Inline, TarSplitter

__all__ = ["BLOCK", "INLINE_MAX", "REGULAR", "Content", "Entry", "Inline", "TarSplitter"]
