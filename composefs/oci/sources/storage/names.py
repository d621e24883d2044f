"""Which of the images in container storage a name or an id means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from composefs.errors import NotFoundError, UsageError
from composefs.oci.sources.storage.store import Store, StoredImage
from composefs.text import listed

_ID_PART = re.compile(r"[0-9a-f]{3,64}")
_Match = Callable[[StoredImage], bool]
_Found = tuple[Store, StoredImage]


def find_image(stores: Sequence[Store], name: str, image_id: str | None = None) -> _Found:
    """Return the image that is meant, and its store: the first of *stores* that has it.

    These are tried in order: the id; a name that is equal; a name that ends so behind a slash; both with `:latest`; the
    beginning of an id.  With a digest behind `@`, the image must have that manifest, and its tag does not matter.

    Args:
        stores: the likely ones first.
        name: a name, or the beginning of an id; may be empty if there is an id.
        image_id: 64 hexadecimal digits, which the name must be that of, if there is one.

    Raises:
        NotFoundError: there is none.
        UsageError: several are meant.
        FormatError: the store is broken.
        OSError: it cannot be read.
    """
    text = f"{name}@{image_id}" if name and image_id is not None else image_id or name
    for match in _matches(name, image_id):
        for store in stores:
            found = [image for image in store.images if match(image)]
            if len(found) > 1:
                names = sorted({each for image in found for each in image.names or [image.id]})
                raise UsageError(f"{text!r} may mean several images: {listed('', names)}")
            if found:
                return store, found[0]
    names = sorted({each for store in stores for image in store.images for each in image.names})
    roots = ", ".join(dict.fromkeys(store.root for store in stores))
    raise NotFoundError(f"no image {text} in {roots}; {listed('there are', names)}")


def _matches(name: str, image_id: str | None) -> Iterator[_Match]:
    """Yield what an image may be meant by, the best first."""
    if image_id is not None:
        for match in _named(name) if name else [_any]:
            yield partial(_both, match, lambda image: image.id == image_id)
        return
    yield from _named(name)
    if _ID_PART.fullmatch(name):
        yield lambda image: image.id.startswith(name)


def _named(name: str) -> Iterator[_Match]:
    """Yield what an image may be called so by, the best first."""
    name, at, digest = name.partition("@")
    if at:
        repository = _without_tag(name)
        for form in (_is_called, _ends_so):
            match = partial(form, repository, _without_tag)
            yield partial(_both, match, lambda image: digest in image.digests)
        return
    for text in (name,) if _without_tag(name) != name else (name, f"{name}:latest"):
        for form in (_is_called, _ends_so):
            yield partial(form, text, str)


def _is_called(text: str, part: Callable[[str], str], image: StoredImage) -> bool:
    """Tell whether that *part* of one of its names is *text*."""
    return any(part(each) == text for each in image.names)


def _ends_so(text: str, part: Callable[[str], str], image: StoredImage) -> bool:
    """Tell whether that *part* of one of its names ends so behind a slash."""
    return any(part(each).endswith(f"/{text}") for each in image.names)


def _both(first: _Match, second: _Match, image: StoredImage) -> bool:
    return first(image) and second(image)


def _any(_: StoredImage) -> bool:
    return True


def _without_tag(name: str) -> str:
    """Return what stands before the tag or digest of a name."""
    name = name.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
