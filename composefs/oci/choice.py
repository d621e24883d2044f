"""The choice of one image among those that an index leads to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from composefs import limits
from composefs.errors import IntegrityError, LimitError, NotFoundError, UsageError
from composefs.oci.manifest import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    REF_NAME,
    Config,
    Descriptor,
    Image,
    Manifest,
    Platform,
    parse_index,
    parse_object,
)
from composefs.oci.platforms import host_platform, rank
from composefs.oci.schema2 import refuse_schema1, to_oci
from composefs.oci_digest import oci_digest
from composefs.text import listed

_IS_ZSTD = "io.github.containers.compression.zstd"  # annotation of one of two images that differ in compression alone

# Return the bytes of a small blob, proved by its descriptor; the other argument says what it is, for messages.
ReadBlob = Callable[[Descriptor, str], bytes]


def choose(
    descriptors: Sequence[Descriptor],
    platform: Platform | None,
    read: ReadBlob,
    source: str,
    *,
    name_as: str | None = None,
) -> Descriptor:
    """Return the manifest for *platform* that *descriptors* lead to; of equal ones that whose layers are zstd.

    Args:
        descriptors: of an index, at least one.
        platform: that of this machine if None.
        read: called for indexes in the index; and, if none that says it suits, for manifests and configs of the others.
        source: what holds the index, for messages.
        name_as: how to name one of several that suit, which is an error then; None: the first is meant.

    Raises:
        NotFoundError: there is none.
        UsageError: there are several.
        FormatError, IntegrityError: what is said of them is broken.
    """
    candidates = list(manifests_of(descriptors, read))
    wanted = platform or host_platform()
    ranked = _ranked(candidates, wanted) if name_as is None else []
    if not ranked:  # what says no platform comes last, so that nobody asks a registry for it in vain
        platforms = _Platforms(read)
        candidates = [each if each.platform else platforms.added_to(each) for each in candidates]
        ranked = _ranked(candidates, wanted)
    if not ranked and len(candidates) == 1 and candidates[0].platform is None:
        return candidates[0]  # an artifact: made for no platform
    if not ranked:
        there = [str(candidate.platform or "no platform") for candidate in candidates]
        raise NotFoundError(f"{source} has no image for {wanted}; {listed('it has', there)}")
    best = min(place for place, _ in ranked)
    found = [candidate for place, candidate in ranked if place == best]
    found = [candidate for candidate in found if candidate.annotations.get(_IS_ZSTD) == "true"] or found
    if name_as is not None and len({candidate.digest for candidate in found}) > 1:
        tags = sorted({str(candidate.tag) for candidate in found})
        what = f"{source} holds {len(found)} images for {wanted}; name one as {name_as}: {listed('', tags)}"
        raise UsageError(what)
    return found[0]


def manifests_of(descriptors: Sequence[Descriptor], read: ReadBlob) -> Iterator[Descriptor]:
    """Yield the manifests that *descriptors* lead to; errors as above."""
    return _leaves(descriptors, read, set(), 0)


def read_image(descriptor: Descriptor, read: ReadBlob) -> Image:
    """Return the image whose manifest is *descriptor*, an OCI one if it is Docker's (see `composefs.oci.schema2`).

    Errors are those of *read*, `to_oci` and `Image.parse`.
    """
    data, source = read(descriptor, "manifest"), f"manifest {descriptor.digest}"
    source_digest = None
    if (ours := to_oci(data, descriptor.digest, source)) is not None:
        data, source_digest = ours, descriptor.digest
        digest = oci_digest(data)
        descriptor = replace(descriptor, media_type=MANIFEST_TYPE, digest=digest, size=len(data))
    config = read(Manifest.parse(data, source).config, "config")
    return replace(Image.parse(descriptor, data, config), source_digest=source_digest)


def describe(data: bytes, digest: str, source: str) -> Descriptor:
    """Return the descriptor of a manifest or index, where nobody but itself says what it is; otherwise it is OCI's.

    Raises:
        FormatError: it is no JSON object, or of schema 1.
    """
    value = parse_object(data, source)
    refuse_schema1(value, source)
    media_type = value.get("mediaType")
    if not isinstance(media_type, str):
        media_type = INDEX_TYPE if "manifests" in value else MANIFEST_TYPE
    return Descriptor(media_type, digest, len(data))


def check_blob(descriptor: Descriptor, data: bytes, what: str) -> bytes:
    """Return *data*, which are *what* the descriptor says.

    Raises:
        IntegrityError: they are not.
    """
    source = f"{what} {descriptor.digest}"
    if len(data) != descriptor.size:
        raise IntegrityError(source, f"{descriptor.size} bytes", f"{len(data)} bytes")
    digest = oci_digest(data)
    if digest != descriptor.digest:
        raise IntegrityError(source, descriptor.digest, digest)
    return data


def check_size(descriptor: Descriptor, what: str) -> None:
    """Refuse a small blob that says that it is large.

    Raises:
        LimitError: it does.
    """
    if descriptor.size > limits.JSON_SIZE:
        source = f"{what} {descriptor.digest}"
        raise LimitError(source, 0, "bytes of JSON", limits.JSON_SIZE, descriptor.size)


def _ranked(candidates: Sequence[Descriptor], wanted: Platform) -> list[tuple[int, Descriptor]]:
    return [(place, each) for each in candidates if (place := rank(each.platform, wanted)) is not None]


def _leaves(descriptors: Sequence[Descriptor], read: ReadBlob, seen: set[str], depth: int) -> Iterator[Descriptor]:
    """Yield the manifests that *descriptors* lead to.

    Indexes that were *seen* are passed over: a few that each hold the next one many times would take for ever.
    """
    for descriptor in descriptors:
        if descriptor.is_index:
            if descriptor.digest in seen:
                continue
            seen.add(descriptor.digest)
            source = f"index {descriptor.digest}"
            if depth == limits.INDEX_DEPTH:
                raise LimitError(source, 0, "indexes inside one another", limits.INDEX_DEPTH)
            for found in _leaves(parse_index(read(descriptor, "index"), source), read, seen, depth + 1):
                inner = {key: text for key, text in found.annotations.items() if key != REF_NAME}
                yield replace(found, annotations={**inner, **descriptor.annotations})
        elif descriptor.is_manifest:
            yield descriptor
        # Anything else is no image: signatures, software lists.


class _Platforms:
    """Finds out for which platforms images are, of which nothing is said."""

    def __init__(self, read: ReadBlob) -> None:
        self._read = read
        self._found: dict[str, Platform | None] = {}  # by digest of manifest or config

    def added_to(self, descriptor: Descriptor) -> Descriptor:
        """Return *descriptor* with the platform that the image's config names; an artifact has none."""
        return replace(descriptor, platform=self._once(descriptor.digest, lambda: self._platform(descriptor)))

    def _platform(self, descriptor: Descriptor) -> Platform | None:
        manifest = Manifest.parse(self._read(descriptor, "manifest"), f"manifest {descriptor.digest}")
        if not manifest.is_container:
            return None
        config, source = manifest.config, f"config {manifest.config.digest}"
        return self._once(config.digest, lambda: Config.parse(self._read(config, "config"), source).platform)

    def _once(self, digest: str, read: Callable[[], Platform | None]) -> Platform | None:
        """Return the platform that *read* finds, which is read once: an index may name a large blob many times."""
        if digest not in self._found:
            self._found[digest] = read()
        return self._found[digest]
