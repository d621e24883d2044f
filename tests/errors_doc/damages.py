"""What can happen to a repository, and what `composefs fsck` finds then."""

import re

from tests.damage import DAMAGES
from tests.errors_doc.cases import case
from tests.errors_doc.scene import Scene

# The damages of `tests.damage`, for people.
HAPPENED = {
    "meta": "meta.json is cut",
    "meta-newer": "meta.json is of a later version",
    "meta-other": "meta.json names another algorithm",
    "flipped": "a bit of an object has changed",
    "grown": "an object has grown",
    "cut": "an object is cut",
    "emptied": "an object is empty, as after a crash",
    "swapped": "an object holds what another should",
    "removed": "an object is gone",
    "directory-as-object": "a directory in its place",
    "link-as-object": "a link in its place",
    "loop-as-object": "a link to itself in its place",
    "stray-object": "another file beside objects",
    "capital-object": "an object in capital digits",
    "stream-object-gone": "the object of a stream is gone",
    "stream-flipped": "a bit of a stream has changed",
    "stream-header": "a bit of its header has changed",
    "stream-cut": "a stream is cut",
    "socket-as-stream": "a socket in its place",
    "file-as-stream": "a file in place of its name",
    "directory-as-stream": "a directory in place of its name",
    "loop-as-stream": "a name that leads to itself",
    "no-stream": "a name that leads to another object",
    "other-stream": "a name that leads to another stream",
    "stream-outside": "a name that leads to no object",
    "refs-in-disorder": "references in disorder",
    "object-twice": "an object twice in the table of a layer",
    "tag-dangles": "the manifest of a tag is gone",
    "file-as-ref": "a file among references",
    "socket-as-ref": "a socket among references",
    "ref-to-object": "a reference that leads to an object",
    "ref-outside": "a reference that leads to no entry",
    "nested-ref-dangles": "a reference whose image is gone",
    "image-object-gone": "the object of an image is gone",
    "file-as-image": "a file in place of the name of an image",
    "directory-as-image": "a directory in place of its object",
    "no-image": "an image that is none",
    "image-flipped": "a bit of an image has changed",
    "image-called-otherwise": "an image under another id",
}


@case
def damages(scene: Scene) -> str:
    """Each damage, and the kinds of what is found."""
    assert HAPPENED.keys() == DAMAGES.keys() - {"none"}
    width = max(map(len, HAPPENED.values()))
    return "\n".join(f"{text:{width}}  {_found(scene.beside(name), name)}" for name, text in HAPPENED.items())


def _found(scene: Scene, name: str) -> str:
    scene.damaged(name)
    out, err = scene.outcome("fsck")
    kinds = dict.fromkeys(re.findall(r"fsck: ([a-z-]+)", out))
    return ", ".join(kinds) or f"refused: {err.rpartition(': ')[2]}"
