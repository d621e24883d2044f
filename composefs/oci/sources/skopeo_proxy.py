"""A client of `skopeo experimental-image-proxy`: a process of skopeo that has one image open.

Requests and replies are JSON, one a datagram, over the socket that is the standard input of skopeo; bytes come through
pipes, whose descriptors come with the replies.  skopeo ends when the socket is closed, so it does not outlive us; one
that is older than 0.2.8 may go on as long as a server is silent.

Source: skopeo-experimental-image-proxy(1), versions 0.2.3 to 0.2.8 of the protocol.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import subprocess
from typing import NamedTuple

from composefs import limits
from composefs.errors import ComposefsError, FormatError, LimitError, RegistryError
from composefs.json_text import parse_json
from composefs.oci.sources.skopeo_process import (
    Checkpoint,
    ImageKey,
    failure,
    last_words,
    no_checkpoint,
    start,
    wait_for,
)

Version = tuple[int, ...]
CHECKS_POLICY: Version = (0, 2, 6)  # the first version that looks at policy.json
_OLDEST: Version = (0, 2, 3)
_HAS_LAYERS: Version = (0, 2, 7)
_HAS_RAW_BLOBS: Version = (0, 2, 8)
_MESSAGE_MAX = 1 << 15  # bytes of a datagram, says the protocol
_PIPE_SIZE = 1 << 20  # bytes; the most that users may have
_REPLY_MAX = 3600.0  # seconds for a reply; skopeo unpacks some archives before it gives one
_PATIENCE = 5.0  # seconds without a byte of a blob; a guess: a server may be slow
_SILENCE_MAX = 300.0  # seconds without a byte of a blob; skopeo itself waits for ever
_ENDING_MAX = 5.0  # seconds that skopeo has to end by itself

_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")


class LayerInfo(NamedTuple):
    """What the proxy gives as a layer, which of a store is not what the manifest names."""

    digest: str
    size: int | None  # bytes
    media_type: str


class Proxy:
    """A process of skopeo that has the image of *key* open; *checkpoint* is called while it opens it.

    Raises:
        NotFoundError: there is no skopeo, or no such image.
        RegistryError, AuthenticationError, PolicyError: the image cannot be had.
    """

    def __init__(self, key: ImageKey, checkpoint: Checkpoint = no_checkpoint) -> None:
        self.key, self._checkpoint = key, checkpoint
        self._messages = open(os.memfd_create("composefs-skopeo"), "w+b")  # noqa: SIM115  # closed with the rest
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                self._process = start(key.options, ["experimental-image-proxy"], theirs.fileno(), self._messages)
            self.version = self._initialize()
            image, _, fds = self._call("OpenImage", key.image)
            _close_all(fds)
            if not isinstance(image, int) or image <= 0:
                raise FormatError("skopeo", 0, f"image {image!r} is no number")
            self._image = image
        except BaseException:
            self.kill()
            self.close()
            raise

    def close(self) -> None:
        """End skopeo, if need be by force."""
        self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(_ENDING_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None
        self._messages.close()

    def kill(self) -> None:
        """End skopeo by force: it may wait for a network."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def manifest(self) -> tuple[str, bytes]:
        """Return the digest of the manifest as it is, and the manifest as OCI has it, which may be another one."""
        value, pipe, fds = self._call("GetManifest", self._image)
        data = self._read_all(self._pipe(pipe, fds), "manifest")
        if not isinstance(value, str):
            raise FormatError("skopeo", 0, f"digest {value!r} of the manifest is no text")
        return value, data

    def layers(self) -> list[LayerInfo] | None:
        """Return what there is of the layers; None: this skopeo does not say."""
        if self.version < _HAS_LAYERS:
            return None
        _, pipe, fds = self._call("GetLayerInfoPiped", self._image)
        data = self._read_all(self._pipe(pipe, fds), "layers")
        found = parse_json(data, "layers, from skopeo", max_size=limits.JSON_SIZE)
        if not isinstance(found, list):
            raise FormatError("layers, from skopeo", 0, "no list")
        return [_layer_info(each) for each in found]

    def size_of(self, digest: str) -> int | None:
        """Return the size of the blob *digest*, if skopeo knows it before it is read."""
        stream = self.open_blob(digest, 0, digest, no_checkpoint)
        try:
            return stream.promised
        finally:
            stream.abandon()

    def read_blob(self, digest: str, size: int, what: str) -> bytes:
        """Return the small blob *digest*, which nobody has proved."""
        return self._read_all(self.open_blob(digest, size, what, no_checkpoint), what)

    def open_blob(self, digest: str, size: int, label: str, checkpoint: Checkpoint) -> ProxyStream:
        """Open the blob *digest* of *size* bytes, which messages call *label*; it is read before the next request.

        *checkpoint* is called while it waits.
        """
        self._checkpoint = checkpoint
        if self.version >= _HAS_RAW_BLOBS:
            value, _, fds = self._call("GetRawBlob", self._image, digest)
            if len(fds) != 2:
                _close_all(fds)
                raise FormatError("skopeo", 0, f"{len(fds)} descriptors for a blob, wanted 2")
            stream = ProxyStream(self, fds[0], label, checkpoint, errors=fds[1])
        else:
            value, pipe, fds = self._call("GetBlob", self._image, digest, size)
            stream = self._pipe(pipe, fds, label, checkpoint)
            stream.expected = size
        if isinstance(value, int) and value >= 0:
            stream.promised = stream.expected = value
        return stream

    def ask_for_end(self, pipe: int) -> None:
        """Ask whether all was well with a pipe, which ends then; skopeo answers nothing else until all has come."""
        self._send("FinishPipe", pipe)

    def finish_pipe(self, label: str) -> None:
        """Take the answer to the request that ends a pipe: whether all was well."""
        self._reply(label)

    def _initialize(self) -> Version:
        value, _, fds = self._call("Initialize")
        _close_all(fds)
        found = _VERSION.match(value) if isinstance(value, str) else None
        if found is None:
            raise FormatError("skopeo", 0, f"version {value!r} of its protocol is none")
        version = tuple(map(int, found.groups()))
        if not _OLDEST <= version < (0, 3):
            oldest = ".".join(map(str, _OLDEST))
            raise RegistryError(f"has version {found[0]} of its protocol, wanted {oldest} or a later 0.2", "skopeo")
        return version

    def _call(self, method: str, *arguments: object) -> tuple[object, int, list[int]]:
        """Return value, number of the pipe, and descriptors that come back."""
        self._send(method, *arguments)
        return self._reply()

    def _send(self, method: str, *arguments: object) -> None:
        try:
            self._socket.send(json.dumps({"method": method, "args": arguments}).encode())
        except OSError:
            raise self._ended() from None

    def _reply(self, label: str | None = None) -> tuple[object, int, list[int]]:
        fds: list[int] = []
        if not wait_for(self._socket.fileno(), _REPLY_MAX, self._checkpoint):
            raise RegistryError(f"no reply from skopeo for {_REPLY_MAX:.0f} s", self.key.options.host)
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, _MESSAGE_MAX, 4, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            raise self._ended() from None
        try:
            if not data:
                raise self._ended()
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise FormatError("skopeo", 0, "reply is cut")
            reply = parse_json(data, "reply of skopeo", max_size=_MESSAGE_MAX)
            if not isinstance(reply, dict):
                raise FormatError("reply of skopeo", 0, "not a JSON object")
            if reply.get("success") is not True:
                raise failure(self.key, str(reply.get("error")), label)
            pipe = reply.get("pipeid")
            return reply.get("value"), pipe if isinstance(pipe, int) else 0, fds
        except BaseException:
            _close_all(fds)
            raise

    def _pipe(
        self, pipe: int, fds: list[int], label: str = "skopeo", checkpoint: Checkpoint = no_checkpoint
    ) -> ProxyStream:
        """Return what comes through a pipe, whose end skopeo tells once it is asked."""
        if len(fds) != 1:
            _close_all(fds)
            raise FormatError("skopeo", 0, f"{len(fds)} descriptors, wanted 1")
        return ProxyStream(self, fds[0], label, checkpoint, pipe=pipe)

    def _read_all(self, stream: ProxyStream, what: str) -> bytes:
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := stream.read(_PIPE_SIZE):
                pieces.append(piece)
                size += len(piece)
                if size > limits.JSON_SIZE:
                    raise LimitError(what, 0, "bytes of JSON", limits.JSON_SIZE)
        finally:
            stream.abandon()
        return b"".join(pieces)

    def _ended(self) -> ComposefsError:
        """Return the error that skopeo has left behind."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(_ENDING_MAX)
        return failure(self.key, f"skopeo has ended: {last_words(self._messages) or 'it does not say why'}")


class ProxyStream:
    """The bytes that come through a pipe.

    Attributes:
        promised: how many there are, if skopeo says so.
        expected: how many come before skopeo is asked for the end.
        is_whole: they have come, and skopeo has said that all was well.
    """

    def __init__(
        self,
        proxy: Proxy,
        fd: int,
        label: str,
        checkpoint: Checkpoint,
        *,
        errors: int | None = None,
        pipe: int | None = None,
    ) -> None:
        self.promised: int | None = None
        self.expected = 0
        self.is_whole = False
        self._pipe = pipe  # its number, until skopeo is asked for the end; not before, since it hears nothing then
        self._count = 0  # bytes so far
        self._proxy, self._label, self._checkpoint = proxy, label, checkpoint
        self._fd: int | None = fd
        self._errors = errors  # where skopeo says what went wrong; None: it answers on the socket
        with contextlib.suppress(OSError):  # not more than the system lets us have
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end, after which all was well.

        Raises:
            IntegrityError: skopeo got other bytes.
            RegistryError: it could not get them, or is silent.
        """
        if self._fd is None:
            return b""
        if self._count >= self.expected:
            self._ask_for_end()
        self._wait(self._fd)
        data = os.read(self._fd, size)
        self._count += len(data)
        if not data:
            self._finish()
        return data

    def abandon(self) -> None:
        """Let go of the pipe; the proxy is of no use any more unless the stream is whole."""
        for fd in (self._fd, self._errors):
            if fd is not None:
                os.close(fd)
        self._fd = self._errors = None

    def _finish(self) -> None:
        if self._errors is not None:
            self._wait(self._errors)
            text = os.read(self._errors, _MESSAGE_MAX)
            self.abandon()
            if text:
                raise failure(self._proxy.key, _message(text), self._label)
            if self._count < (self.promised or 0):  # skopeo was killed
                what = f"{self._label}: ends after {self._count} of {self.promised} bytes"
                raise RegistryError(what, self._proxy.key.options.host)
        else:
            self.abandon()
            self._proxy.finish_pipe(self._label)
        self.is_whole = True

    def _ask_for_end(self) -> None:
        if self._pipe is not None:
            self._proxy.ask_for_end(self._pipe)
            self._pipe = None

    def _wait(self, fd: int) -> None:
        if self._pipe is not None and not wait_for(fd, _PATIENCE, self._checkpoint):
            self._ask_for_end()  # skopeo may have failed, which it does not say unless it is asked
        if not wait_for(fd, _SILENCE_MAX, self._checkpoint):
            what = f"{self._label}: not a byte from skopeo for {_SILENCE_MAX:.0f} s"
            raise RegistryError(what, self._proxy.key.options.host)


def _layer_info(value: object) -> LayerInfo:
    if isinstance(value, dict):
        digest, size, media_type = value.get("digest"), value.get("size"), value.get("media_type")
        if isinstance(digest, str) and isinstance(media_type, str):
            return LayerInfo(digest, size if isinstance(size, int) and size >= 0 else None, media_type)
    raise FormatError("layers, from skopeo", 0, f"{value!r} is no layer")


def _message(data: bytes) -> str:
    """Return what the pipe for errors says."""
    value = parse_json(data, "error of skopeo", max_size=_MESSAGE_MAX)
    return str(value.get("message")) if isinstance(value, dict) else str(value)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
