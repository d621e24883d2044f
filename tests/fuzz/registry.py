"""All targets in Python, by name; their modules are imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import cast

from tests.fuzz.target import Target

_PLACES = {  # module below tests.fuzz.targets, and what it is called there
    "tar": ("tar", "TAR"),
    "layers": ("tar", "LAYERS"),
    "splitstream": ("splitstream", "SPLITSTREAM"),
    "erofs": ("erofs", "EROFS"),
    "dumpfile": ("dumpfile", "DUMPFILE"),
    "gzip": ("compressed", "GZIP"),
    "zstd": ("compressed", "ZSTD"),
    "oci": ("documents", "OCI"),
    "meta": ("documents", "META"),
    "layout": ("layout", "LAYOUT"),
    "archives": ("archives", "ARCHIVES"),
    "storage": ("storage", "STORAGE"),
    "texts": ("texts", "TEXTS"),
    "boot": ("boot", "BOOT"),
    "auth": ("hostconfig", "AUTH"),
    "registries": ("hostconfig", "REGISTRIES"),
    "policy": ("hostconfig", "POLICY"),
    "answers": ("answers", "ANSWERS"),
    "records": ("records", "RECORDS"),
    "repository": ("repository", "REPOSITORY"),
}
NAMES = tuple(_PLACES)


def load(name: str) -> Target:
    """Return the target *name*."""
    module, attribute = _PLACES[name]
    found = cast("Target", getattr(importlib.import_module(f"tests.fuzz.targets.{module}"), attribute))
    assert found.name == name
    return found
