"""Check OCI images: the digests of manifests and configs, what they refer to, and the diff_ids of layers.

This is beside what `composefs.repository.fsck` checks, which says whether objects are what they are called.  That a
layer is the one that its image means says only its diff_id, and for that all of its archive has to be joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum

from composefs.digest import Digest
from composefs.errors import ComposefsError, FormatError, IntegrityError
from composefs.oci.diff_ids import Proof, StoredLayer, message_of, prove_layers
from composefs.oci.images import check_sha256
from composefs.oci.manifest import Config, Manifest, parse_object
from composefs.oci.names import config_name, layer_name, manifest_name
from composefs.repository import Repository
from composefs.repository.fsck import Progress, Report, check_repository
from composefs.repository.refs import OCI_TAGS, decode_tag, encode_tag
from composefs.splitstream import ContentType

_MANIFEST_PREFIX, _LAYER_PREFIX = manifest_name(""), layer_name("")
_RESERVED = "@"  # what begins with it is a digest
_SEAL = "containers.composefs.fsverity"  # label of a config, of a feature that composefs-rs has given up


class OciKind(Enum):
    """What is wrong; the value is stable, and that of composefs-rs where that knows it."""

    INVALID_REF_NAME = "invalid-ref-name"
    REF_RESOLVE_FAILED = "ref-resolve-failed"
    MANIFEST_READ_FAILED = "manifest-read-failed"
    MANIFEST_DIGEST_MISMATCH = "manifest-digest-mismatch"
    MANIFEST_PARSE_FAILED = "manifest-parse-failed"
    CONFIG_REF_MISSING = "config-ref-missing"
    CONFIG_READ_FAILED = "config-read-failed"
    CONFIG_DIGEST_MISMATCH = "config-digest-mismatch"
    CONFIG_PARSE_FAILED = "config-parse-failed"
    LAYER_REF_MISSING = "layer-ref-missing"
    LAYER_STREAM_MISSING = "layer-stream-missing"
    LAYER_CHECK_FAILED = "layer-check-failed"
    LAYER_OBJECT_MISSING = "layer-object-missing"
    SEAL_IMAGE_MISSING = "seal-image-missing"
    ARTIFACT_LAYER_REF_MISSING = "artifact-layer-ref-missing"
    ARTIFACT_LAYER_OBJECT_MISSING = "artifact-layer-object-missing"
    # What composefs-rs 0.9.4 does not find:
    LAYER_DIGEST_MISMATCH = "layer-digest-mismatch"  # its archive, or an artifact's blob, is not what it is called


@dataclass(frozen=True, slots=True)
class OciFinding:
    """One thing that is wrong with an image.

    Attributes:
        kind: what.
        name: the tag; of what has none, its stream.
        detail: a message; empty where the other fields say it all.
        digest: of the config, layer or image that it is about.
        wanted: what should be there, where that is one value, and `got` what is.
        got: see `wanted`.
    """

    kind: OciKind
    name: str
    detail: str = ""
    digest: str | None = None
    wanted: str | None = None
    got: str | None = None

    def __str__(self) -> str:
        """The line that `cfsctl oci fsck` would print."""
        values = f"expected {self.wanted}, got {self.got}" if self.wanted is not None else None
        parts = (f"fsck: {self.kind.value}", self.name, self.digest, values, self.detail)
        return ": ".join(part for part in parts if part)

    def as_json(self) -> dict[str, object]:
        """Return the fields as they are printed."""
        return {"kind": self.kind.value} | {each.name: getattr(self, each.name) for each in fields(self)[1:]}


@dataclass(slots=True)
class OciReport:
    """What a check came to.

    Attributes:
        repository: of what lies below the images.
        images_checked: tags.
        images_corrupted: of them.
        layers_checked: layers and blobs that were proved by their digests; none of a check without contents.
        layers_corrupted: of them.
        findings: by tag.
    """

    repository: Report
    images_checked: int = 0
    images_corrupted: int = 0
    layers_checked: int = 0
    layers_corrupted: int = 0
    findings: list[OciFinding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, with the repository either."""
        return self.repository.ok and not self.findings

    def as_json(self) -> dict[str, object]:
        """Return it under the names of `cfsctl oci fsck --json`, and what that does not know."""
        return {
            "ok": self.ok,
            "images_checked": self.images_checked,
            "images_corrupted": self.images_corrupted,
            "layers_checked": self.layers_checked,
            "layers_corrupted": self.layers_corrupted,
            "errors": [str(finding) for finding in self.findings],
            "findings": [finding.as_json() for finding in self.findings],
            "repo": self.repository.as_json(),
        }


