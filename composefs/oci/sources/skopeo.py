"""An image that skopeo fetches: of a transport that we have not, or with signatures that the policy wants.

Each worker has a process of skopeo of its own (see `composefs.oci.sources.skopeo_proxy`), so layers come at the same
time; it is kept for the next layer.  What skopeo gives is proved as if it came from anywhere else.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from composefs.errors import IntegrityError, PolicyError, RegistryError, UsageError
from composefs.hostconfig.options import NO_POLICY
from composefs.oci.choice import check_blob, check_size, choose, describe, read_image
from composefs.oci.manifest import Compression, Descriptor, Image, Platform
from composefs.oci.sources.access import Access
from composefs.oci.sources.skopeo_process import Checkpoint, ImageKey, SkopeoOptions, no_checkpoint, run_skopeo
from composefs.oci.sources.skopeo_proxy import CHECKS_POLICY, Proxy, ProxyStream
from composefs.oci.sources.source import Blob, ByteStream
from composefs.oci_digest import oci_digest
from composefs.reference.values import ArchiveReference, Reference, RegistryReference, StorageReference

if TYPE_CHECKING:
    from composefs.hostconfig import HostConfig


class SkopeoSource:
    """The image *reference*, which skopeo fetches.

    Args:
        reference: of any transport of skopeo.
        access: gives skopeo its options; without a host it goes by the files of the host all the same.

    Raises:
        UsageError: skopeo has no such transport.
    """

    shares_files = False

    def __init__(self, reference: Reference, access: Access) -> None:
        if isinstance(reference, ArchiveReference):
            what = f"{reference.text!r}: name the transport for skopeo, such as oci-archive: or docker-archive:"
            raise UsageError(what)
        self.name, self._reference, self._access = reference.text, reference, access
        self.streams = access.streams if isinstance(reference, RegistryReference) else None
        self._key = ImageKey(_text(reference), _options(reference, access))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of skopeo; those of workers end with them."""
        _close_idle(self._key)

    def image(self, platform: Platform | None = None) -> Image:
        """Return the image; see `Source`.

        Raises:
            PolicyError: it may not be taken.
            RegistryError: skopeo cannot get it.
        """
        if platform != self._key.options.platform:
            self.close()
            self._key = replace(self._key, options=replace(self._key.options, platform=platform))
        self._check_policy(signatures_checked=True)  # before anybody is asked
        with _Borrowed(self._key) as proxy:
            self._check_policy(signatures_checked=proxy.version >= CHECKS_POLICY)
            digest, data = proxy.manifest()
            if oci_digest(data) != digest:
                data = self._raw_manifest(digest)  # skopeo has made an OCI one of it; so do we, but of the same config

            def read(descriptor: Descriptor, what: str) -> bytes:
                check_size(descriptor, what)
                if what == "config":
                    found = proxy.read_blob(descriptor.digest, descriptor.size, what)
                else:
                    found = data if descriptor.digest == digest else self._raw_manifest(descriptor.digest)
                return check_blob(descriptor, found, what)

            descriptor = describe(data, digest, f"manifest of {self.name}")
            if descriptor.is_index or platform is not None:
                descriptor = choose([descriptor], platform, read, self.name)
            return read_image(descriptor, read)

    def blob(self, image: Image, index: int) -> Blob:
        """Return what to read of a layer; see `Source`."""
        layer, diff_id = image.manifest.layers[index], image.diff_ids[index]
        digest, size, compression = layer.digest, layer.size, layer.compression
        if isinstance(self._reference, StorageReference):  # has no compressed layers, whatever the manifest says
            digest, size, compression = self._stored_layer(diff_id, index)
        elif image.manifest.is_container and digest == diff_id:
            compression = Compression.NONE  # whatever skopeo calls what is in archives and stores of Docker
        return Blob(SkopeoPlace(self._key, digest, size), digest, size, compression)

    def _stored_layer(self, diff_id: str, index: int) -> tuple[str, int, Compression]:
        """Return digest, size and compression of a layer, as the proxy has it from container storage."""
        with _Borrowed(self._key) as proxy:
            layers = proxy.layers()
        digest, size, compression = diff_id, None, Compression.NONE
        if layers is not None and index < len(layers):
            digest, size, media_type = layers[index]
            if digest != diff_id:
                compression = Descriptor(media_type, digest, 0).compression or Compression.NONE
        return digest, size if size is not None else _size_of(self._key, digest), compression

    def _check_policy(self, *, signatures_checked: bool) -> None:
        host = self._access.host
        if host is None:
            return
        try:
            host.check_policy(self._reference, store=_store(self._reference), signatures_checked=signatures_checked)
        except PolicyError as error:
            if error.remedy is None:
                raise
            remedy = "skopeo checks it from 1.13 on, and the one here is older"  # that is the remedy already taken
            raise PolicyError(error.reference, error.what, error.scope, error.source, remedy=remedy) from None

    def _raw_manifest(self, digest: str) -> bytes:
        """Return the manifest *digest* as it is, which the proxy has no request for."""
        reference, key = self._reference, self._key
        if isinstance(reference, RegistryReference):
            key = replace(key, image=f"docker://{reference.name.without_version}@{digest}")
        data = run_skopeo(key, "inspect", "--raw")
        if oci_digest(data) != digest:
            raise IntegrityError(f"manifest of {self.name}", digest, oci_digest(data))
        return data


