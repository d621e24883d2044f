"""What refers to an image, such as signatures; as values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from composefs import limits
from composefs.errors import FormatError
from composefs.json_text import parse_json
from composefs.registry.documents import is_digest

_NEXT = re.compile(r'<([^<>]*)>[^,<]*;[ \t]*rel="?next"?')


@dataclass(frozen=True)
class Referrer:
    """The descriptor of a manifest that refers to another one."""

    digest: str
    media_type: str
    size: int  # bytes
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


def fallback_tag(digest: str) -> str:
    """Return the tag of the index that has the referrers of *digest*, where a registry does not know of them."""
    algorithm, _, digits = digest.partition(":")
    return f"{algorithm[:32]}-{digits[:64]}"


def parse_referrers(data: bytes, source: str) -> list[Referrer]:
    """Return the descriptors of an index of referrers.

    Raises:
        FormatError: it is none.
    """
    found = _member(data, source, "manifests")
    return [_referrer(value, f"{source}, manifest {number}") for number, value in enumerate(found, 1)]


def parse_tags(data: bytes, source: str) -> list[str]:
    """Return the tags of one page of a list of them.

    Raises:
        FormatError: it is none.
    """
    tags = _member(data, source, "tags")
    if not all(isinstance(tag, str) for tag in tags):
        raise FormatError(source, 0, "a tag is no text")
    return [str(tag) for tag in tags]


def next_page(links: Iterable[str]) -> str | None:
    """Return where the next page of a list is, as the headers Link say; None: this is the last one."""
    for link in links:
        if match := _NEXT.search(link):
            return match[1]
    return None


def _member(data: bytes, source: str, name: str) -> list[object]:
    value = parse_json(data, source, max_size=limits.REGISTRY_JSON_SIZE)
    found = value.get(name) if isinstance(value, dict) else False
    if found is None and isinstance(value, dict) and name in value:
        return []  # null is what Go makes of no tags
    if not isinstance(found, list):
        raise FormatError(source, 0, f"{name} is no list")
    return found


def _referrer(value: object, source: str) -> Referrer:
    if not isinstance(value, dict):
        raise FormatError(source, 0, "no descriptor")
    digest, media_type, size = (value.get(key) for key in ("digest", "mediaType", "size"))
    artifact_type, annotations = value.get("artifactType"), value.get("annotations")
    if not isinstance(digest, str) or not is_digest(digest):
        raise FormatError(source, 0, f"digest {digest!r} is none")
    if not isinstance(media_type, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise FormatError(source, 0, "no media type, or no size")
    texts = annotations.items() if isinstance(annotations, dict) else ()
    return Referrer(
        digest,
        media_type,
        size,
        artifact_type if isinstance(artifact_type, str) else None,
        {key: text for key, text in texts if isinstance(text, str)},
    )
