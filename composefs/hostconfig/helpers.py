"""Credential helpers: programs `docker-credential-NAME` that keep credentials, or get them from a cloud.

A helper gets the registry on its standard input, and says JSON on its standard output, which holds the secret: it is
neither logged nor quoted, also where it is no JSON.

Source: github.com/docker/docker-credential-helpers, README.md, "Development".
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from composefs import limits
from composefs.errors import ComposefsError, FormatError, LimitError, NotFoundError, UsageError
from composefs.json_text import parse_json
from composefs.registry.endpoint import Credentials

TIMEOUT = 60.0  # seconds; a guess: clouds answer within some, and people are asked for the password of a key
_NOTHING = b"credentials not found in native keychain"  # the one failure that is none
_TOKEN = "<token>"  # noqa: S105  # the user's name where the secret is an identity token


def ask_helper(
    name: str, registry: str, *, wanted_by: str, environ: Mapping[str, str], timeout: float = TIMEOUT
) -> Credentials | None:
    """Return what the helper *name* has for *registry*; None: nothing.

    Args:
        name: the program is `docker-credential-NAME`.
        registry: host[:port].
        wanted_by: the file that names the helper, for messages.
        environ: the variables of the helper, also to find it.
        timeout: seconds that it may take.

    Raises:
        UsageError: *name* is none.
        NotFoundError: there is no such program.
        FormatError: its answer is none.
        ComposefsError: it failed, or took too long.
    """
    if not name or "/" in name or "\0" in name:
        raise UsageError(f"{wanted_by}: {name!r} is no name of a credential helper")
    program = f"docker-credential-{name}"
    path = shutil.which(program, path=environ.get("PATH", os.defpath))  # without a path it would take this process's
    if path is None:
        raise NotFoundError(f"{program}, which {wanted_by} names for {registry}, is not in $PATH")
    status, answer = _run(path, registry, environ, timeout)
    if status is None:
        raise ComposefsError(f"{program} get, for {registry}: no answer within {timeout:g} seconds")
    if status != 0:
        if answer.strip() == _NOTHING:
            return None
        hint = f"try it: echo {registry} | {program} get"
        raise ComposefsError(f"{program} get, for {registry}: exit status {status}; {hint}")
    return _parse(answer, f"answer of {program} for {registry}")


def _run(path: str, registry: str, environ: Mapping[str, str], timeout: float) -> tuple[int | None, bytes]:
    """Return exit status and output of `PATH get`; without a status it was stopped, since its time was over."""
    # It stays in our process group: it may ask at the terminal, and Ctrl-C ends it, too.
    with subprocess.Popen(  # noqa: S603  # the configuration of the host says what to run
        [path, "get"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environ)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError), process.stdin:  # it may know without being asked
                process.stdin.write(registry.encode())
            deadline = time.monotonic() + timeout
            answer = _read(process.stdout, deadline)
            if answer is None:
                return None, b""
            if len(answer) > limits.HELPER_ANSWER_SIZE:  # perhaps there is no end
                return 0, answer
            return process.wait(max(deadline - time.monotonic(), 0.1)), answer
        except subprocess.TimeoutExpired:
            return None, b""
        finally:
            process.kill()  # one that has ended is not


def _read(pipe: IO[bytes], deadline: float) -> bytes | None:
    """Return all that comes out of *pipe*; None: its end did not come in time."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    answer = bytearray()
    while poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        piece = pipe.read1(1 << 16)  # type: ignore[attr-defined]  # a BufferedReader
        if not piece:
            return bytes(answer)
        answer += piece
        if len(answer) > limits.HELPER_ANSWER_SIZE:
            return bytes(answer)
    return None


def _parse(answer: bytes, source: str) -> Credentials:
    if len(answer) > limits.HELPER_ANSWER_SIZE:
        raise LimitError(source, 0, "bytes", limits.HELPER_ANSWER_SIZE)
    value = parse_json(answer, source, max_size=limits.HELPER_ANSWER_SIZE)
    if not isinstance(value, dict):
        raise FormatError(source, 0, "is no JSON object")
    username, secret = value.get("Username"), value.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise FormatError(source, 0, "has no texts Username and Secret")
    if username == _TOKEN:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)
