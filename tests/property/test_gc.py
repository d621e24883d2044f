"""What is kept of repositories of any shape is what the rules say, and all of it survives."""

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import given, settings

from composefs import ComposefsError, Repository, _native
from composefs.repository.fsck import check_repository
from composefs.repository.gc import collect_garbage, explain, undo_collection
from tests.garbage import contents, live, make, objects_in, plans


@settings(max_examples=40)
@given(plans())
def test_what_is_kept(plan):
    """All that is alive stays, all else goes, no name leads nowhere, and all comes back."""
    directory = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    # Nobody cuts the power here.
    with mock.patch.object(os, "fsync"), mock.patch.object(_native, "syncfs"):
        try:
            _check(plan, directory / "repository")
        finally:
            shutil.rmtree(directory)


def _check(plan, path):
    made = make(plan, path)
    alive, before, objects = live(plan, made), contents(path), objects_in(path)
    roots = made.roots(plan)
    with Repository.open(path) as repository:
        try:
            report = collect_garbage(repository, roots=roots, trash_days=1)
        except ComposefsError:
            assert alive is None
            assert contents(path) == before
            return
        assert alive is not None
        assert objects_in(path) == objects & alive
        assert (report.objects_removed, report.objects_kept) == (len(objects - alive), len(objects & alive))
        for raw in objects:
            assert explain(repository, raw.hex(), roots=roots).is_alive == (raw in alive)
        # What was sound before is sound: all that is missing was missing.
        found = check_repository(repository)
        assert bool(plan.gone) or found.ok
        assert not found.counts.broken_links
        if not report.batch:
            assert contents(path) == before
            return
        gone = {str(where.relative_to(path)) for where in path.rglob("*") if where.is_symlink() and not where.exists()}
        restored = undo_collection(repository)
        lost = set(restored.names_lost) | gone
        assert {key: text for key, text in before.items() if key not in lost} == contents(path)
