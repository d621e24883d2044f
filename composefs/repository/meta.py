"""`meta.json`: what a repository is, and which programs may use it.

Source: composefs-rs, doc/repository.md; the bytes written are those of composefs-rs 0.9.4.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from composefs import _native, limits, verity
from composefs.digest import Algorithm
from composefs.erofs import VERSIONS as EROFS_VERSIONS
from composefs.errors import FormatError, RepositoryError
from composefs.json_text import parse_json
from composefs.repository.staging import NO_UNNAMED_FILES

NAME = "meta.json"
VERSION = 1  # of the repository format
V1_EROFS = "v1_erofs"  # read-only-compatible feature: images are EROFS format V1
MODE = 0o644

_NO_FILE = frozenset([errno.ELOOP, errno.ENXIO])  # what a link gives, or a socket
_KNOWN_READ_ONLY_COMPATIBLE = frozenset([V1_EROFS])
_LEGACY_EROFS: Final = 2  # the default format of repositories that do not name one


@dataclass(frozen=True)
class Meta:
    """The contents of a `meta.json`, values as written."""

    algorithm: Algorithm
    erofs_default: int = 1
    erofs_extra: tuple[int, ...] = ()
    compatible: tuple[str, ...] = ()
    read_only_compatible: tuple[str, ...] = (V1_EROFS,)
    incompatible: tuple[str, ...] = ()
    version: int = VERSION

    @classmethod
    def new(cls, algorithm: Algorithm, erofs_default: int = 1) -> Meta:
        """Return the metadata of a new repository whose images have the EROFS format *erofs_default*."""
        features = (V1_EROFS,) if erofs_default == 1 else ()
        return cls(algorithm, erofs_default, read_only_compatible=features)

    @property
    def erofs_versions(self) -> tuple[int, ...]:
        """The EROFS formats to make of each image, the default first."""
        if (self.erofs_default, self.erofs_extra) == (_LEGACY_EROFS, ()) and V1_EROFS in self.read_only_compatible:
            return (1,)  # a repository from before `erofs_formats`; an explicit V2 looks the same
        return (self.erofs_default, *(extra for extra in self.erofs_extra if extra != self.erofs_default))

    @property
    def unknown_features(self) -> list[str]:
        """The read-only-compatible features that this program does not know: it must not write."""
        return [name for name in self.read_only_compatible if name not in _KNOWN_READ_ONLY_COMPATIBLE]

    def check(self, path: str) -> None:
        """Refuse a repository that this program cannot read.

        Raises:
            RepositoryError: the repository at *path* has a later version, or features unknown here.
        """
        if self.version > VERSION:
            raise RepositoryError(path, f"repository version {self.version} is newer than {VERSION}")
        if self.incompatible:
            raise RepositoryError(path, f"repository has unknown features: {', '.join(self.incompatible)}")

    def pack(self) -> bytes:
        """Return the bytes of the file."""
        formats: dict[str, Any] = {"default": self.erofs_default}
        if self.erofs_extra:
            formats["extra"] = list(self.erofs_extra)
        value = {
            "version": self.version,
            "algorithm": self.algorithm.value,
            "features": {
                "compatible": list(self.compatible),
                "read-only-compatible": list(self.read_only_compatible),
                "incompatible": list(self.incompatible),
            },
            "erofs_formats": formats,
        }
        return json.dumps(value, indent=2).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes, source: str = NAME) -> Meta:
        """Return the metadata that *data* holds.

        Raises:
            FormatError: the JSON, its keys or their types are wrong.
        """
        value = parse_json(data, source, max_size=limits.META_SIZE)
        try:
            return cls._from_json(value)
        except ValueError as error:
            raise FormatError(source, 0, str(error)) from None

    @classmethod
    def _from_json(cls, value: object) -> Meta:
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        version = value.get("version")
        if not _is_number(version) or not 0 <= version < 1 << 32:
            raise ValueError(f"version {version!r} is no number of 32 bits")
        algorithm = value.get("algorithm")
        if not isinstance(algorithm, str):
            raise ValueError(f"algorithm {algorithm!r} is no text")
        features = value.get("features", {})
        formats = value.get("erofs_formats", {"default": _LEGACY_EROFS})
        if not isinstance(features, dict) or not isinstance(formats, dict):
            raise ValueError("features or erofs_formats is no JSON object")
        extra = formats.get("extra", [])
        if not isinstance(extra, list):
            raise ValueError("erofs_formats.extra is no list")
        for number in (formats.get("default"), *extra):
            if not _is_number(number) or number not in EROFS_VERSIONS:
                raise ValueError(f"EROFS format {number!r} is none of {EROFS_VERSIONS}")
        return cls(
            algorithm=Algorithm.parse(algorithm),
            erofs_default=formats["default"],
            erofs_extra=tuple(sorted(set(extra))),
            compatible=_texts(features, "compatible"),
            read_only_compatible=_texts(features, "read-only-compatible"),
            incompatible=_texts(features, "incompatible"),
            version=version,
        )


def read(dir_fd: int, path: str) -> tuple[Meta, bool]:
    """Return the metadata of the repository *dir_fd*, called *path* in messages, and whether fs-verity seals them.

    Raises:
        FileNotFoundError: there is no `meta.json`.
        FormatError: it cannot be understood, or is no file.
        IntegrityError: it is sealed with another algorithm than it names.
    """
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise FormatError(f"{path}/{NAME}", 0, "no regular file") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FormatError(f"{path}/{NAME}", 0, "no regular file")
    with open(fd, "rb") as file:
        meta = Meta.parse(file.read(limits.META_SIZE + 1), f"{path}/{NAME}")
        sealed = verity.measure(fd, meta.algorithm) is not None
    return meta, sealed


def write(dir_fd: int, meta: Meta, *, seal: bool) -> bool:
    """Write *meta* durably into the repository *dir_fd*, with fs-verity if *seal*, and give it its name last.

    Returns:
        Whether it was written; if *seal* and the file system has no fs-verity, it was not.

    Raises:
        FileExistsError: there is one already.
    """
    name, packed = None, meta.pack()
    copy_to: int | None = dir_fd
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, MODE, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in NO_UNNAMED_FILES:
            raise
        name, copy_to = f".{NAME}-{os.urandom(6).hex()}", None
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, MODE, dir_fd=dir_fd)
    try:
        _native.set_mode(fd, dir_fd, MODE)
        with open(fd, "wb", closefd=False) as file:
            file.write(packed)
        if seal and not verity.seal(fd, verity.compute_digest(packed, meta.algorithm), NAME, copy_to):
            return False
        os.fsync(fd)  # and with it the seal
        if name is None:
            _native.link_fd(fd, dir_fd, NAME)
        else:
            _native.rename(dir_fd, name, dir_fd, NAME, _native.RENAME_NOREPLACE)
            name = None
        os.fsync(dir_fd)
        return True
    finally:
        os.close(fd)
        if name is not None:
            os.unlink(name, dir_fd=dir_fd)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(features: dict[str, Any], key: str) -> tuple[str, ...]:
    value = features.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"features.{key} is no list of texts")
    return tuple(value)
