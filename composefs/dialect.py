"""Two programs make composefs images, and differ in corners: whose rules hold."""

from __future__ import annotations

from enum import Enum


class Dialect(Enum):
    """Whose rules hold where the two differ; docs/compatibility.md lists all places."""

    RUST = "rust"  # composefs-rs 0.9.4: cfsctl, and what bootc builds on
    C = "c"  # composefs 1.0.8: mkcomposefs
