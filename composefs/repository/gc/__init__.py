"""Collect garbage: remove the objects that no reference keeps, and the names that led to them.

    names.py       streams/ and images/: links, and the references below them
    objects.py     which objects there are, and which are alive
    live.py        what references keep
    leftovers.py   what work that ended too early has left
    trash.py       what was collected and can be had back, in batches
    clock.py       how long that has been there
    collect.py     all of it, in the order that is safe
    report.py      what came of it
    undo.py        bring back the last batch
    explain.py     why something is kept
    work.py        what these three need for it

Nothing is removed before all that is needed is known.
"""

from composefs.repository.gc.collect import collect_garbage
from composefs.repository.gc.explain import Explanation, explain
from composefs.repository.gc.report import Report
from composefs.repository.gc.undo import Restored, undo_collection

__all__ = ["Explanation", "Report", "Restored", "collect_garbage", "explain", "undo_collection"]
