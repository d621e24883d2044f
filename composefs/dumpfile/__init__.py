"""Dumps: trees as text, a line for each name, as composefs-dump(5) has it."""

from composefs.dumpfile.parser import parse_dump, read_lines
from composefs.dumpfile.reader import Dump
from composefs.dumpfile.writer import count_names, format_below, format_dump, format_entry, format_hard_link

__all__ = [
    "Dump",
    "count_names",
    "format_below",
    "format_dump",
    "format_entry",
    "format_hard_link",
    "parse_dump",
    "read_lines",
]
