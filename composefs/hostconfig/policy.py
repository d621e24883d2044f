"""policy.json: which images this host takes, by the transport that they come through and by where they are from.

    {"default": [REQUIREMENT...], "transports": {TRANSPORT: {SCOPE: [REQUIREMENT...]}}}

The most particular scope counts, and no other; all of its requirements must hold.  Signatures are not checked here: a
scope that wants them is refused, and skopeo, which checks them, can fetch such an image.

Source: containers-policy.json(5), and what skopeo 1.9.3 accepts and refuses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from composefs import limits
from composefs.errors import FormatError, PolicyError
from composefs.hostconfig.scopes import scopes_of
from composefs.json_text import parse_json
from composefs.reference.values import ArchiveReference, OtherReference, Reference, StorageReference, Transport

_ACCEPT, _REJECT = "insecureAcceptAnything", "reject"
_SIGNED = frozenset(["signedBy", "signedBaseLayer", "sigstoreSigned"])
_PATHS = frozenset(["dir", "oci", "oci-archive"])  # transports whose scopes are absolute paths

Requirements = tuple[str, ...]  # their types


class Policy(NamedTuple):
    """What a policy.json says.

    Attributes:
        source: the file.
        default: for all that has no scope.
        transports: requirements by transport and scope.
    """

    source: str
    default: Requirements
    transports: Mapping[str, Mapping[str, Requirements]]

    def check(self, reference: Reference, *, store: str | None = None, signatures_checked: bool = False) -> None:
        """See that the image *reference* may be taken.

        Args:
            reference: as it was given; mirrors have no part in this.
            store: `DRIVER@ROOT` of the store, for an image of containers-storage.
            signatures_checked: whether somebody else sees to the signatures that this policy wants.

        Raises:
            PolicyError: it may not, or only with a signature.
        """
        for transport in _transports(reference):
            if self._needs_more(transport, reference, store):
                what = "perhaps forbidden (which scope it is in cannot be told)"
                raise PolicyError(str(reference), what, f"the scopes of {transport}:", self.source)
            scope, requirements = self._find(transport, scopes_of(reference, transport, store))
            for requirement in requirements:
                _check(requirement, str(reference), scope, self.source, signatures_checked=signatures_checked)

    def _needs_more(self, transport: str, reference: Reference, store: str | None) -> bool:
        """Tell whether there are scopes of which nobody can say whether *reference* is in one."""
        known = self.transports.get(transport, {}).keys() - {""}
        return bool(known) and (
            isinstance(reference, OtherReference) or (isinstance(reference, StorageReference) and store is None)
        )

    def _find(self, transport: str, scopes: Iterable[str]) -> tuple[str, Requirements]:
        """Return the scope that counts, for messages, and its requirements."""
        known = self.transports.get(transport, {})
        for scope in (*scopes, ""):
            if scope in known:
                return f"{transport}:{scope}" if scope else f"all of {transport}:", known[scope]
        return "the default", self.default


def _transports(reference: Reference) -> tuple[str, ...]:
    """Return the transports that *reference* may be of; all have to accept it."""
    if isinstance(reference, ArchiveReference):
        return (Transport.OCI_ARCHIVE.value, Transport.DOCKER_ARCHIVE.value)
    if isinstance(reference, OtherReference):
        return (reference.prefix,)
    return (reference.transport.value,)


def _check(requirement: str, reference: str, scope: str, source: str, *, signatures_checked: bool) -> None:
    if requirement == _ACCEPT or (requirement in _SIGNED and signatures_checked):
        return
    what, remedy = f"accepted only if {requirement}, which is unknown here", None
    if requirement == _REJECT:
        what = "rejected"
    elif requirement in _SIGNED:
        what = f"accepted only with a signature ({requirement}), which is not checked here"
        remedy = "skopeo 1.13 and later check it: --via skopeo"
    raise PolicyError(reference, what, scope, source, remedy=remedy)


def parse_policy(data: bytes, source: str) -> Policy:
    """Return the policy that *data*, of the file *source*, says.

    Raises:
        FormatError: it says none; what is not understood might forbid something.
    """
    value = parse_json(data, source, max_size=limits.HOST_FILE_SIZE)
    _check_keys(value, {"default", "transports"}, source, "the policy")
    assert isinstance(value, dict)
    if "default" not in value:
        raise FormatError(source, 0, "has no default")
    transports = value.get("transports")
    if not isinstance(transports or {}, dict):
        raise FormatError(source, 0, "transports is no object")
    return Policy(
        source,
        _requirements(value["default"], source, "the default"),
        {transport: _parse_scopes(scopes, transport, source) for transport, scopes in (transports or {}).items()},
    )


def _parse_scopes(scopes: object, transport: str, source: str) -> dict[str, Requirements]:
    if not isinstance(scopes, dict):
        raise FormatError(source, 0, f"the scopes of {transport}: are no object")
    for scope in scopes:
        problem = _scope_problem(transport, scope) if scope else None
        if problem is not None:
            raise FormatError(source, 0, f"the scope {scope!r} of {transport}: {problem}")
    return {scope: _requirements(each, source, f"{transport}:{scope}") for scope, each in scopes.items()}


def _scope_problem(transport: str, scope: str) -> str | None:
    if transport in _PATHS and (scope == "/" or f"/{os.path.normpath(scope).lstrip('/')}" != scope):
        return "is no absolute path in its shortest form below /"
    if transport == "docker-archive":
        return 'can only be ""'
    if transport == "docker-daemon" and scope.startswith("sha256:"):
        return "is an ID, which says nothing of where an image is from"
    if transport == "containers-storage" and not scope.startswith("["):
        return "has no [STORE] before it"
    return None


def _requirements(value: object, source: str, where: str) -> Requirements:
    if not isinstance(value, list) or not value:
        raise FormatError(source, 0, f"{where} has no list of requirements")
    return tuple(_requirement_type(each, source, where) for each in value)


def _requirement_type(value: object, source: str, where: str) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise FormatError(source, 0, f"a requirement of {where} has no type")
    if kind in {_ACCEPT, _REJECT}:  # what others have is for who checks them
        _check_keys(value, {"type"}, source, f"the requirement {kind} of {where}")
    return kind


def _check_keys(value: Any, known: set[str], source: str, what: str) -> None:
    if not isinstance(value, dict):
        raise FormatError(source, 0, f"{what} is no JSON object")
    unknown = sorted(value.keys() - known)
    if unknown:
        raise FormatError(source, 0, f"{what} has the unknown key {unknown[0]!r}")
