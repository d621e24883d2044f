"""The EROFS images of an OCI image: which are wanted, which its config records already, and making the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from composefs.digest import Digest
from composefs.erofs import VERSIONS, ondisk
from composefs.errors import ComposefsError, NotFoundError, UsageError
from composefs.oci.manifest import Image
from composefs.oci.names import config_name
from composefs.oci.progress import BuildingImage, Listener
from composefs.oci.slots import ErofsImage, Slot
from composefs.repository import Repository
from composefs.splitstream import ContentType
from composefs.verity import compute_digest
from composefs.xattrs import XattrFilter

if TYPE_CHECKING:
    from composefs.oci.merge import Merger
    from composefs.tree import Directory, Leaf

_Write: TypeAlias = Callable[[int], bytearray]  # makes an image of a version
_SEARCHED = (1, 2, 0)  # formats of an expected image, the likeliest first; the reference does not look for V0


@dataclass(frozen=True)
class ErofsRequest:
    """The EROFS images that an OCI image is to have."""

    versions: tuple[int, ...]  # formats, the default one first; a plain image of each
    bootable: bool = False  # also one for booting of each
    expected: Digest | None = None  # instead of those: the one for booting that has this digest

    @classmethod
    def of(
        cls,
        repository: Repository,
        version: int | None = None,
        *,
        bootable: bool = False,
        expected: Digest | None = None,
    ) -> ErofsRequest:
        """Return the request for the format *version*, or for those of *repository*.

        Raises:
            UsageError: there is no such format, or no image there can have the digest *expected*.
        """
        if expected is not None and expected.algorithm is not repository.algorithm:
            has, wanted = repository.algorithm.value, expected.algorithm.value
            raise UsageError(f"the expected digest is of {wanted}, images here of {has}")
        if version is not None and version not in VERSIONS:
            raise UsageError(f"EROFS format {version} is none of {VERSIONS}")
        return cls(repository.meta.erofs_versions if version is None else (version,), bootable, expected)


class _Kind(NamedTuple):
    """One image to have."""

    version: int
    bootable: bool = False
    xattrs: XattrFilter = XattrFilter.ALLOWLIST_ONLY


class ErofsMaker:
    """Makes the EROFS images of *request* that *image* lacks: all that its config records, and that is whole, stays.

    Raises:
        OSError: something could not be read.
    """

    def __init__(self, repository: Repository, image: Image, request: ErofsRequest) -> None:
        self._repository, self._expected = repository, request.expected
        self._refs = _recorded_refs(repository, image)
        boots = request.versions if request.bootable and request.expected is None else ()
        kinds = [*map(_Kind, request.versions), *(_Kind(version, bootable=True) for version in boots)]
        self._images = {kind: self._recorded(kind) for kind in kinds}
        self._found = self._recorded_expected()

    @property
    def is_done(self) -> bool:
        """Whether all are there: no layer has to be looked at."""
        return None not in self._images.values() and (self._expected is None or self._found is not None)

    @property
    def images(self) -> tuple[ErofsImage, ...]:
        """Those that are there, as the request has them: plain ones first, of each kind the default format first."""
        return tuple(image for image in (*self._images.values(), self._found) if image is not None)

    def make(self, merger: Merger, listener: Listener) -> None:
        """Make and store what lacks, of the layers that *merger* has merged; nothing gets a name.

        Raises:
            TreeError, FormatError: the tree cannot be that of an image, or not that of a bootable one.
            NotFoundError: likewise; or no image for booting has the expected digest.
            OSError: something could not be read or written.
        """
        # They take 10 ms to import, and most often all images are there already.
        from composefs.collector import paused_collector  # noqa: PLC0415  # only where one is made
        from composefs.erofs.writer import write_image  # noqa: PLC0415  # only where one is made
        from composefs.oci.plain import plain_image  # noqa: PLC0415  # only where one is made

        with paused_collector():
            self._make(lambda version: plain_image(merger, version), listener, bootable=False)
            if self._expected is not None and self._found is None:
                self._found = self._search(self._expected, merger, listener)
            elif not self.is_done:
                tree = bootable_tree(self._repository, merger, XattrFilter.ALLOWLIST_ONLY)
                self._make(lambda version: write_image(tree, version), listener, bootable=True)

    def _make(self, write: _Write, listener: Listener, *, bootable: bool) -> None:
        for kind, image in self._images.items():
            if image is None and kind.bootable == bootable:
                listener(BuildingImage(kind.version, bootable))
                self._images[kind] = self._store(kind, write(kind.version))

    def _search(self, expected: Digest, merger: Merger, listener: Listener) -> ErofsImage:
        """Make the images for booting one after another, and store the one that is *expected*."""
        from composefs.erofs.writer import write_image  # noqa: PLC0415  # see make

        tried = 0
        for xattrs in XattrFilter:
            tree = bootable_tree(self._repository, merger, xattrs)
            for version in _SEARCHED:
                listener(BuildingImage(version, bootable=True))
                data = write_image(tree, version)
                if compute_digest(data, self._repository.algorithm) == expected:
                    return self._store(_Kind(version, bootable=True, xattrs=xattrs), data)
                tried += 1
        raise NotFoundError(f"no image for booting is {expected.hex}; tried {tried} formats and xattr modes")

    def _store(self, kind: _Kind, data: bytearray) -> ErofsImage:
        return ErofsImage(self._repository.images.store(data), *kind)

    def _recorded(self, kind: _Kind) -> ErofsImage | None:
        """Return the image of *kind* that the config records, if it is there whole."""
        digest = self._refs.get(Slot(2 if kind.version == 2 else 1, kind.bootable, kind.xattrs))
        if digest is None or self._version_of(digest) != kind.version:
            return None
        return ErofsImage(digest, *kind)

    def _recorded_expected(self) -> ErofsImage | None:
        for slot, digest in self._refs.items():
            if slot.bootable and digest == self._expected and (version := self._version_of(digest)) is not None:
                return ErofsImage(digest, version, slot.bootable, slot.xattrs)
        return None

    def _version_of(self, digest: Digest) -> int | None:
        """Return the format of an image, or None if it is not there whole."""
        try:
            with self._repository.objects.open(digest) as file:
                head = file.read(ondisk.HEADER.size)
        except ComposefsError:
            return None
        return version_of(head)


def version_of(head: bytes) -> int | None:
    """Return the format of the image that begins with *head*, or None if it is none."""
    if len(head) < ondisk.HEADER.size:
        return None
    magic, _, _, version = ondisk.HEADER.unpack_from(head)
    return int(version) if magic == ondisk.HEADER_MAGIC else None


def bootable_tree(repository: Repository, merger: Merger, xattrs: XattrFilter) -> Directory:
    """Return the tree of the image for booting of the merged layers; errors are those of `make_bootable`."""
    from composefs.transform import transform_for_oci  # noqa: PLC0415  # see ErofsMaker.make

    tree = merger.list().tree()
    transform_for_oci(tree, xattrs)
    make_bootable(repository, tree)
    return tree


def make_bootable(repository: Repository, tree: Directory) -> None:
    """Make *tree*, to which the OCI transform was applied, that of an image for booting.

    Raises:
        NotFoundError, TreeError, FormatError: it cannot be booted.
        IntegrityError: an object of *repository* that tells is broken.
    """
    from composefs.boot import transform_for_boot  # noqa: PLC0415  # takes 15 ms, and most images are not for booting
    from composefs.tree import Object  # noqa: PLC0415  # see ErofsMaker.make

    def read(leaf: Leaf) -> bytes:
        assert isinstance(leaf.content, Object)
        with repository.objects.open(Digest(repository.algorithm, leaf.content.digest)) as file:
            return file.read()

    transform_for_boot(tree, read)


def _recorded_refs(repository: Repository, image: Image) -> dict[Slot, Digest]:
    """Return what the stream of the config of *image* records."""
    try:
        with repository.streams.open(config_name(image.manifest.config.digest), ContentType.CONFIG) as stream:
            refs = stream.reader.named_refs
            if stream.read_body() != image.config_bytes:
                return {}
    except ComposefsError:
        return {}  # it is not there, or broken, and will be written
    return {slot: digest for key, digest in refs.items() if (slot := Slot.parse(key)) is not None}
