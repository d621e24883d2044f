"""Mend a repository from an OCI image: what is broken or missing is made again of its blobs, as an import makes it.

Only those layers are read that have something of it, by what the streams here say, or whose streams are broken
themselves.  All that comes is proved as by an import: blobs by their digests, archives by their diff_ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from composefs import limits
from composefs.digest import Digest
from composefs.erofs.writer import write_image
from composefs.errors import ComposefsError
from composefs.oci import slots
from composefs.oci.erofs import bootable_tree
from composefs.oci.layer import store_layer
from composefs.oci.manifest import Image
from composefs.oci.merge import Merger
from composefs.oci.names import config_name, layer_name, manifest_name, name_image
from composefs.oci.plain import plain_image
from composefs.oci.plan import Plan, plan_layers
from composefs.oci.progress import Board
from composefs.oci.read import stored_layer
from composefs.oci.slots import ErofsImage, Slot
from composefs.oci.sources.source import Source
from composefs.oci.work import layer_job
from composefs.repository import Repository
from composefs.repository.directories import list_directory
from composefs.repository.fsck import Progress
from composefs.repository.fsck.damage import Damage, message_of, object_of_entry, object_path_of
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.streams import DIRECTORY as STREAMS
from composefs.splitstream import ContentType
from composefs.verity import compute_digest
from composefs.xattrs import XattrFilter

_KINDS_MAX = 8  # images that a config is thought to record at most, to find out which; real ones have one or two
_VERSIONS = (1, 2, 0)  # formats of EROFS images, the likeliest first


class ImageSource:
    """The image that *source* has, of which *repository* is mended.

    Args:
        source: open; it stays so.
        repository: open, and writable.
        on_progress: called with `blobs`, how many were read, and how many are to be.

    Raises:
        NotFoundError, FormatError, IntegrityError: there is no such image, or its manifest or config is broken.
    """

    def __init__(self, source: Source, repository: Repository, *, on_progress: Progress | None = None) -> None:
        self._source, self._repository, self._on_progress = source, repository, on_progress
        self._image = source.image()

    @property
    def name(self) -> str:
        """The reference."""
        return self._source.name

    def mend(self, damage: Damage) -> Mapping[str, str]:
        """Make again what the image has of *damage*; a layer that is broken there, too, is passed over."""
        mending = _Mending(self._repository, self._source, self._image, damage)
        mending.mend_documents()
        mending.mend_layers(self._on_progress)
        mending.mend_images()
        mending.make_names()
        nothing = dict.fromkeys(damage.paths - mending.named, f"{self._source.name} has nothing of it")
        return nothing | mending.failed


class _Known(NamedTuple):
    """What is here of a layer."""

    plan: Plan
    link: bytes | None  # raw digest of what its name stands for; None: it has none, or a wrong one
    streams: set[bytes]  # raw digests of what its name, the config and the manifest say is its stream
    damaged: set[bytes]  # raw digests of what is broken or missing of it
    size: int  # bytes of its archive, as a stream tells that can be read; none: there is none

    @property
    def path(self) -> str:
        """Where its name is, from the repository's directory."""
        return f"{STREAMS}/{layer_name(self.plan.diff_id)}"


