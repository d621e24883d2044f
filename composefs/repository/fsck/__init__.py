"""Check a repository: what every object, stream, image and name of it is, against what it should be.

    findings.py   what can be wrong, and the report
    objects.py    contents against names, on threads
    index.py      which objects there are
    entries.py    streams/ and images/: links, and the references below them
    streams.py    headers and tables of streams, and whether what they refer to is there
    images.py     the structure of EROFS images, and whether what they refer to is there
    files.py      objects as files
    hurts.py      what a broken object takes with it
    paths.py      which files of an image have an object
    check.py      all of it
    damaged.py    repositories whose `meta.json` says nothing

Nothing is changed, and nothing that is found is believed.
"""

from composefs.repository.fsck.check import Progress, check_repository
from composefs.repository.fsck.damaged import open_damaged
from composefs.repository.fsck.findings import Counts, Finding, Kind, Report

__all__ = ["Counts", "Finding", "Kind", "Progress", "Report", "check_repository", "open_damaged"]
