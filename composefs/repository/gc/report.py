"""What came of a collection of garbage."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """What was removed; of a dry run, what would have been.

    Attributes:
        dry_run: nothing was changed.
        objects_removed: how many.
        objects_bytes: their size.
        objects_kept: how many are alive.
        images_pruned: names in `images/`, and references there, that led nowhere any more.
        streams_pruned: those in `streams/`.
        leftovers_removed: files and links of work that ended too early.
        strays: paths of what is no object, or no batch in the trash, which are left alone.
        trash_days: for how long the trash keeps what was removed; None: it was deleted.
        batch: what it is called there; None: there was nothing, or so it will be done.
        expires: when it may be deleted, in seconds since the epoch.
        expired: names of batches in the trash that were kept for long enough, and are deleted.
        expired_objects: how many objects they had.
        expired_bytes: the size of those.
        from_future: names of batches that were made later than it is now, and so are kept for longer than was wanted.
    """

    dry_run: bool
    objects_removed: int = 0
    objects_bytes: int = 0
    objects_kept: int = 0
    images_pruned: int = 0
    streams_pruned: int = 0
    leftovers_removed: int = 0
    strays: list[str] = field(default_factory=list)
    trash_days: int | None = None
    batch: str | None = None
    expires: int | None = None
    expired: list[str] = field(default_factory=list)
    expired_objects: int = 0
    expired_bytes: int = 0
    from_future: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return it for machines: see docs/json.md."""
        return {
            "objects_removed": self.objects_removed,
            "objects_bytes": self.objects_bytes,
            "images_pruned": self.images_pruned,
            "streams_pruned": self.streams_pruned,
            "dry_run": self.dry_run,
            "objects_kept": self.objects_kept,
            "leftovers_removed": self.leftovers_removed,
            "strays": self.strays,
            "trash_days": self.trash_days,
            "batch": self.batch,
            "expires": None if self.expires is None else as_date(self.expires),
            "expired": self.expired,
            "expired_objects": self.expired_objects,
            "expired_bytes": self.expired_bytes,
            "from_future": self.from_future,
        }


def as_date(seconds: int) -> str:
    """Return a time in seconds since the epoch as text, in UTC."""
    from datetime import UTC, datetime  # noqa: PLC0415  # seldom needed

    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}"