class _Mending:
    """Makes again what *image* has of *damage*.

    Attributes:
        failed: why something could not be made again, by path.
        named: paths of names that were made.
    """

    def __init__(self, repository: Repository, source: Source, image: Image, damage: Damage) -> None:
        self._repository, self._source, self._image, self._damage = repository, source, image, damage
        self.failed: dict[str, str] = {}
        self.named: set[str] = set()
        self._config, self._manifest = config_name(image.manifest.config.digest), manifest_name(image.descriptor.digest)
        self._config_refs = self._refs(self._config, ContentType.CONFIG)
        self._manifest_refs = self._refs(self._manifest, ContentType.MANIFEST)
        self._layers = [self._known(plan) for plan in plan_layers(repository, image)]
        self._streams: dict[str, Digest] = {}  # of the layers that are here, by diff_id
        self._new: dict[str, Digest] = {}  # names of layers to make
        self._new_images: list[Digest] = []  # likewise
        self._recorded: list[ErofsImage] = []  # images for a config that is written again

    def mend_documents(self) -> None:
        """Store what manifest and config are, if the image is here, but that is broken or missing."""
        objects, algorithm = self._repository.objects, self._repository.algorithm
        for data in (self._image.manifest_bytes, self._image.config_bytes):
            digest = compute_digest(data, algorithm)
            if self._is_here() and not objects.exists(digest):
                objects.distrust([digest.raw])  # it is not known to be missing if what refers to it is, too
            if self._is_here() or digest.raw in self._damage.objects:
                objects.ensure(data)

    def mend_layers(self, on_progress: Progress | None) -> None:
        """Read the layers of which something is broken or missing."""
        needed = [known for known in self._layers if self._is_needed(known)]
        board = Board(len(needed))
        try:
            for number, known in enumerate(needed):
                try:
                    self._mend_layer(known, board, number)
                except (ComposefsError, OSError) as error:
                    paths = [known.path, *map(object_path_of, known.damaged)]
                    self.failed |= dict.fromkeys(paths, message_of(error))
                if on_progress is not None:
                    on_progress("blobs", number + 1, len(needed))
        finally:
            board.close()
        for known in self._layers:
            raws = known.streams - self._damage.objects
            if known.plan.diff_id not in self._streams and len(raws) == 1:
                self._streams[known.plan.diff_id] = Digest(self._repository.algorithm, *raws)

    def mend_images(self) -> None:
        """Make the EROFS images that are broken or missing, and find out which ones a config that is lost recorded."""
        here = self._images_here()
        broken = (here | self._recorded_images()) & self._damage.objects
        broken |= self._images_of(os.path.basename(path) for path in self._damage.entries if path.startswith(IMAGES))
        unsure = here if self._is_here() and not self._config_refs else set[bytes]()
        if not broken | unsure or self._streams.keys() < set(self._image.diff_ids):
            return
        try:
            for image, data in self._candidates():
                raw = image.digest.raw
                if raw in broken and image.digest not in self._new_images:
                    self._repository.images.store(data)
                    self._new_images.append(image.digest)
                if raw in broken | unsure:
                    self._recorded.append(image)
                if not unsure and not broken - {each.digest.raw for each in self._recorded}:
                    break
        except (ComposefsError, OSError) as error:
            paths = [path for raw in broken for path in (object_path_of(raw), self._path_of(raw))]
            self.failed |= dict.fromkeys(paths, message_of(error))

    def make_names(self) -> None:
        """Make the names that are missing or wrong; and config and manifest anew, if they or what they refer to are."""
        streams = {name: digest for name, digest in self._new.items() if self._may_name(f"{STREAMS}/{name}")}
        images = [digest for digest in self._new_images if self._may_name(self._path_of(digest.raw))]
        self._repository.name(streams, images)
        self.named.update(f"{STREAMS}/{name}" for name in streams)
        self.named.update(self._path_of(digest.raw) for digest in images)
        if not self._is_here() or not self._is_stale() or self._streams.keys() < set(self._image.diff_ids):
            return
        names = {f"{STREAMS}/{self._config}", f"{STREAMS}/{self._manifest}"}
        if all(map(self._may_name, names)):
            self.named |= names
            name_image(
                self._repository,
                self._image,
                self._streams,
                (),
                images=self._choose_recorded(),
                tag=None,
                before_sync=lambda: None,
            )

    def _refs(self, name: str, content_type: bytes) -> Mapping[str, Digest]:
        """Return what the stream *name* refers to, or nothing if it is missing or broken."""
        try:
            with self._repository.streams.open(name, content_type) as stream:
                return stream.reader.named_refs
        except (ComposefsError, OSError):
            return {}

    def _known(self, plan: Plan) -> _Known:
        """Return what is here of a layer."""
        refs = (self._config_refs.get(plan.diff_id), self._manifest_refs.get(plan.diff_id))
        path = f"{STREAMS}/{layer_name(plan.diff_id)}"
        link = object_of_entry(self._repository, path) if path not in self._damage.entries else None
        streams = {each.raw for each in refs if each is not None} | ({link} if link is not None else set())
        damaged, size = streams & self._damage.objects, 0
        for raw in streams - damaged:
            try:
                with self._repository.streams.open_object(Digest(self._repository.algorithm, raw), path) as stream:
                    damaged |= stream.reader.object_refs.raw() & self._damage.objects
                    size = max(size, stream.reader.size)
            except (ComposefsError, OSError):
                continue  # it is no stream
        return _Known(plan, link, streams, damaged, size)

    def _is_needed(self, known: _Known) -> bool:
        """Tell whether a layer has to be read."""
        if known.damaged or known.path in self._damage.entries:
            return True
        return not known.streams and self._is_here()  # the image is to be had, and nothing leads to this layer

    def _mend_layer(self, known: _Known, board: Board, number: int) -> None:
        """Make a layer again, and with it all objects of it that are distrusted."""
        plan = known.plan
        size_max = max(known.size, limits.archive_size(plan.size))  # it may have been let in before
        job = layer_job(self._repository, plan, self._source.blob(self._image, plan.index), board, number)
        stream = store_layer(self._repository, replace(job, archive_size_max=size_max, has_name=True)).stream
        if known.link is None or (known.link in self._damage.objects and known.link != stream.raw):
            self._new[layer_name(plan.diff_id)] = stream
        elif known.link not in self._damage.objects:  # another libzstd may have made it, which is as good
            stream = Digest(self._repository.algorithm, known.link)
        self._streams[plan.diff_id] = stream

    def _candidates(self) -> Iterator[tuple[ErofsImage, bytearray]]:
        """Yield the EROFS images that the layers make, those for booting last."""
        algorithm, merger = self._repository.algorithm, Merger()
        for diff_id in self._image.diff_ids:
            merger.apply(stored_layer(self._repository, diff_id, self._streams[diff_id]))
        xattrs = XattrFilter.ALLOWLIST_ONLY
        for version in _VERSIONS:
            data = plain_image(merger, version)
            yield ErofsImage(compute_digest(data, algorithm), version, bootable=False, xattrs=xattrs), data
        for xattrs in XattrFilter:
            try:
                tree = bootable_tree(self._repository, merger, xattrs)
            except ComposefsError:  # it is not for booting
                return
            for version in _VERSIONS:
                data = write_image(tree, version)
                yield ErofsImage(compute_digest(data, algorithm), version, bootable=True, xattrs=xattrs), data

    def _choose_recorded(self) -> list[ErofsImage]:
        """Return the images that the config is to record: those that it has recorded, if they can be found out.

        Several kinds may come to one image; which of them were recorded tells the digest of the config's stream.
        """
        wanted = {object_of_entry(self._repository, f"{STREAMS}/{self._config}")}
        if (ref := self._manifest_refs.get(f"config:{self._image.manifest.config.digest}")) is not None:
            wanted.add(ref.raw)
        for count in range(min(len(self._recorded), _KINDS_MAX) + 1):
            for images in combinations(self._recorded, count):
                if self._config_stream(images).raw in wanted:
                    return list(images)
        first = {image.digest: image for image in reversed(self._recorded)}
        return [image for image in self._recorded if first[image.digest] is image]

    def _config_stream(self, images: Sequence[ErofsImage]) -> Digest:
        """Return the digest that the config's stream has if it records *images*."""
        data, algorithm = self._image.config_bytes, self._repository.algorithm
        recorded = slots.recorded(images)
        refs = {diff_id: self._streams[diff_id] for diff_id in self._image.diff_ids}
        refs |= {key: recorded[key] for key in sorted(recorded, key=slots.key_order)}
        with closing(self._repository.streams.writer(ContentType.CONFIG)) as writer:
            for name, digest in refs.items():
                writer.name(name, digest.raw)
            writer.external(compute_digest(data, algorithm).raw, len(data))
            return compute_digest(b"".join(writer.finish()), algorithm)

    def _images_here(self) -> set[bytes]:
        """Return the raw digests that names in `images/` say."""
        fd = self._repository.open_directory()
        try:
            return self._images_of(list_directory(fd, IMAGES, self._repository.path))
        finally:
            os.close(fd)

    def _images_of(self, names: Iterable[str]) -> set[bytes]:
        found = set()
        for name in names:
            with suppress(ValueError):  # what no image can be called
                found.add(Digest.from_hex(self._repository.algorithm, name).raw)
        return found

    def _recorded_images(self) -> set[bytes]:
        return {digest.raw for key, digest in self._config_refs.items() if Slot.parse(key) is not None}

    def _path_of(self, raw: bytes) -> str:
        """Return where the name of the image *raw* is."""
        return f"{IMAGES}/{raw.hex()}"

    def _is_here(self) -> bool:
        """Tell whether the repository has the image, or names for it."""
        return any(
            path in self._damage.entries or os.path.lexists(f"{self._repository.path}/{path}")
            for path in (f"{STREAMS}/{self._config}", f"{STREAMS}/{self._manifest}")
        )

    def _is_stale(self) -> bool:
        """Tell whether config or manifest are broken or missing, or refer to a layer that is another stream now."""
        refs = (self._config_refs, self._manifest_refs)
        return any(not each for each in refs) or any(
            each.get(diff_id) != stream for each in refs for diff_id, stream in self._streams.items()
        )

    def _may_name(self, path: str) -> bool:
        """Tell whether *path* may become a link; if not, that is noted."""
        where = f"{self._repository.path}/{path}"
        if os.path.lexists(where) and not os.path.islink(where):
            self.failed[path] = "something else than a link stands there"
            return False
        return True
