"""A program that takes the place of skopeo: it speaks any version of the protocol, and misbehaves as it is told.

Run as a program, it reads what to do from the file `skopeo.json` beside it, and appends its arguments to `calls`:

    version            of the protocol
    manifest, digest   what GetManifest gives; the digest of the manifest, by default
    raw                what `inspect --raw` prints
    blobs              contents by digest, in base64
    layers             what GetLayerInfoPiped gives
    fail               what methods answer instead: texts by their names
    wrong_end          what FinishPipe, or the pipe for errors, says of a blob
    die                methods at which it exits, after a word on stderr
    hang               methods at which it sleeps
    sizes              whether it tells the sizes of blobs
    stall              whether blobs stop in the middle
    reply              methods that answer with these raw texts
"""

import base64
import hashlib
import json
import os
import socket
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any


class Script:
    """What the program is to do, in the directory *path*, which goes on PATH."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._settings: dict[str, Any] = {"version": "0.2.3"}
        program = path / "skopeo"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {path} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.set()

    def set(self, **settings: Any) -> None:
        """Change what it does."""
        self._settings |= settings
        (self.path / "skopeo.json").write_text(json.dumps(self._settings))

    def calls(self) -> list[list[str]]:
        """Return the arguments of each process that was started."""
        file = self.path / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def credentials(self) -> list[str]:
        """Return what was in the files of credentials."""
        file = self.path / "credentials"
        return file.read_text().splitlines() if file.exists() else []


class _Proxy:
    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._socket = socket.socket(fileno=0)
        self._pipes: dict[int, tuple[int, threading.Thread, str]] = {}

    def serve(self) -> None:
        while request := self._socket.recv(1 << 15):
            asked = json.loads(request)
            method, arguments = asked["method"], asked["args"]
            if method in self._settings.get("die", ()):
                raise SystemExit(f"fatal: {method} went wrong")
            if method in self._settings.get("hang", ()):
                time.sleep(1000)
            if method in self._settings.get("reply", {}):
                self._socket.send(self._settings["reply"][method].encode())
            elif method in self._settings.get("fail", {}):
                self._answer(error=self._settings["fail"][method])
            else:
                _METHODS[method](self, *arguments)

    def _initialize(self) -> None:
        self._answer(self._settings["version"])

    def _open_image(self, _: str) -> None:
        self._answer(1)

    def _get_manifest(self, _: int) -> None:
        data = self._settings["manifest"].encode()
        self._send(data, self._settings.get("digest", "sha256:" + hashlib.sha256(data).hexdigest()))

    def _get_layers(self, _: int) -> None:
        self._send(json.dumps(self._settings["layers"]).encode(), None)

    def _get_blob(self, _: int, digest: str, size: int) -> None:
        data = base64.b64decode(self._settings["blobs"][digest])
        wrong = self._settings.get("wrong_end", "")
        if not wrong and len(data) != size:
            wrong = f"expected {size} bytes in blob, got {len(data)}"
        self._send(data, len(data) if self._settings.get("sizes", True) else -1, wrong)

    def _get_raw_blob(self, _: int, digest: str) -> None:
        data = base64.b64decode(self._settings["blobs"][digest])
        (reading, writing), (errors, failing) = os.pipe(), os.pipe()
        wrong = self._settings.get("wrong_end", "")
        if wrong:
            os.write(failing, json.dumps({"code": "other", "message": wrong}).encode())
        os.close(failing)
        self._answer(len(data), fds=[reading, errors])
        threading.Thread(target=self._write, args=(writing, data, True), daemon=True).start()

    def _finish_pipe(self, pipe: int) -> None:
        writing, thread, wrong = self._pipes.pop(pipe)
        thread.join()
        os.close(writing)
        self._answer(error=wrong)

    def _send(self, data: bytes, value: object, wrong: str = "") -> None:
        reading, writing = os.pipe()
        thread = threading.Thread(target=self._write, args=(writing, data, False), daemon=True)
        thread.start()
        self._pipes[writing] = (writing, thread, wrong)
        self._answer(value, pipe=writing, fds=[reading])

    def _write(self, fd: int, data: bytes, closes: bool) -> None:
        rest = memoryview(data)
        try:
            if self._settings.get("stall"):
                os.write(fd, rest[: len(rest) // 2])
                time.sleep(1000)
            while rest:
                rest = rest[os.write(fd, rest) :]
        except BrokenPipeError:
            pass
        if closes:
            os.close(fd)

    def _answer(self, value: object = None, *, error: str = "", pipe: int = 0, fds: list[int] | None = None) -> None:
        reply = {"success": not error, "value": value, "pipeid": pipe, "error": error}
        socket.send_fds(self._socket, [json.dumps(reply).encode()], fds or [])
        for fd in fds or []:
            os.close(fd)


_METHODS = {
    "Initialize": _Proxy._initialize,
    "OpenImage": _Proxy._open_image,
    "GetManifest": _Proxy._get_manifest,
    "GetLayerInfoPiped": _Proxy._get_layers,
    "GetBlob": _Proxy._get_blob,
    "GetRawBlob": _Proxy._get_raw_blob,
    "FinishPipe": _Proxy._finish_pipe,
}


def main(path: Path, arguments: list[str]) -> None:
    settings = json.loads((path / "skopeo.json").read_text())
    with (path / "calls").open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    if "--authfile" in arguments:
        with (path / "credentials").open("a") as file:
            file.write(Path(arguments[arguments.index("--authfile") + 1]).read_text() + "\n")
    if "inspect" in arguments:
        if "inspect" in settings.get("fail", {}):
            raise SystemExit(settings["fail"]["inspect"])
        sys.stdout.write(settings["raw"][arguments[-1]])
    else:
        _Proxy(settings).serve()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
