"""Configuration of the host: auth.json, registries.conf, policy.json."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any
from unittest import mock

from composefs.errors import FormatError, PolicyError
from composefs.hostconfig import auth, registries
from composefs.hostconfig.places import AuthFile, RegistriesFiles
from composefs.hostconfig.policy import parse_policy
from composefs.reference import parse_name, parse_reference
from tests.fuzz.mutations import havoc, json_value
from tests.fuzz.target import Target

_SECRET = "Geheimnis-7f3a"
_AUTH = base64.b64encode(f"user:{_SECRET}".encode()).decode()
_NAMES = ("a.example/b/c", "docker.io/library/b", "localhost:5000/b")
_REFERENCES = ("docker://a.example/b:1", "oci:/srv/x", "docker-archive:/srv/x.tar", "containers-storage:b")
_WORDS = ["a.example", "https://index.docker.io/v1/", "vault", {"auth": _AUTH}, {"identitytoken": _SECRET}, {}, "YTpi"]
_TYPES = [
    {"type": "reject"},
    {"type": "insecureAcceptAnything"},
    {"type": "signedBy"},
    "/srv",
    "*.example",
    "oci",
    "dir",
]


def check_auth(data: bytes) -> bool:
    """Look for some names: whatever is found, its text does not show it."""
    taken = False
    for legacy in (False, True):
        for name in _NAMES:
            try:
                with mock.patch.object(auth, "read_file", return_value=data):
                    found = auth.find_in_files(name, [AuthFile("auth.json", legacy=legacy)], lambda *_: None)
            except FormatError as error:
                assert str(error).encode("utf-8", "backslashreplace")
                continue
            taken = True
            assert found is None or repr(found[0]) == "Credentials()"
    return taken


def check_registries(data: bytes) -> bool:
    """Ask for some names: each has places, the last of which is its own."""
    try:
        with mock.patch.object(registries, "read_file", return_value=data):
            found = registries.read_registries(RegistriesFiles("registries.conf", ()))
    except FormatError:
        return False
    for name in map(parse_name, _NAMES):
        places = _attempt(lambda name=name: found.sources(name))
        assert places is None or places[-1].name.host
        _attempt(lambda name=name: found.full_names("b:1"))
    return True


def check_policy(data: bytes) -> bool:
    """Ask whether some images may be taken: there is an answer."""
    policy = _attempt(lambda: parse_policy(data, "policy.json"))
    if policy is None:
        return False
    assert policy.default
    for reference in map(parse_reference, _REFERENCES):
        _attempt(lambda reference=reference: policy.check(reference, store="overlay@/srv"))
    return True


def _attempt(call: Callable[[], Any]) -> Any:
    """Return what *call* returns; None if it refuses."""
    try:
        return call()
    except (FormatError, PolicyError) as error:
        assert str(error).encode("utf-8", "backslashreplace")
        return None


def _auth_seeds() -> dict[str, bytes]:
    entries = {
        "a.example": {"auth": _AUTH},
        "a.example/b": {"auth": _AUTH, "identitytoken": _SECRET},
        "https://index.docker.io/v1/": {},
    }
    helpers = {"localhost:5000": "vault"}
    files = {"auths": {"auths": entries}, "legacy": entries, "helpers": {"credHelpers": helpers, "credsStore": "pass"}}
    return {f"{name}.json": json.dumps(value).encode() for name, value in files.items()}


def _registries_seeds() -> dict[str, bytes]:
    mirrors = """\
[[registry]]
prefix = "a.example/b"
location = "localhost:5000/b"
[[registry.mirror]]
location = "b.example"
insecure = true
pull-from-mirror = "digest-only"
[[registry]]
prefix = "*.example"
blocked = true
"""
    lists = """\
unqualified-search-registries = ["docker.io", "a.example"]
credential-helpers = ["containers-auth.json", "vault"]
short-name-mode = "enforcing"
[aliases]
"b" = "a.example/c"
"""
    first = '[registries.search]\nregistries = ["docker.io"]\n'
    files = {"mirrors": mirrors, "lists": lists, "version-1": first}
    return {f"{name}.conf": text.encode() for name, text in files.items()}


def _policy_seeds() -> dict[str, bytes]:
    accept, reject, signed, *_ = _TYPES
    scopes = {"a.example/b:1": [accept], "a.example": [reject], "*.example": [signed], "": [accept, reject]}
    transports = {
        "docker": scopes,
        "oci": {"/srv": [reject]},
        "docker-archive": {"": [signed]},
        "containers-storage": {"[overlay@/srv]": [accept]},
    }
    files = {"default": {"default": [accept]}, "scopes": {"default": [reject], "transports": transports}}
    return {f"{name}.json": json.dumps(value).encode() for name, value in files.items()}


def _mutate_auth(chance: random.Random, data: bytes) -> bytes:
    return json_value(chance, data, _WORDS)


def _mutate_registries(chance: random.Random, data: bytes) -> bytes:
    return havoc(chance, data, [b"a.example", b"true", b"[[registry]]\n", b'"all"', b"/", b"*.", b"[registry]\n"])


def _mutate_policy(chance: random.Random, data: bytes) -> bytes:
    return json_value(chance, data, _TYPES)


AUTH = Target("auth", check_auth, _mutate_auth, _auth_seeds)
REGISTRIES = Target("registries", check_registries, _mutate_registries, _registries_seeds)
POLICY = Target("policy", check_policy, _mutate_policy, _policy_seeds)
