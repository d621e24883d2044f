"""Tags, and what people call an image: a tag, or the digest of its manifest or of its config."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from composefs.errors import ComposefsError, FormatError, NotFoundError, UsageError
from composefs.oci.names import config_name, manifest_name
from composefs.repository import Repository
from composefs.repository.refs import OCI_TAGS, encode_tag
from composefs.splitstream import ContentType

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DIGEST_MARK = "@"  # what follows is a digest; without it, a digest is taken for one if no tag is called so
_MANIFEST_PREFIX = manifest_name("")
_CONFIG_REF = "config:"  # what begins the name of a manifest's reference to its config

_log = logging.getLogger(__name__)


class NamedBy(Enum):
    """What an image was found by; the value is for messages."""

    TAG = "tag"
    MANIFEST = "manifest"
    CONFIG = "config"


@dataclass(frozen=True)
class Found:
    """An image in a repository."""

    manifest: str | None  # digest; None: there is a config only, perhaps of an import that was cut short
    config: str  # digest
    by: NamedBy


def parse_digest(text: str) -> str:
    """Return the OCI digest that *text* is, with or without an @ before it.

    Raises:
        UsageError: it is none.
    """
    digest = text.removeprefix(_DIGEST_MARK)
    if not _DIGEST.fullmatch(digest):
        raise UsageError(f"{text!r} is no digest; wanted sha256: and 64 digits of 0-9a-f")
    return digest


def tag_image(repository: Repository, image: str, name: str) -> str:
    """Give *image* the tag *name*, whatever had it before, and return the digest of its manifest.

    Args:
        repository: open, and writable.
        image: as `find` takes it.
        name: the tag.

    Raises:
        UsageError: no image can be called so.
        NotFoundError: there is no such image.
        FormatError, IntegrityError: its manifest is broken.
        RepositoryError: the repository cannot be written.
    """
    encoded = encode_tag(name)
    repository.check_writable()
    manifest = require_manifest(repository, find(repository, image))
    repository.streams.set_ref(f"{OCI_TAGS}/{encoded}", manifest_name(manifest))
    return manifest


def untag_image(repository: Repository, name: str) -> None:
    """Remove the tag *name*; the image stays until garbage is collected.

    Raises:
        NotFoundError: there is no such tag.
        RepositoryError: the repository cannot be written.
    """
    encoded = _encode(name)
    repository.check_writable()
    try:
        repository.streams.unset_ref(f"{OCI_TAGS}/{encoded}")
    except NotFoundError:
        raise _no_tag(repository, name) from None


def find(repository: Repository, image: str) -> Found:
    """Find an image.

    Args:
        repository: where it is.
        image: a tag, or the digest of a manifest or config; an @ before it says that it is surely no tag.

    Raises:
        UsageError: *image* can be neither.
        NotFoundError: there is no such image.
        FormatError, IntegrityError: its manifest is broken.
    """
    if not image.startswith(_DIGEST_MARK):
        stream = repository.streams.ref(f"{OCI_TAGS}/{_encode(image)}")
        if stream is not None:
            return Found(_manifest_of(stream, image), _config_of(repository, stream), NamedBy.TAG)
        if not _DIGEST.fullmatch(image):
            raise _no_tag(repository, image)
    digest = parse_digest(image)
    if repository.streams.find(manifest_name(digest)) is not None:
        return Found(digest, _config_of(repository, manifest_name(digest)), NamedBy.MANIFEST)
    if repository.streams.find(config_name(digest)) is not None:
        return Found(_sole_manifest(repository, digest), digest, NamedBy.CONFIG)
    raise NotFoundError(f"{repository.path}: no manifest and no config {digest}")


def require_manifest(repository: Repository, found: Found) -> str:
    """Return the digest of the manifest of an image.

    Raises:
        NotFoundError: there is none.
    """
    if found.manifest is None:
        raise NotFoundError(f"{repository.path}: no manifest of config {found.config}")
    return found.manifest


def _sole_manifest(repository: Repository, config: str) -> str | None:
    manifests = list(_manifests_of(repository, config))
    if len(manifests) > 1:
        raise UsageError(f"config {config} has {len(manifests)} manifests, name one of them: {', '.join(manifests)}")
    return manifests[0] if manifests else None


def _manifests_of(repository: Repository, config: str) -> Iterator[str]:
    for name, digest in repository.streams.names():
        if not name.startswith(_MANIFEST_PREFIX):
            continue
        try:
            with repository.streams.open_object(digest, name, ContentType.MANIFEST) as stream:
                found = _CONFIG_REF + config in stream.reader.named_refs
        except ComposefsError as error:
            _log.warning("%s: %s", name, error)  # most likely it is that of another config
            continue
        if found:
            yield name.removeprefix(_MANIFEST_PREFIX)


def _manifest_of(stream: str, tag: str) -> str:
    if not stream.startswith(_MANIFEST_PREFIX):
        raise FormatError(f"tag {tag}", 0, f"stands for {stream}, which is no manifest")
    return stream.removeprefix(_MANIFEST_PREFIX)


def _config_of(repository: Repository, manifest_stream: str) -> str:
    with repository.streams.open(manifest_stream, ContentType.MANIFEST) as stream:
        for name in stream.reader.named_refs:
            if name.startswith(_CONFIG_REF):
                return name.removeprefix(_CONFIG_REF)
    raise FormatError(manifest_stream, 0, "refers to no config")


def _encode(name: str) -> str:
    """Return the file name of a tag that exists already: composefs-rs has made some that begin with an @."""
    rest = name.lstrip(_DIGEST_MARK)
    return name[: len(name) - len(rest)] + encode_tag(rest)


def _no_tag(repository: Repository, name: str) -> NotFoundError:
    return NotFoundError(f"{repository.path}: no tag {name}")
