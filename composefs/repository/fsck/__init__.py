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
    record.py     what a clean check saw, so that the next one can pass over what has not changed
    check.py      all of it
    damaged.py    repositories whose `meta.json` says nothing

A check changes nothing, and nothing that is found is believed.  What is done about it is another thing:

    damage.py     what has to be made again, by what was found
    repair.py     have that made, and check again
    other.py      from another repository; composefs.oci.repair has from an image
    quarantine.py set aside what is itself broken
"""

from composefs.repository.fsck.check import Progress, check_repository
from composefs.repository.fsck.damaged import open_damaged
from composefs.repository.fsck.findings import Counts, Finding, Kind, Report

__all__ = ["Counts", "Finding", "Kind", "Progress", "Report", "check_repository", "open_damaged"]
