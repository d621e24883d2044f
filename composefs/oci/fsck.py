"""Check OCI images: the digests of manifests and configs, what they refer to, and the diff_ids of layers.

This is beside what `composefs.repository.fsck` checks, which says whether objects are what they are called.  That a
layer is the one that its image means says only its diff_id, and for that all of its archive has to be joined.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from composefs.errors import ComposefsError, RepositoryError, UsageError
from composefs.oci.diff_ids import Proof, StoredLayer, prove_layers
from composefs.oci.findings import OciFinding, OciKind, OciReport
from composefs.oci.image_check import ImageCheck
from composefs.oci.manifest import Manifest
from composefs.oci.names import config_name, layer_name, manifest_name
from composefs.repository import Repository
from composefs.repository.fsck import Progress, check_repository
from composefs.repository.fsck.damage import Damage
from composefs.repository.fsck.quarantine import WrongName
from composefs.repository.fsck.record import Record, layer_key
from composefs.repository.refs import OCI_REFERRERS, OCI_TAGS, decode_tag, encode_tag
from composefs.repository.streams import DIRECTORY as STREAMS
from composefs.repository.streams import REFS
from composefs.splitstream import ContentType

__all__ = ["OciFinding", "OciKind", "OciReport", "check_images"]

_MANIFEST_PREFIX, _CONFIG_PREFIX, _LAYER_PREFIX = manifest_name(""), config_name(""), layer_name("")
_RESERVED = "@"  # what begins with it is a digest
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def check_images(
    repository: Repository,
    tag: str | None = None,
    *,
    contents: bool = True,
    only: Collection[bytes] | None = None,
    last: Record | None = None,
    records: bool = False,
    proved: Collection[bytes] = (),
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> OciReport:
    """Check *repository*, and the images in it.

    Args:
        repository: open.
        tag: the one image to check; by default all, with tags and without, and every layer that any import could take.
        contents: look into objects, and prove layers by their diff_ids.
        only: look into no objects but these, by raw digest.
        last: of a clean check: what has not changed since then is not looked into.
        records: tell in the report what was seen, for later checks.
        proved: of layers that were proved by such a report, and are whole, to be passed over.
        workers: threads that read and hash.
        on_progress: called now and then, by this thread.

    Raises:
        UsageError: nothing can have such a tag.
        RepositoryError: `objects`, `streams` or `images` is no directory.
        OSError: a directory of the repository cannot be read.
    """
    if tag is not None and not tag.startswith(_RESERVED):
        encode_tag(tag)
    report = OciReport(
        check_repository(
            repository,
            contents=contents,
            only=only,
            last=last,
            records=records,
            workers=workers,
            on_progress=on_progress,
        )
    )
    check = _Check(repository, report, on_progress or (lambda *_: None))
    check.check_tags(tag)
    if tag is None:
        check.check_referrers()
        check.check_untagged()
    if contents:
        known = {*proved, *(last.layers if last is not None else ())}
        check.prove_layers(known, workers, with_others=tag is None)
        if report.repository.record is not None:
            layers = frozenset(report.proved if tag is None else report.proved | known)
            report.repository.record = replace(report.repository.record, layers=layers)
    return report


class _Check:
    """The check of the images in *repository*, which is told in *report*."""

    def __init__(self, repository: Repository, report: OciReport, on_progress: Progress) -> None:
        self._repository, self._report, self._on_progress = repository, report, on_progress
        self._damaged = Damage.of(repository, report.repository.findings).objects
        self._layers: dict[StoredLayer, list[str]] = {}  # with the names of what has them
        self._streams: dict[str, set[str]] = {}  # of manifests and configs, by the names of the images
        self._tags: set[str] = set()
        self._broken: set[str] = set()  # names of images

    def check_tags(self, tag: str | None) -> None:
        """Check the images that have tags, or the one that has *tag*."""
        tags = self._refs(OCI_TAGS) if tag is None else [self._find(tag)]
        for done, (encoded, stream) in enumerate(tags, 1):
            name = decode_tag(encoded)
            self._tags.add(name)
            self._report.images_checked += 1
            problem = _problem_of_tag(encoded, name)
            if problem is not None:
                self._wrong_tag(encoded, OciFinding(OciKind.INVALID_REF_NAME, name, problem), stream)
            elif stream is None:
                self._add(OciFinding(OciKind.REF_RESOLVE_FAILED, name, "there is no such tag"))
            elif not stream.startswith(_MANIFEST_PREFIX):
                what = f"stands for {stream}, which is no manifest"
                self._wrong_tag(encoded, OciFinding(OciKind.REF_RESOLVE_FAILED, name, what), stream)
            else:
                self._check_image(name, stream)
            self._on_progress("tags", done, len(tags))
        self._report.images_corrupted = len(self._broken & self._tags)

    def check_referrers(self) -> None:
        """Check the references to manifests that are about others; where there is no manifest was found before."""
        for path, stream in self._refs(OCI_REFERRERS):
            name = f"{OCI_REFERRERS}/{path}"
            subject, _, artifact = path.partition("/")
            self._report.untagged_checked += 1
            what = None
            if not _DIGEST.fullmatch(decode_tag(subject)) or not _DIGEST.fullmatch(decode_tag(artifact)):
                what = "is not called by two digests"
            elif stream != manifest_name(decode_tag(artifact)):
                what = f"stands for {stream}"
            elif self._exists(stream):
                told = self._check_image(name, stream).subject
                if told is not None and told != decode_tag(subject):
                    what = f"the subject of its manifest is {told}"
            if what is not None:
                self._add(OciFinding(OciKind.REFERRER_INVALID, name, what))
                self._report.wrong.append(WrongName(f"{REFS}/{name}", OciKind.REFERRER_INVALID.value, what, stream))
            self._report.untagged_corrupted += name in self._broken

    def check_untagged(self) -> None:
        """Check the manifests and configs that nothing has led to."""
        names = [name for name, _ in self._repository.streams.names()]
        for prefix in (_MANIFEST_PREFIX, _CONFIG_PREFIX):  # a manifest leads to its config
            seen = {stream for streams in self._streams.values() for stream in streams}
            for name in names:
                if name.startswith(prefix) and name not in seen:
                    self._report.untagged_checked += 1
                    self._check_image(name, name)
                    self._report.untagged_corrupted += name in self._broken

    def prove_layers(self, known: Collection[bytes], workers: int | None, *, with_others: bool) -> None:
        """Prove layers by their digests, but those that are *known* to be right.

        Args:
            known: what records have of layers.
            workers: layers at the same time.
            with_others: also those that no image has.
        """
        if with_others:
            for layer in _other_layers(self._repository):
                self._layers.setdefault(layer, [])
        keys = {layer: layer_key(layer.digest, layer.stream) for layer in self._layers}
        unchanged = {layer for layer, key in keys.items() if key in known and not self._is_hurt(layer)}
        self._report.proved.update(keys[layer] for layer in unchanged)
        self._report.layers_unchanged = len(unchanged)
        layers = [layer for layer in self._layers if layer not in unchanged]
        for done, (layer, proof) in enumerate(prove_layers(self._repository, layers, workers=workers), 1):
            if proof.got == layer.digest:
                self._report.proved.add(keys[layer])
            else:
                self._report.layers_corrupted += 1
                self._judge(layer, proof)
            self._on_progress("layers", done, len(layers))
        self._report.layers_checked = len(self._layers)
        self._report.images_corrupted = len(self._broken & self._tags)

    def _judge(self, layer: StoredLayer, proof: Proof) -> None:
        """Note that a layer is not what its digest says."""
        own_name = layer_name(layer.digest)
        names = self._layers[layer] or [own_name]
        for name in names:
            if proof.got is None:
                finding = OciFinding(OciKind.LAYER_CHECK_FAILED, name, proof.problem, layer.digest)
            else:
                finding = OciFinding(OciKind.LAYER_DIGEST_MISMATCH, name, wanted=layer.digest, got=proof.got)
            self._add(finding)
        if proof.is_unknown or self._is_hurt(layer):
            return
        what = proof.problem or f"wanted {layer.digest}, got {proof.got}"
        if self._find_stream(own_name) == layer.stream:
            target = os.path.basename(layer.stream.object_path)
            self._report.wrong.append(WrongName(f"{STREAMS}/{own_name}", finding.kind.value, what, target))
        streams = {stream for name in names for stream in self._streams.get(name, ())}
        self._report.stale.update(f"{STREAMS}/{stream}" for stream in streams)

    def _check_image(self, name: str, stream: str) -> ImageCheck:
        """Check the manifest or config *stream*; findings call it *name*."""
        check = ImageCheck(self._repository, name)
        if stream.startswith(_CONFIG_PREFIX):
            check.run_config(stream)
        else:
            check.run(stream)
        for layer in check.layers:
            self._layers.setdefault(layer, []).append(name)
        self._streams[name] = check.streams
        for finding in check.findings:
            self._add(finding)
        self._report.wrong += check.wrong
        self._report.stale |= check.stale
        return check

    def _add(self, finding: OciFinding) -> None:
        self._report.findings.append(finding)
        self._broken.add(finding.name)

    def _wrong_tag(self, encoded: str, finding: OciFinding, stream: str | None) -> None:
        self._add(finding)
        if stream is not None:
            path = f"{REFS}/{OCI_TAGS}/{encoded}"
            self._report.wrong.append(WrongName(path, finding.kind.value, finding.detail, stream))

    def _find(self, tag: str) -> tuple[str, str | None]:
        """Return the file name of a tag, and what it stands for; one that cannot be is not looked for."""
        if tag.startswith(_RESERVED):
            return tag, None
        encoded = encode_tag(tag)
        try:
            return encoded, self._repository.streams.ref(f"{OCI_TAGS}/{encoded}")
        except (RepositoryError, OSError):  # something else has that name, which was found before
            return encoded, None

    def _refs(self, directory: str) -> list[tuple[str, str]]:
        """Return name and stream of all references below *directory*; that it is none was found before."""
        try:
            return [*self._repository.streams.refs(directory)]
        except (RepositoryError, OSError):
            return []

    def _is_hurt(self, layer: StoredLayer) -> bool:
        """Tell whether a part of a layer is broken or missing, so that it cannot be what it should be."""
        if not self._damaged:
            return False
        if layer.stream.raw in self._damaged:
            return True
        try:
            with self._repository.streams.open_object(layer.stream, layer_name(layer.digest)) as stream:
                return not self._damaged.isdisjoint(stream.reader.object_refs.raw())
        except (ComposefsError, OSError):
            return True

    def _exists(self, stream: str) -> bool:
        return self._find_stream(stream) is not None

    def _find_stream(self, name: str) -> object:
        try:
            return self._repository.streams.find(name)
        except (ComposefsError, OSError):
            return None


def _problem_of_tag(encoded: str, name: str) -> str | None:
    """Return why no tag can be called *name*, which is stored as *encoded*."""
    if name.startswith(_RESERVED):
        return f"a leading {_RESERVED} is for digests"
    try:
        if encode_tag(name) == encoded:
            return None
    except UsageError as error:
        return error.what
    return f"no tag is stored as {encoded}"


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
