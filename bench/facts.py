"""What figures depend on; neither paths nor names of machines."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import zstandard
from images import directory

_ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, object]:
    """Return the facts of this machine and of the code."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "composefs", "csrc")),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
    }


def images(scale: str, kinds: Iterable[str]) -> dict[str, dict[str, object]]:
    """Return counts and sizes of the images of *kinds*."""
    found: dict[str, dict[str, object]] = {}
    for kind in kinds:
        place = directory(scale, kind)
        stats = json.loads((place / "stats.json").read_text())
        stats["layers"] = len(stats["layers"])
        index = json.loads((place / "layout" / "index.json").read_text())
        found[kind] = {**stats, "manifest": index["manifests"][0]["digest"]}
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
