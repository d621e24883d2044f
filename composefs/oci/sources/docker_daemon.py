"""Images in the local store of Docker, which its daemon gives as an archive, over its socket.

The archive goes to an unnamed file, and is read as any that `docker save` wrote.

Source: Docker Engine API, `GET /images/get`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import quote, unquote, urlsplit

from composefs.errors import FormatError, NotFoundError, RegistryError, UsageError
from composefs.json_text import parse_json
from composefs.oci.sources.archive_files import ArchiveFiles
from composefs.oci.sources.docker_archive import DockerArchive
from composefs.oci.sources.spool import spool
from composefs.reference import DaemonReference

_DEFAULT = "unix:///var/run/docker.sock"
_CONNECT_TIMEOUT = 30  # seconds
_READ_TIMEOUT = 600  # seconds without a byte; the daemon may write all of an image to its disk before the first one
_MESSAGE_SIZE = 1 << 16  # bytes of an error that are looked at
_OK, _NOT_FOUND = 200, 404


def open_daemon(reference: DaemonReference, environ: Mapping[str, str], directory: str) -> DockerArchive:
    """Open the image *reference*, all of which the daemon sends first.

    Args:
        reference: what the daemon calls the image.
        environ: has `DOCKER_HOST`, if the socket is not where it usually is.
        directory: where the unnamed file is made.

    Raises:
        NotFoundError: there is no such image.
        RegistryError: the daemon cannot be reached, or does not give the image.
        UsageError: it is not to be reached by a socket.
        FormatError: what it gives is broken.
        OSError: the file cannot be written.
    """
    address = _socket(environ.get("DOCKER_HOST") or _DEFAULT)
    image = str(reference.name) if reference.name is not None else f"sha256:{reference.image_id}"
    label = f"Docker's archive of {image}"
    with contextlib.closing(_Connection(address)) as connection:
        response = _ask(connection, image, address)

        def read(size: int) -> bytes:
            try:
                data = response.read(size)
            except (OSError, HTTPException) as error:
                raise RegistryError(f"{label} is cut: {_reason(error)}", address) from None
            if not data and response.length:
                raise RegistryError(f"{label} is cut: {response.length} bytes are missing", address)
            return data

        files = ArchiveFiles(spool(read, directory, label), reference.transport)
    return DockerArchive(files, None, reference.text, directory)


def _socket(host: str) -> str:
    """Return the path of the daemon's socket."""
    try:
        parts = urlsplit(host)
    except ValueError:
        parts = None
    if parts is None or parts.scheme != "unix" or not parts.path:
        raise UsageError(
            f"DOCKER_HOST is {host!r}, which is no unix:///PATH; save the image there, and import that: docker save"
        )
    return unquote(parts.path)


def _ask(connection: HTTPConnection, image: str, address: str) -> HTTPResponse:
    """Ask for the archive of *image*, and return the answer once it is known to be that."""
    try:
        connection.request("GET", f"/images/get?names={quote(image, safe='')}")
        response = connection.getresponse()
        if response.status == _OK:
            return response
        message = _message(response.read(_MESSAGE_SIZE))
    except (OSError, HTTPException) as error:
        raise RegistryError(f"the Docker daemon does not answer: {_reason(error)}", address) from None
    if response.status == _NOT_FOUND:
        raise NotFoundError(f"the Docker daemon has no image {image}: {message}")
    raise RegistryError(f"the Docker daemon does not give {image}: {message}", address, response.status)


def _reason(error: OSError | HTTPException) -> str:
    """Return what is wrong with a connection."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _message(body: bytes) -> str:
    """Return what an answer of the daemon says is wrong."""
    try:
        value = parse_json(body, "error", max_size=_MESSAGE_SIZE)
    except FormatError:
        value = None
    message = value.get("message") if isinstance(value, dict) else None
    return (message if isinstance(message, str) else body.decode("utf-8", "replace"))[:200].strip()


class _Connection(HTTPConnection):
    """A connection to the socket *path*."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_READ_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_TIMEOUT)
        self.sock.connect(self._path)
        self.sock.settimeout(_READ_TIMEOUT)
