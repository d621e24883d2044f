"""The check of one image: its manifest, its config, and what they refer to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from composefs.digest import Digest
from composefs.erofs import ondisk
from composefs.errors import ComposefsError, FormatError, IntegrityError
from composefs.oci.diff_ids import StoredLayer
from composefs.oci.erofs import version_of
from composefs.oci.findings import OciFinding, OciKind
from composefs.oci.images import check_sha256
from composefs.oci.manifest import Config, Manifest, parse_object
from composefs.oci.names import config_name, layer_name, manifest_name
from composefs.oci.slots import Slot
from composefs.repository import Repository
from composefs.repository.fsck.damage import message_of
from composefs.repository.fsck.quarantine import WrongName
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.streams import DIRECTORY as STREAMS
from composefs.splitstream import ContentType

_MANIFEST_PREFIX, _CONFIG_PREFIX = manifest_name(""), config_name("")
_SEAL = "containers.composefs.fsverity"  # label of a config, of a feature that composefs-rs has given up


class _Document(NamedTuple):
    """A manifest or config, as it is stored."""

    stream: Digest
    data: bytes
    refs: Mapping[str, Digest]


class ImageCheck:
    """The check of one image, which findings call *name*.

    Attributes:
        findings: what is wrong.
        layers: what is to be proved.
        wrong: names that are wrong, which the repository's check does not find.
        stale: paths of names of what is right itself, but refers to what is wrong.
        streams: names of the streams that were looked at.
        subject: digest of the manifest that this one refers to, if it does.
    """

    def __init__(self, repository: Repository, name: str) -> None:
        self._repository, self._name = repository, name
        self.findings: list[OciFinding] = []
        self.layers: list[StoredLayer] = []
        self.wrong: list[WrongName] = []
        self.stale: set[str] = set()
        self.streams: set[str] = set()
        self.subject: object = None
        self._config = ""

    def run(self, stream: str) -> None:
        """Check the manifest that is called *stream*."""
        digest = stream.removeprefix(_MANIFEST_PREFIX)
        self.streams.add(stream)
        found = self._read(stream, ContentType.MANIFEST, OciKind.MANIFEST_READ_FAILED)
        if found is None or not self._is(found, digest, OciKind.MANIFEST_DIGEST_MISMATCH, stream):
            return None
        data, refs = found.data, found.refs
        try:
            manifest = Manifest.parse(data, f"manifest {digest}")
            subject = parse_object(data, f"manifest {digest}").get("subject")
        except FormatError as error:
            return self._add(OciKind.MANIFEST_PARSE_FAILED, str(error))
        self.subject = subject.get("digest") if isinstance(subject, dict) else None
        return self._check_manifest(manifest, refs)

    def run_config(self, stream: str) -> None:
        """Check the config that is called *stream*, and that no manifest has led to."""
        digest = stream.removeprefix(_CONFIG_PREFIX)
        found = self._read(stream, ContentType.CONFIG, OciKind.CONFIG_READ_FAILED)
        if found is not None and self._is(found, digest, OciKind.CONFIG_DIGEST_MISMATCH, stream):
            self._check_erofs(found.refs)

    def _check_manifest(self, manifest: Manifest, refs: Mapping[str, Digest]) -> None:
        digest = manifest.config.digest
        verity = refs.get(f"config:{digest}")
        if verity is None:
            self.stale.update(f"{STREAMS}/{name}" for name in self.streams)
            return self._add(OciKind.CONFIG_REF_MISSING, digest=digest)
        name = config_name(digest)
        self.streams.add(name)
        self._config = name
        if not self._has_name(name):
            self._add(OciKind.CONFIG_STREAM_MISSING, digest=digest)
            self.stale.add(f"{STREAMS}/{name}")
        found = self._read(name, ContentType.CONFIG, OciKind.CONFIG_READ_FAILED, verity)
        if found is None or not self._is(found, digest, OciKind.CONFIG_DIGEST_MISMATCH, name):
            return None
        self._check_erofs(found.refs)
        if not manifest.is_container or _has_blobs(manifest, refs):
            for layer in manifest.layers:
                self._check_blob(layer.digest, refs.get(layer.digest))
            return None
        data, refs = found.data, found.refs
        try:
            diff_ids = Config.parse(data, f"config {digest}").diff_ids
            labels = parse_object(data, f"config {digest}").get("config")
        except FormatError as error:
            return self._add(OciKind.CONFIG_PARSE_FAILED, str(error))
        for diff_id in diff_ids:
            self._check_layer(diff_id, refs.get(diff_id))
        return self._check_seal(labels)

    def _check_layer(self, diff_id: str, verity: Digest | None) -> None:
        if verity is None:
            self.stale.add(f"{STREAMS}/{self._config}")
            return self._add(OciKind.LAYER_REF_MISSING, digest=diff_id)
        try:
            if self._repository.streams.find(layer_name(diff_id)) is None:
                self._add(OciKind.LAYER_STREAM_MISSING, digest=diff_id)
                self.stale.add(f"{STREAMS}/{layer_name(diff_id)}")
        except (ComposefsError, OSError) as error:
            self._add(OciKind.LAYER_CHECK_FAILED, message_of(error), diff_id)
        if not self._repository.objects.exists(verity):
            return self._add(OciKind.LAYER_OBJECT_MISSING, f"no object {verity}", diff_id)
        self.layers.append(StoredLayer(diff_id, verity))
        return None

    def _check_blob(self, digest: str, verity: Digest | None) -> None:
        if verity is None:
            return self._add(OciKind.ARTIFACT_LAYER_REF_MISSING, digest=digest)
        if not self._repository.objects.exists(verity):
            return self._add(OciKind.ARTIFACT_LAYER_OBJECT_MISSING, f"no object {verity}", digest)
        try:
            with self._repository.streams.open_object(verity, layer_name(digest)) as stream:
                is_blob = stream.reader.content_type == ContentType.BLOB
        except (ComposefsError, OSError) as error:
            return self._add(OciKind.LAYER_CHECK_FAILED, message_of(error), digest)
        if is_blob:
            self.layers.append(StoredLayer(digest, verity))
        return None

    def _check_erofs(self, refs: Mapping[str, Digest]) -> None:
        """Check the EROFS images that a config records, if they are there: which are not was found before."""
        for key, digest in refs.items():
            slot = Slot.parse(key)
            if slot is None or not self._repository.objects.exists(digest):
                continue
            try:
                with self._repository.objects.open(digest) as file:
                    version = version_of(file.read(ondisk.HEADER.size))
            except (ComposefsError, OSError):
                continue  # likewise
            if version is None or (version == 2) != (slot.epoch == 2):
                what = "no composefs image" if version is None else f"an image of the format V{version}"
                self._add(OciKind.EROFS_IMAGE_INVALID, f"{key} is {what}", digest.hex)
            elif not self._is_named(digest):
                self._add(OciKind.EROFS_IMAGE_UNNAMED, key, digest.hex)
                self.stale.add(f"{IMAGES}/{digest.hex}")

    def _has_name(self, stream: str) -> bool:
        try:
            return self._repository.streams.find(stream) is not None
        except (ComposefsError, OSError):
            return True  # something has that name, which was found before

    def _is_named(self, digest: Digest) -> bool:
        try:
            return self._repository.images.find(digest)
        except ComposefsError:
            return True  # something has that name, which was found before

    def _check_seal(self, labels: object) -> None:
        """Check that the image is there whose id a label tells."""
        labels = labels.get("Labels") if isinstance(labels, dict) else None
        seal = labels.get(_SEAL) if isinstance(labels, dict) else None
        if not isinstance(seal, str):
            return
        try:
            self._repository.images.open(seal).close()
        except (ComposefsError, OSError) as error:
            self._add(OciKind.SEAL_IMAGE_MISSING, message_of(error), seal)

    def _read(self, name: str, content_type: bytes, kind: OciKind, verity: Digest | None = None) -> _Document | None:
        """Return what a stream holds, and what it refers to; None: it cannot be read, which is a finding of *kind*."""
        streams = self._repository.streams
        try:
            opened = (
                streams.open(name, content_type) if verity is None else streams.open_object(verity, name, content_type)
            )
            with opened as stream:
                return _Document(stream.digest, stream.read_body(), stream.reader.named_refs)
        except (ComposefsError, OSError) as error:
            self._add(kind, message_of(error))
            return None

    def _is(self, found: _Document, digest: str, kind: OciKind, stream: str) -> bool:
        """Tell whether what was *found* is what its *digest* says, as *stream* should be; else a finding of *kind*."""
        try:
            check_sha256(self._name, found.data, digest)
        except IntegrityError as error:
            self.findings.append(OciFinding(kind, self._name, wanted=error.wanted, got=error.got))
            what = f"wanted {error.wanted}, got {error.got}"
            target = os.path.basename(found.stream.object_path)  # the name may lead to another one, which is right
            self.wrong.append(WrongName(f"{STREAMS}/{stream}", kind.value, what, target))
            return False
        return True

    def _add(self, kind: OciKind, detail: str = "", digest: str | None = None) -> None:
        self.findings.append(OciFinding(kind, self._name, detail, digest))


def _has_blobs(manifest: Manifest, refs: Mapping[str, Digest]) -> bool:
    """Tell whether a container's layers are kept as those of an artifact: composefs-rs does so with Docker's types."""
    is_docker = ".docker." in manifest.config.media_type
    return is_docker and all(layer.digest in refs for layer in manifest.layers)