def check_images(
    repository: Repository,
    tag: str | None = None,
    *,
    contents: bool = True,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> OciReport:
    """Check *repository*, and the images in it.

    Args:
        repository: open.
        tag: the one image to check; by default all that have tags, and every layer that any import could take.
        contents: look into objects, and prove layers by their diff_ids.
        workers: threads that read and hash.
        on_progress: called now and then, by this thread.

    Raises:
        UsageError: nothing can have such a tag.
        OSError: a directory of the repository cannot be read.
    """
    if tag is not None and not tag.startswith(_RESERVED):
        encode_tag(tag)
    report = OciReport(check_repository(repository, contents=contents, workers=workers, on_progress=on_progress))
    layers: dict[StoredLayer, list[str]] = {}  # with the names of what has them
    broken: set[str] = set()
    for name, stream in _tags(repository, tag):
        check = _ImageCheck(repository, name)
        check.run(stream)
        for layer in check.layers:
            layers.setdefault(layer, []).append(name)
        report.images_checked += 1
        report.findings += check.findings
        broken.update([name] if check.findings else [])
    if contents:
        if tag is None:
            for layer in _other_layers(repository):
                layers.setdefault(layer, [])
        proofs = prove_layers(repository, layers, workers=workers)
        for done, (layer, proof) in enumerate(proofs, 1):
            report.layers_checked += 1
            if proof.got != layer.digest:
                report.layers_corrupted += 1
                broken.update(layers[layer])
                report.findings += [_judge(layer, proof, name) for name in layers[layer] or [layer_name(layer.digest)]]
            if on_progress is not None:
                on_progress("layers", done, len(layers))
    report.images_corrupted = len(broken)
    return report


def _judge(layer: StoredLayer, proof: Proof, name: str) -> OciFinding:
    """Return the finding that a layer of *name* is not what its digest says."""
    if proof.got is None:
        return OciFinding(OciKind.LAYER_CHECK_FAILED, name, proof.problem, layer.digest)
    return OciFinding(OciKind.LAYER_DIGEST_MISMATCH, name, wanted=layer.digest, got=proof.got)


def _tags(repository: Repository, tag: str | None) -> Iterator[tuple[str, str | None]]:
    """Yield the tags, and the streams that they stand for."""
    if tag is None:
        for encoded, stream in repository.streams.refs(OCI_TAGS):
            yield decode_tag(encoded), stream
    elif tag.startswith(_RESERVED):
        yield tag, None
    else:
        yield tag, repository.streams.ref(f"{OCI_TAGS}/{encode_tag(tag)}")


def _other_layers(repository: Repository) -> Iterator[StoredLayer]:
    """Yield all layers that have names, since imports take them for what these say, but for archives of artifacts.

    Those composefs-rs calls by the digests of their blobs, which nobody has any more.
    """
    names = list(repository.streams.names())
    blobs: set[str] = set()
    for name, digest in names:
        if name.startswith(_MANIFEST_PREFIX):
            try:
                with repository.streams.open_object(digest, name, ContentType.MANIFEST) as stream:
                    manifest = Manifest.parse(stream.read_body(), name)
            except (ComposefsError, OSError):
                continue
            if not manifest.is_container:
                blobs.update(layer.digest for layer in manifest.layers)
    for name, digest in names:
        if not name.startswith(_LAYER_PREFIX):
            continue
        layer = StoredLayer(name.removeprefix(_LAYER_PREFIX), digest)
        try:
            with repository.streams.open_object(digest, name) as stream:
                is_archive = stream.reader.content_type == ContentType.LAYER
        except (ComposefsError, OSError):
            continue  # which was found before
        if not is_archive or layer.digest not in blobs:
            yield layer


class _ImageCheck:
    """The check of one image; what is wrong goes to *findings*, what is to be proved to *layers*."""

    def __init__(self, repository: Repository, name: str) -> None:
        self._repository, self._name = repository, name
        self.findings: list[OciFinding] = []
        self.layers: list[StoredLayer] = []

    def run(self, stream: str | None) -> None:
        """Check what the tag stands for, which is *stream*."""
        if self._name.startswith(_RESERVED):
            return self._add(OciKind.INVALID_REF_NAME, f"a leading {_RESERVED} is for digests")
        if stream is None:
            return self._add(OciKind.REF_RESOLVE_FAILED, "there is no such tag")
        if not stream.startswith(_MANIFEST_PREFIX):
            return self._add(OciKind.REF_RESOLVE_FAILED, f"stands for {stream}, which is no manifest")
        digest = stream.removeprefix(_MANIFEST_PREFIX)
        found = self._read(stream, ContentType.MANIFEST, OciKind.MANIFEST_READ_FAILED)
        if found is None or not self._is(found[0], digest, OciKind.MANIFEST_DIGEST_MISMATCH):
            return None
        data, refs = found
        try:
            manifest = Manifest.parse(data, f"manifest {digest}")
        except FormatError as error:
            return self._add(OciKind.MANIFEST_PARSE_FAILED, str(error))
        return self._check_manifest(manifest, refs)

    def _check_manifest(self, manifest: Manifest, refs: Mapping[str, Digest]) -> None:
        digest = manifest.config.digest
        verity = refs.get(f"config:{digest}")
        if verity is None:
            return self._add(OciKind.CONFIG_REF_MISSING, digest=digest)
        found = self._read(config_name(digest), ContentType.CONFIG, OciKind.CONFIG_READ_FAILED, verity)
        if found is None or not self._is(found[0], digest, OciKind.CONFIG_DIGEST_MISMATCH):
            return None
        if not manifest.is_container or _has_blobs(manifest, refs):
            for layer in manifest.layers:
                self._check_blob(layer.digest, refs.get(layer.digest))
            return None
        data, refs = found
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
            return self._add(OciKind.LAYER_REF_MISSING, digest=diff_id)
        try:
            if self._repository.streams.find(layer_name(diff_id)) is None:
                self._add(OciKind.LAYER_STREAM_MISSING, digest=diff_id)
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

    def _read(
        self, name: str, content_type: bytes, kind: OciKind, verity: Digest | None = None
    ) -> tuple[bytes, Mapping[str, Digest]] | None:
        """Return what a stream holds, and what it refers to; None: it cannot be read, which is a finding of *kind*."""
        streams = self._repository.streams
        try:
            opened = (
                streams.open(name, content_type) if verity is None else streams.open_object(verity, name, content_type)
            )
            with opened as stream:
                return stream.read_body(), stream.reader.named_refs
        except (ComposefsError, OSError) as error:
            self._add(kind, message_of(error))
            return None

    def _is(self, data: bytes, digest: str, kind: OciKind) -> bool:
        """Tell whether *data* are what their digest says; if not, that is a finding of *kind*."""
        try:
            check_sha256(self._name, data, digest)
        except IntegrityError as error:
            self.findings.append(OciFinding(kind, self._name, wanted=error.wanted, got=error.got))
            return False
        return True

    def _add(self, kind: OciKind, detail: str = "", digest: str | None = None) -> None:
        self.findings.append(OciFinding(kind, self._name, detail, digest))


def _has_blobs(manifest: Manifest, refs: Mapping[str, Digest]) -> bool:
    """Tell whether a container's layers are kept as those of an artifact: composefs-rs does so with Docker's types."""
    is_docker = ".docker." in manifest.config.media_type
    return is_docker and all(layer.digest in refs for layer in manifest.layers)
