"""Processes of skopeo: how they are started, what they are shown of credentials, and what their messages mean."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, TypeAlias

from composefs import limits
from composefs.errors import (
    AuthenticationError,
    ComposefsError,
    IntegrityError,
    LimitError,
    NotFoundError,
    PolicyError,
    RegistryError,
)
from composefs.oci.manifest import Platform
from composefs.registry.endpoint import Credentials

Checkpoint: TypeAlias = Callable[[], object]  # called while there is nothing to do; what it raises ends the work

_COMMAND_MAX = 300.0  # seconds for a command that prints some kilobytes
_SLICE = 0.2  # seconds between two looks whether to go on
_MESSAGES_MAX = 1 << 16  # bytes that are looked at
_TEXT_MAX = 500  # characters of a message of skopeo
_SECRET = re.compile(r"(?<=://)[^/\s\"'@]*@|\?[^\s\"']*|(?i:(?<=bearer )|(?<=basic ))[^\s\"',]+")
_BROKEN = re.compile(r"corrupted blob|expected \d+ bytes in blob")
_MISSING = re.compile(r"manifest unknown|name unknown|no such file or directory|does not resolve to an image|not known")
_REFUSED = re.compile(r"rejected by policy|Source image rejected|signature was required", re.IGNORECASE)
_UNAUTHORIZED = re.compile(r"unauthorized|authentication required|access to the resource is denied", re.IGNORECASE)


def no_checkpoint() -> None:
    """Wait on."""


@dataclass(frozen=True)
class SkopeoOptions:
    """How skopeo is started.

    Attributes:
        auth_file: the only file of credentials.
        credentials: of the registry *host*, in place of all files.
        host: of the registry.
        tls_verify: whether certificates are checked; None: as registries.conf says.
        cert_dir: the only directory of certificates.
        policy: path of the policy.json.
        checks_policy: False: images need not be allowed.
        platform: which image of a list.
        is_unshared: in the user namespace of podman, to read the store of a user.
        directory: that relative paths start in.
        programs: the paths of podman and skopeo, as the main process finds them: workers may have another PATH.
    """

    auth_file: str | None = None
    credentials: Credentials | None = None
    host: str = "skopeo"
    tls_verify: bool | None = None
    cert_dir: str | None = None
    policy: str | None = None
    checks_policy: bool = True
    platform: Platform | None = None
    is_unshared: bool = False
    directory: str = field(default=".", compare=False)
    programs: tuple[str, str] = ("podman", "skopeo")

    def command(self, command: Sequence[str], auth_file: str | None) -> list[str]:
        """Return the arguments that run *command* of skopeo with the credentials in *auth_file*."""
        globals_: list[str] = []
        if not self.checks_policy:
            globals_.append("--insecure-policy")
        elif self.policy is not None:
            globals_ += ["--policy", os.path.join(self.directory, self.policy)]
        if self.platform is not None:
            globals_ += ["--override-os", self.platform.os, "--override-arch", self.platform.architecture]
            if self.platform.variant is not None:
                globals_ += ["--override-variant", self.platform.variant]
        flags = [] if self.tls_verify is None else [f"--tls-verify={str(self.tls_verify).lower()}"]
        for name, value in (("--authfile", auth_file), ("--cert-dir", self.cert_dir)):
            if value is not None:
                flags += [name, os.path.join(self.directory, value)]
        podman, skopeo = self.programs
        unshare = [podman, "unshare"] if self.is_unshared else []
        return [*unshare, skopeo, *globals_, command[0], *flags, *command[1:]]


@dataclass(frozen=True)
class ImageKey:
    """An image, and how skopeo gets it."""

    image: str  # the reference, as skopeo has it
    options: SkopeoOptions


def run_skopeo(key: ImageKey, command: str, *arguments: str) -> bytes:
    """Return what a *command* of skopeo prints about the image of *key*.

    Raises:
        RegistryError, AuthenticationError, PolicyError: it fails.
        NotFoundError: there is no skopeo, or no such image.
    """
    with open(os.memfd_create("composefs-skopeo"), "w+b") as messages:
        process = start(key.options, [command, *arguments, key.image], subprocess.DEVNULL, messages, subprocess.PIPE)
        try:
            assert process.stdout is not None
            with process.stdout as printed:
                data = b""
                while len(data) <= limits.JSON_SIZE:
                    if not wait_for(printed.fileno(), _COMMAND_MAX):
                        raise RegistryError(f"not a word from skopeo for {_COMMAND_MAX:.0f} s", key.options.host)
                    piece = os.read(printed.fileno(), 1 << 16)
                    if not piece:
                        break
                    data += piece
                else:
                    raise LimitError(f"skopeo {command}", 0, "bytes of JSON", limits.JSON_SIZE)
            status = process.wait()
        finally:
            process.kill()
            process.wait()
        if status != 0:
            raise failure(key, last_words(messages) or f"skopeo {command} ends with status {status}")
    return data


def failure(key: ImageKey, text: str, label: str | None = None) -> ComposefsError:
    """Return the error that skopeo tells by *text*, when it was about what messages call *label*."""
    text = _shown(text)
    what = f"{label}: {text}" if label is not None else text
    if _BROKEN.search(text):
        return IntegrityError(label or key.image, "what its digest says", f"other bytes: {text}")
    if _REFUSED.search(text):
        return PolicyError(key.image, text, "the policy", "the configuration of skopeo")
    if _UNAUTHORIZED.search(text):
        return AuthenticationError(what, key.options.host)
    if _MISSING.search(text):
        return NotFoundError(f"{key.image}: {what}")
    return RegistryError(what, key.options.host)


def last_words(messages: BinaryIO) -> str | None:
    """Return the last line of what skopeo has written to *messages*, if there is one."""
    messages.seek(0)
    lines = messages.read(_MESSAGES_MAX).decode("utf-8", "backslashreplace").strip().splitlines()
    return lines[-1] if lines else None


def wait_for(fd: int, seconds: float, checkpoint: Checkpoint = no_checkpoint) -> bool:
    """Wait until something comes from *fd*, or nothing any more; tell whether that was so within *seconds*.

    *checkpoint* is called meanwhile, and may raise what ends the work.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    end = time.monotonic() + seconds
    while not poll.poll(_SLICE * 1000):
        checkpoint()
        if time.monotonic() >= end:
            return False
    return True


