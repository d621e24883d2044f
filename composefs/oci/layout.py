"""Images in an OCI layout directory, and the choice of one of them.

    index.json             which manifests there are
    blobs/sha256/<hex>     manifests, configs, layers; each is checked against its name and size when it is read

Source: OCI image specification 1.1, image-layout.md.  A file `oci-layout` is not asked for, as elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from composefs import limits
from composefs.errors import FormatError, IntegrityError, LimitError, NotFoundError, UsageError
from composefs.oci.manifest import Config, Descriptor, Manifest, Platform, parse_index

TRANSPORT = "oci:"
_SHOWN = 10  # things listed in a message

# What `uname -m` says, in Go's words.
_ARCHITECTURES = {
    "x86_64": ("amd64", None),
    "i386": ("386", None),
    "i686": ("386", None),
    "aarch64": ("arm64", "v8"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", None),
    "ppc64le": ("ppc64le", None),
    "riscv64": ("riscv64", None),
    "s390x": ("s390x", None),
}
_DEFAULT_VARIANTS = {"arm64": "v8", "amd64": "v1", "arm": "v7"}  # what no variant means


def host_platform() -> Platform:
    """Return the platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _ARCHITECTURES.get(machine, (machine, None))
    return Platform("linux", architecture, variant)


@dataclass(frozen=True)
class Image:
    """One image: its manifest and config, checked and parsed; *manifest_bytes* and *config_bytes* as they were read."""

    descriptor: Descriptor
    manifest: Manifest
    manifest_bytes: bytes
    config_bytes: bytes
    diff_ids: tuple[str, ...]  # of the layers; of an artifact, whose blobs have none, their digests

    @classmethod
    def parse(cls, descriptor: Descriptor, manifest_bytes: bytes, config_bytes: bytes) -> Self:
        """Return the image of a manifest and config, which their digests are known to be those of.

        Raises:
            FormatError: one of them is broken, or they do not belong together.
        """
        source = f"manifest {descriptor.digest}"
        manifest = Manifest.parse(manifest_bytes, source)
        if manifest.is_container:
            diff_ids = Config.parse(config_bytes, f"config {manifest.config.digest}").diff_ids
        else:
            diff_ids = tuple(layer.digest for layer in manifest.layers)
        if len(diff_ids) != len(manifest.layers):
            raise FormatError(source, 0, f"{len(manifest.layers)} layers, but the config has {len(diff_ids)} diff_ids")
        return cls(descriptor, manifest, manifest_bytes, config_bytes, diff_ids)


def parse_reference(reference: str) -> tuple[str, str | None]:
    """Return path and tag of `oci:PATH[:TAG]` or a bare PATH[:TAG].

    Raises:
        UsageError: the reference is of another transport, or empty.
    """
    text = reference.removeprefix(TRANSPORT)
    transport, colon, rest = reference.partition(":")
    if f"{transport}:" != TRANSPORT and colon and (rest.startswith("//") or transport in _OTHER_TRANSPORTS):
        raise UsageError(
            f"{transport}: is not supported yet; copy the image first: skopeo copy {reference} oci:DIR:TAG"
        )
    path, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        path, colon, tag = text, "", ""
    if not path:
        raise UsageError(f"{reference!r} names no directory; wanted oci:PATH[:TAG]")
    if colon and not tag:
        raise UsageError(f"{reference!r} has an empty tag; wanted oci:PATH[:TAG]")
    return path, tag or None


_OTHER_TRANSPORTS = frozenset(
    ["containers-storage", "dir", "docker", "docker-archive", "docker-daemon", "oci-archive", "ostree", "registry"]
)