@dataclass(frozen=True)
class SkopeoPlace:
    """The place of the blob *digest* of *size* bytes, in the image of *key*."""

    key: ImageKey
    digest: str
    size: int

    def open(self, label: str, streams: Callable[[], int]) -> ByteStream:
        """Open the blob; see `Place`."""
        proxy = _take(self.key, streams)
        try:
            return _BlobStream(proxy, proxy.open_blob(self.digest, self.size, label, streams))
        except BaseException:
            proxy.kill()
            proxy.close()
            raise

    def again(self) -> None:
        """Return None: skopeo has tried all that there is."""


class _BlobStream:
    """The bytes of a blob; the proxy that they come from is used again."""

    size = None

    def __init__(self, proxy: Proxy, stream: ProxyStream) -> None:
        self._proxy, self._stream = proxy, stream

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end."""
        return self._stream.read(size)

    def close(self) -> None:
        """Let go of the blob."""
        self._stream.abandon()
        if self._stream.is_whole:
            _give_back(self._proxy)
        else:
            self._proxy.kill()
            self._proxy.close()


_idle: dict[ImageKey, list[Proxy]] = {}  # of this process
_lock = threading.Lock()  # of them


def open_by_skopeo(reference: Reference, access: Access) -> SkopeoSource:
    """Return the image *reference* as a source, whatever its transport; see `SkopeoSource`."""
    return SkopeoSource(reference, access)


def _take(key: ImageKey, checkpoint: Checkpoint = no_checkpoint) -> Proxy:
    """Return a proxy that has the image of *key* open, an idle one if there is one."""
    with _lock:
        proxies = _idle.get(key)
        if proxies:
            return proxies.pop()
    return Proxy(key, checkpoint)


def _give_back(proxy: Proxy) -> None:
    with _lock:
        _idle.setdefault(proxy.key, []).append(proxy)


def _close_idle(key: ImageKey) -> None:
    with _lock:
        proxies = _idle.pop(key, [])
    for proxy in proxies:
        proxy.close()


class _Borrowed:
    """A proxy for some requests, given back if all went well."""

    def __init__(self, key: ImageKey) -> None:
        self._proxy = _take(key)

    def __enter__(self) -> Proxy:
        return self._proxy

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            _give_back(self._proxy)
        else:
            self._proxy.kill()
            self._proxy.close()


def _size_of(key: ImageKey, digest: str) -> int:
    """Return the size of the blob *digest*; the proxy that is asked is busy with it from then on."""
    proxy = _take(key)
    try:
        size = proxy.size_of(digest)
    finally:
        proxy.kill()
        proxy.close()
    if size is None:
        raise RegistryError(f"does not know the size of {digest}", "skopeo")
    return size


def _options(reference: Reference, access: Access) -> SkopeoOptions:
    """Return the options of skopeo."""
    is_unshared = isinstance(reference, StorageReference) and os.geteuid() != 0
    podman, skopeo = (shutil.which(program) or program for program in ("podman", "skopeo"))
    options = SkopeoOptions(directory=os.getcwd(), is_unshared=is_unshared, programs=(podman, skopeo))
    if isinstance(reference, RegistryReference):
        options = replace(options, host=reference.name.host)
    if access.host is None:
        return options
    chosen = access.host.options
    return replace(
        options,
        auth_file=chosen.auth_file or _auth_file_of_ostree(reference, access.host),
        credentials=chosen.credentials,
        tls_verify=chosen.tls_verify,
        cert_dir=chosen.cert_dir,
        policy=chosen.policy if chosen.policy != NO_POLICY else None,
        checks_policy=chosen.policy != NO_POLICY,
    )


def _auth_file_of_ostree(reference: Reference, host: HostConfig) -> str | None:
    """Return the file of credentials that skopeo does not know of, if it has those for *reference*."""
    if not isinstance(reference, RegistryReference) or host.options.credentials is not None:
        return None
    found = host.find_credentials(reference.name)
    return found[1] if found is not None and found[1].endswith("/ostree/auth.json") else None


def _text(reference: Reference) -> str:
    """Return *reference* as skopeo has it, which refuses tag and digest together."""
    if isinstance(reference, RegistryReference):
        name = reference.name
        return f"docker://{name.without_version}@{name.digest}" if name.digest is not None else f"docker://{name}"
    return str(reference)


def _store(reference: Reference) -> str | None:
    """Return the store that *reference* names, as a policy does."""
    if isinstance(reference, StorageReference) and reference.store is not None:
        return f"{reference.store.driver or 'overlay'}@{reference.store.root}"
    return None