def start(
    options: SkopeoOptions, command: Sequence[str], stdin: int, messages: BinaryIO, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a *command* of skopeo, whose messages go to a file.

    Raises:
        NotFoundError: there is no skopeo.
    """
    with _auth_file(options) as (path, fds):
        arguments = options.command(command, path)
        try:
            # In a session of its own: Ctrl-C is for us, who end it in good order.
            return subprocess.Popen(  # noqa: S603  # no shell
                arguments,
                stdin=stdin,
                stdout=stdout,
                stderr=messages,
                pass_fds=fds,
                cwd=options.directory,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            if error.filename != arguments[0]:
                raise
            raise NotFoundError(f"no program {arguments[0]}, which is wanted for this image") from None


@contextmanager
def _auth_file(options: SkopeoOptions) -> Iterator[tuple[str | None, tuple[int, ...]]]:
    """Yield a file with the credentials, and the descriptor that must be inherited; it has no name for others."""
    credentials = options.credentials
    if credentials is None:
        yield options.auth_file, ()
        return
    if credentials.identity_token is not None:
        entry = {"auth": "", "identitytoken": credentials.identity_token}
    else:
        pair = f"{credentials.username}:{credentials.password}"
        entry = {"auth": base64.b64encode(pair.encode()).decode()}
    fd = os.memfd_create("composefs-auth")
    try:
        os.write(fd, json.dumps({"auths": {options.host: entry}}).encode())
        yield f"/proc/self/fd/{fd}", (fd,)
    finally:
        os.close(fd)


def _shown(text: str) -> str:
    """Return a message of skopeo for people: without secrets, on one line, and not too long."""
    text = " ".join(_SECRET.sub("...", text).split())
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}..."
