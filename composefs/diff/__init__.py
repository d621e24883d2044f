r"""Why two trees are not the same: every difference, the groups they fall into, and what explains them.

Trees that have one dump make one image.  So what a dump shows is compared and nothing else, hard links included;
places, node numbers and the order of making do not count.  `compare` finds the differences, `groups` sums them up,
`explain` tries known causes on copies of the trees, `render` and `as_json` show all of it.

Not every difference makes two ids: V2 images have no nanoseconds, and no image has mode bits above 07777.

The shape of `as_json`; keys are never removed, and paths and other bytes are printable text (`\xHH`, `\\`):

    equal         bool
    entries       {"a": int, "b": int}     names in each tree, the root included
    total         int                      all changes
    groups        [{"description": str, "count": int, "below": int, "kind": str, "node_type": str,
                    "fields": [str], "uniform": [FIELD], "samples": [str], "layer": LAYER}]
                                           largest first
    explanations  [{"name": str, "sentence": str, "explains_all": bool, "explained": int, "partly": int,
                    "total": int, "advice": str}]                             best first
    changes       [{"path": str, "kind": "added" | "removed" | "type" | "metadata" | "content" | "links",
                    "node_type": str, "below": int, "layer": LAYER, "fields": [FIELD]}]
                                           depth first, siblings by name
    FIELD         {"name": str, "old": VALUE, "new": VALUE}    old is that of A, null where A has none
    LAYER         {"number": int, "diff_id": str} | null   that brought it; 1 is the lowest
    VALUE         int | str | null         mode and device as people write them, digests "sha256:HEX"
"""

from composefs.diff.compare import Change, Comparison, Field, Layer, Value, compare
from composefs.diff.explain import Explanation, explain
from composefs.diff.grouping import Group, groups
from composefs.diff.render import as_json, render

__all__ = [
    "Change",
    "Comparison",
    "Explanation",
    "Field",
    "Group",
    "Layer",
    "Value",
    "as_json",
    "compare",
    "explain",
    "groups",
    "render",
]