class OciLayout:
    """The OCI layout in the directory *path*.

    Raises:
        NotFoundError: there is no directory, or no index in it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._platforms: dict[str, Platform | None] = {}  # by digest of manifest or config
        if not os.path.isdir(path):
            raise NotFoundError(f"no directory {path}")
        if not os.path.exists(os.path.join(path, "index.json")):
            raise NotFoundError(f"{path} is no OCI layout: it has no index.json")

    def image(self, tag: str | None, platform: Platform | None) -> Image:
        """Return the image called *tag*, or the only one, for *platform*, by default that of this machine.

        Raises:
            NotFoundError: there is none, or a part of it is missing.
            UsageError: there are several and *tag* is None.
            FormatError, IntegrityError: a part of it is broken.
        """
        return self._read(self._choose(tag, platform))

    def blob_path(self, digest: str) -> str:
        """Return the file of the blob *digest*."""
        return os.path.join(self.path, "blobs", *digest.split(":"))

    def _choose(self, tag: str | None, platform: Platform | None) -> Descriptor:
        source = os.path.join(self.path, "index.json")
        index = parse_index(_read_json(source, source), source)
        if not index:
            raise NotFoundError(f"{self.path} holds no image")
        named = [descriptor for descriptor in index if tag is None or descriptor.tag == tag]
        if not named:
            tags = [descriptor.tag for descriptor in index if descriptor.tag]
            raise NotFoundError(f"{self.path} has no tag {tag!r}; {_listed('it has', tags)}")
        candidates = list(self._manifests(named, 0, set()))
        wanted = platform or host_platform()
        ranked = [
            (rank, candidate) for candidate in candidates if (rank := _rank(candidate.platform, wanted)) is not None
        ]
        if not ranked and len(candidates) == 1 and candidates[0].platform is None:
            return candidates[0]  # an artifact: made for no platform
        if not ranked:
            platforms = [str(candidate.platform or "no platform") for candidate in candidates]
            raise NotFoundError(f"{self.path} has no image for {wanted}; {_listed('it has', platforms)}")
        best = min(rank for rank, _ in ranked)
        found = [candidate for rank, candidate in ranked if rank == best]
        if tag is None and len({candidate.digest for candidate in found}) > 1:
            tags = sorted({str(candidate.tag) for candidate in found})
            raise UsageError(
                f"{self.path} holds {len(found)} images for {wanted}; name one as oci:PATH:TAG: {_listed('', tags)}"
            )
        return found[0]

    def _manifests(self, descriptors: list[Descriptor], depth: int, seen: set[str]) -> Iterator[Descriptor]:
        """Yield the manifests that *descriptors* lead to, each with its platform, if that can be told.

        An index that was *seen* is not read again: a few that each hold the next one many times would take for ever.
        """
        for descriptor in descriptors:
            if descriptor.is_index:
                if descriptor.digest in seen:
                    continue
                seen.add(descriptor.digest)
                source = f"index {descriptor.digest}"
                if depth == limits.INDEX_DEPTH:
                    raise LimitError(source, 0, "indexes inside one another", limits.INDEX_DEPTH)
                inner = parse_index(self._read_blob(descriptor, "index"), source)
                for found in self._manifests(list(inner), depth + 1, seen):
                    yield _replace_tag(found, descriptor.tag)
            elif descriptor.is_manifest:
                yield descriptor if descriptor.platform else self._with_platform(descriptor)
            # Anything else is no image: signatures, software lists.

    def _with_platform(self, descriptor: Descriptor) -> Descriptor:
        """Return *descriptor* with the platform that the image's config names."""
        platform = self._once(descriptor.digest, lambda: self._platform(descriptor))
        return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, platform, descriptor.tag)

    def _platform(self, descriptor: Descriptor) -> Platform | None:
        manifest = Manifest.parse(self._read_blob(descriptor, "manifest"), f"manifest {descriptor.digest}")
        if not manifest.is_container:
            return None
        config, source = manifest.config, f"config {manifest.config.digest}"
        return self._once(config.digest, lambda: Config.parse(self._read_blob(config, "config"), source).platform)

    def _once(self, digest: str, read: Callable[[], Platform | None]) -> Platform | None:
        """Return the platform that *read* finds, which is read once: an index may name a large blob many times."""
        if digest not in self._platforms:
            self._platforms[digest] = read()
        return self._platforms[digest]

    def _read(self, descriptor: Descriptor) -> Image:
        data = self._read_blob(descriptor, "manifest")
        manifest = Manifest.parse(data, f"manifest {descriptor.digest}")
        return Image.parse(descriptor, data, self._read_blob(manifest.config, "config"))

    def _read_blob(self, descriptor: Descriptor, what: str) -> bytes:
        """Return a small blob, checked against its descriptor."""
        source = f"{what} {descriptor.digest}"
        if descriptor.size > limits.JSON_SIZE:
            raise LimitError(source, 0, "bytes of JSON", limits.JSON_SIZE, descriptor.size)
        data = _read_json(self.blob_path(descriptor.digest), source)
        if len(data) != descriptor.size:
            raise IntegrityError(source, f"{descriptor.size} bytes", f"{len(data)} bytes")
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest != descriptor.digest:
            raise IntegrityError(source, descriptor.digest, digest)
        return data


def open_regular(path: str, what: str) -> int:
    """Open the regular file *path* for reading and return its descriptor; nothing else is waited for.

    Raises:
        NotFoundError: *what*, which the file holds, is missing.
        FormatError: it is no regular file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{what} is missing: no file {path}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FormatError(what, 0, f"{path} is no regular file")
    return fd


def _read_json(path: str, what: str) -> bytes:
    with open(open_regular(path, what), "rb") as file:
        # If there is that much, it is refused; there is None of what may come later, such as /proc/kmsg.
        return file.read(limits.JSON_SIZE + 1) or b""


def _rank(found: Platform | None, wanted: Platform) -> int | None:
    """Return how well *found* suits *wanted*, 0 best, None not at all.

    The same variant goes before any older one, and for want of a better measure before any other; an ARM CPU runs no
    code for a later variant.
    """
    if found is None or (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return None
    default = _DEFAULT_VARIANTS.get(wanted.architecture, "")
    have, want = found.variant or default, wanted.variant or default
    if have == want:
        return 0
    if wanted.architecture == "arm" and have > want:
        return None
    return 1 if have < want else 2


def _replace_tag(descriptor: Descriptor, tag: str | None) -> Descriptor:
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, descriptor.platform, tag)


def _listed(prefix: str, things: list[str]) -> str:
    if not things:
        return f"{prefix} none".strip()
    more = f" and {len(things) - _SHOWN} more" if len(things) > _SHOWN else ""
    return f"{prefix} {', '.join(things[:_SHOWN])}{more}".strip()
