"""References as values: a class for each transport; their text parses to the same value again."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from composefs.errors import UsageError
from composefs.reference.names import RegistryName, parse_name
from composefs.reference.value import Value

_INDEX_DIGITS = 9  # no index.json is so long


class Transport(Enum):
    """How an image gets here; the value is the prefix, as skopeo has it."""

    REGISTRY = "docker"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    ARCHIVE = "archive"  # no prefix: what kind of archive a file is, only its bytes tell
    DIR = "dir"
    CONTAINERS_STORAGE = "containers-storage"
    DOCKER_DAEMON = "docker-daemon"
    OTHER = "other"  # skopeo knows it, nobody else does


class _Reference(Value):
    """What is equal to another if all is but the text."""

    __slots__ = ("text",)
    transport: ClassVar[Transport]
    text: str  # as typed


class RegistryReference(_Reference):
    """`docker://NAME`."""

    transport: ClassVar[Transport] = Transport.REGISTRY
    __slots__ = ("name",)

    def __init__(self, name: RegistryName, text: str) -> None:
        self.name, self.text = name, text

    def __str__(self) -> str:
        return f"docker://{self.name}"


class OciReference(_Reference):
    """`oci:PATH[:TAG]`, a directory; *index* counts the images of its index.json from 0, instead of a tag."""

    transport: ClassVar[Transport] = Transport.OCI
    __slots__ = ("index", "path", "tag")

    def __init__(self, path: str, tag: str | None, index: int | None, text: str) -> None:
        self.path, self.tag, self.index, self.text = path, tag, index, text

    def __str__(self) -> str:
        return _path_text(self.transport, self.path, self.tag, self.index, self.text)


class OciArchiveReference(_Reference):
    """`oci-archive:PATH[:TAG]`, a file or pipe; *index* as of a directory."""

    transport: ClassVar[Transport] = Transport.OCI_ARCHIVE
    __slots__ = ("index", "path", "tag")

    def __init__(self, path: str, tag: str | None, index: int | None, text: str) -> None:
        self.path, self.tag, self.index, self.text = path, tag, index, text

    def __str__(self) -> str:
        return _path_text(self.transport, self.path, self.tag, self.index, self.text)


class DockerArchiveReference(_Reference):
    """`docker-archive:PATH[:NAME]`, a file or pipe; *index* counts the images of its manifest.json from 0."""

    transport: ClassVar[Transport] = Transport.DOCKER_ARCHIVE
    __slots__ = ("index", "name", "path")

    def __init__(self, path: str, name: RegistryName | None, index: int | None, text: str) -> None:
        self.path, self.name, self.index, self.text = path, name, index, text

    def __str__(self) -> str:
        return _path_text(self.transport, self.path, self.name, self.index, self.text)


class ArchiveReference(_Reference):
    """`PATH[:VERSION]` of a file, which must be looked into to tell what kind of archive it is."""

    transport: ClassVar[Transport] = Transport.ARCHIVE
    __slots__ = ("path", "version")

    def __init__(self, path: str, version: str | None, text: str) -> None:
        self.path, self.version, self.text = path, version, text

    def as_oci_archive(self) -> OciArchiveReference:
        """Return what this means, where it is an OCI layout in a tar archive.

        Raises:
            UsageError: the version is no tag.
        """
        return OciArchiveReference(self.path, *tag_or_index(self.version, self.text), self.text)

    def as_docker_archive(self) -> DockerArchiveReference:
        """Return what this means, where `docker save` wrote it.

        Raises:
            UsageError: the version is no name of an image.
        """
        return DockerArchiveReference(self.path, *name_or_index(self.version, self.text), self.text)

    def __str__(self) -> str:
        return self.text


class DirReference(_Reference):
    """`dir:PATH`, a directory with manifest.json and blobs side by side."""

    transport: ClassVar[Transport] = Transport.DIR
    __slots__ = ("path",)

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text

    def __str__(self) -> str:
        return f"dir:{self.path}"


class Store(Value):
    """`[DRIVER@ROOT+RUNROOT:OPTIONS]`: which store of containers/storage."""

    __slots__ = ("driver", "options", "root", "run_root")

    def __init__(self, driver: str | None, root: str, run_root: str | None, options: tuple[str, ...]) -> None:
        self.driver, self.root, self.run_root, self.options = driver, root, run_root, options

    def __str__(self) -> str:
        driver = f"{self.driver}@" if self.driver is not None else ""
        run_root = f"+{self.run_root}" if self.run_root is not None else ""
        options = f":{','.join(self.options)}" if self.options else ""
        return f"[{driver}{self.root}{run_root}{options}]"


class StorageReference(_Reference):
    """`containers-storage:[STORE]IMAGE`.

    Attributes:
        store: None: the host's.
        image: as typed, without *image_id*: the store may know it by a shorter name, or as the start of an ID.
        name: what *image* is in full, if it can be the name of an image.
        image_id: 64 hexadecimal digits, if given.
    """

    transport: ClassVar[Transport] = Transport.CONTAINERS_STORAGE
    __slots__ = ("image", "image_id", "name", "store")

    def __init__(
        self, store: Store | None, image: str, name: RegistryName | None, image_id: str | None, text: str
    ) -> None:
        self.store, self.image, self.name, self.image_id, self.text = store, image, name, image_id, text

    def __str__(self) -> str:
        image_id = f"@{self.image_id}" if self.image_id is not None else ""
        return f"containers-storage:{self.store or ''}{self.image}{image_id}"


class DaemonReference(_Reference):
    """`docker-daemon:NAME:TAG` or `docker-daemon:sha256:ID`; one of *name* and *image_id* is None."""

    transport: ClassVar[Transport] = Transport.DOCKER_DAEMON
    __slots__ = ("image_id", "name")

    def __init__(self, name: RegistryName | None, image_id: str | None, text: str) -> None:
        self.name, self.image_id, self.text = name, image_id, text

    def __str__(self) -> str:
        return f"docker-daemon:{self.name if self.name is not None else f'sha256:{self.image_id}'}"


class OtherReference(_Reference):
    """An image that only skopeo can bring."""

    transport: ClassVar[Transport] = Transport.OTHER
    __slots__ = ("details", "prefix")

    def __init__(self, prefix: str, details: str, text: str) -> None:
        self.prefix, self.details, self.text = prefix, details, text

    def __str__(self) -> str:
        return f"{self.prefix}:{self.details}"


Reference = (
    RegistryReference
    | OciReference
    | OciArchiveReference
    | DockerArchiveReference
    | ArchiveReference
    | DirReference
    | StorageReference
    | DaemonReference
    | OtherReference
)


def tag_or_index(version: str | None, text: str) -> tuple[str | None, int | None]:
    """Return tag and index of *version*, which follows a path in the reference *text*.

    Raises:
        UsageError: it starts with `@`, and no number follows.
    """
    if version is None or not version.startswith("@"):
        return version, None
    digits = version[1:]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _INDEX_DIGITS:
        raise UsageError(f"{text!r}: wanted the number of an image after '@', from 0 on, not {digits!r}")
    return None, int(digits)


def name_or_index(version: str | None, text: str) -> tuple[RegistryName | None, int | None]:
    """Return name and index of *version*, which follows a path in the reference *text*; no tag is `latest`.

    Raises:
        UsageError: it is no name, or one with a digest, which nothing in such an archive has.
    """
    name, index = tag_or_index(version, text)
    if name is None:
        return None, index
    found = parse_name(name)
    if found.digest is not None:
        raise UsageError(f"{text!r}: images of a docker-archive have names and tags, no digests")
    return found.versioned(), None


def _path_text(transport: Transport, path: str, version: object, index: int | None, text: str) -> str:
    if ":" in path:
        return text  # what lay at the paths it may mean has decided
    shown = f"@{index}" if index is not None else version
    return f"{transport.value}:{path}" + (f":{shown}" if shown is not None else "")
