"""Who this host is to a registry: auth.json, in all its forms.

    {"auths": {KEY: {"auth": base64("user:password"), "identitytoken": TOKEN}},
     "credHelpers": {HOST: HELPER}, "credsStore": HELPER}

KEY is a host, a namespace or repository below it (`quay.io/example`), or what older programs wrote, a URL.  No value is
quoted in a message: values are secrets.

Source: containers-auth.json(5); the behaviour of skopeo 1.9.3, and of Docker for credsStore.
"""

from __future__ import annotations

import binascii
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from composefs import limits
from composefs.errors import FormatError
from composefs.hostconfig.files import read_file
from composefs.hostconfig.places import AuthFile
from composefs.json_text import parse_json
from composefs.registry.endpoint import Credentials

AskHelper = Callable[[str, str, str], Credentials | None]  # helper, registry, and the file that names the helper

_DOCKER_HUB = frozenset(["docker.io", "index.docker.io", "registry-1.docker.io"])
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"  # what Docker calls it in stores of credentials

_logger = logging.getLogger(__name__)


class AuthEntries(NamedTuple):
    """What an auth.json says; values of *auths* are secrets."""

    auths: Mapping[str, Any]
    helpers: Mapping[str, str]  # by host
    store: str | None  # the helper for all hosts


def find_in_files(name: str, files: Iterable[AuthFile], ask_helper: AskHelper) -> tuple[Credentials, str] | None:
    """Return the credentials for the repository *name*, and the file that has them, or names who has.

    Args:
        name: host[:port]/path.
        files: in the order in which they are asked; the first that has an entry counts.
        ask_helper: asks a credential helper.

    Raises:
        FormatError: a file is broken.
        FileNotFoundError: one that was asked for is missing.
        OSError: a file cannot be read.
    """
    for file in files:
        found = _find_in_file(name, file, ask_helper)
        if found is not None:
            _logger.debug("credentials for %s are in %s", name, file.path)
            return found, file.path
        _logger.debug("no credentials for %s in %s", name, file.path)
    return None


def read_auth_file(file: AuthFile) -> AuthEntries:
    """Return what *file* says, nothing if it is not there.

    Raises:
        FormatError: it is broken.
        FileNotFoundError: it is missing, and was asked for.
        OSError: it cannot be read.
    """
    try:
        data = read_file(file.path)
    except PermissionError:
        if not file.shared or os.access(os.path.dirname(file.path), os.X_OK):
            raise
        data = None  # nothing in there is for this user
    if data is None:
        if file.required:
            raise FileNotFoundError(2, "No such file or directory", file.path)
        return AuthEntries({}, {}, None)
    value = parse_json(data, file.path, max_size=limits.HOST_FILE_SIZE)
    if file.legacy:
        value = {"auths": value}
    if not isinstance(value, dict):
        raise FormatError(file.path, 0, "is no JSON object")
    auths, helpers, store = (value.get(key) for key in ("auths", "credHelpers", "credsStore"))
    if not isinstance(auths or {}, dict):
        raise FormatError(file.path, 0, "auths is no object")
    if not isinstance(helpers or {}, dict) or not all(isinstance(helper, str) for helper in (helpers or {}).values()):
        raise FormatError(file.path, 0, "credHelpers is no object of texts")
    if not isinstance(store or "", str):
        raise FormatError(file.path, 0, "credsStore is no text")
    return AuthEntries(auths or {}, helpers or {}, store or None)


def _find_in_file(name: str, file: AuthFile, ask_helper: AskHelper) -> Credentials | None:
    auths, helpers, store = read_auth_file(file)
    host = name.partition("/")[0]
    helper = _of_host(helpers, host)
    if helper is not None:
        return ask_helper(helper, host, file.path)
    key = next((key for key in _keys(name, file) if key in auths), None)
    if key is None:
        key = next((key for key in auths if _hub(_host_of_key(key, file)) == _hub(host)), None)
    found = _decode(auths[key], f"{file.path}, entry {key}") if key is not None else None
    if found is None and store is not None:
        return ask_helper(store, _DOCKER_HUB_KEY if host in _DOCKER_HUB else host, file.path)
    return found


def _keys(name: str, file: AuthFile) -> Iterator[str]:
    """Yield what may stand for the repository *name*, the most particular first."""
    if file.legacy:
        yield name.partition("/")[0]
        return
    while name:
        yield name
        name = name.rpartition("/")[0]


def _host_of_key(key: str, file: AuthFile) -> str:
    """Return the host that *key* is a URL of, or *key*."""
    host = key.removeprefix("http://").removeprefix("https://")
    return host.partition("/")[0] if file.legacy or host != key else key


def _hub(host: str) -> str:
    return "docker.io" if host in _DOCKER_HUB else host


def _of_host(helpers: Mapping[str, str], host: str) -> str | None:
    if host in helpers:
        return helpers[host]
    return next((helper for key, helper in helpers.items() if _hub(key) == _hub(host)), None)


def _decode(entry: object, source: str) -> Credentials | None:
    """Return what *entry* holds; None: it is the mark of a helper, which has it."""
    if not isinstance(entry, dict):
        raise FormatError(source, 0, "is no object")
    auth, token = entry.get("auth") or "", entry.get("identitytoken") or None
    if not isinstance(auth, str) or not isinstance(token, str | None):
        raise FormatError(source, 0, "auth or identitytoken is no text")
    try:
        text = binascii.a2b_base64(auth.replace("\r", "").replace("\n", ""), strict_mode=True).decode()
    except (binascii.Error, ValueError):  # also what is not ASCII or UTF-8; the error would quote it
        raise FormatError(source, 0, "auth is not base64 of UTF-8") from None
    username, colon, password = text.partition(":")
    if not colon:  # nothing to log in with, as Docker has it
        return Credentials(identity_token=token) if token is not None else None
    return Credentials(username, password.strip("\0"), token)
