"""Names of images in registries: `HOST[:PORT]/PATH[:TAG][@DIGEST]`, and what they are in full.

Source: github.com/distribution/reference, grammar and normal form; OCI distribution specification 1.1.
"""

from __future__ import annotations

import re

from composefs.errors import UsageError
from composefs.reference.value import Value

DOCKER_HUB = "docker.io"
CREDENTIALS = "a reference holds no credentials; give them by --creds or --authfile"
_NAME_MAX = 255  # characters of host and repository
_PORT_MAX = 65535
# Expressions are compiled when they are needed: most references are paths.
_COMPONENT = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = f"{_COMPONENT}(?:/{_COMPONENT})*"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::([0-9]{{1,5}}))?"
_TAG = "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_HEX = "[0-9a-f]+"
_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}  # of a digest, in hexadecimal


class RegistryName(Value):
    """The name of an image in a registry, in full: `docker.io/library/fedora:42`.

    Attributes:
        host: with the port, if there is one; lower case.
        digest: decides what is fetched; a tag beside it is a label.
    """

    __slots__ = ("digest", "host", "repository", "tag")

    def __init__(self, host: str, repository: str, tag: str | None, digest: str | None) -> None:
        self.host, self.repository, self.tag, self.digest = host, repository, tag, digest

    @property
    def wanted(self) -> str:
        """What is asked for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    @property
    def without_version(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}"

    def versioned(self) -> RegistryName:
        """Return this with the tag `latest`, if it has neither tag nor digest."""
        return self if self.tag or self.digest else RegistryName(self.host, self.repository, "latest", None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.without_version}{tag}{digest}"


def parse_name(text: str) -> RegistryName:
    """Return the name *text* of an image in full; without a host it is one of Docker Hub.

    Raises:
        UsageError: it is no name.
    """
    if has_credentials(text):
        raise UsageError(CREDENTIALS)
    rest, at, digest = text.partition("@")
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        path, colon, tag = rest, "", ""
    host, repository = _split_host(path)
    problem = (
        _host_problem(host)
        or _repository_problem(repository, has_host=host is not None)
        or (_tag_problem(tag) if colon else None)
        or (_digest_problem(digest) if at else None)
    )
    if problem is not None:
        raise UsageError(f"{text!r} is no name of an image in a registry: {problem}")
    name = RegistryName(*_normal(host, repository), tag or None, digest or None)
    if len(name.without_version) > _NAME_MAX:
        raise UsageError(f"{text!r} is no name of an image in a registry: more than {_NAME_MAX} characters")
    return name


def names_host(text: str) -> bool:
    """Tell whether what stands before the first slash can only be the host of a registry."""
    return _split_host(text)[0] is not None


def has_credentials(text: str) -> bool:
    """Tell whether *text* looks like `USER:PASSWORD@HOST[/...]`, which is not to be shown to anybody."""
    before, at, after = text.rpartition("@")
    if not at or "/" in after:  # which no digest holds
        return bool(at)
    host = _split_host(f"{after}/")[0]
    is_digest = after.partition(":")[0] in _DIGITS
    return ":" in before and not is_digest and host is not None and _host_problem(host) is None


def _split_host(path: str) -> tuple[str | None, str]:
    first, slash, rest = path.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return None, path


def _normal(host: str | None, repository: str) -> tuple[str, str]:
    host = host.lower() if host is not None else DOCKER_HUB
    if host == "index.docker.io":
        host = DOCKER_HUB
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return host, repository


def _host_problem(host: str | None) -> str | None:
    if host is None:
        return None
    match = re.fullmatch(_HOST, host)
    if match is None:
        return f"{host!r} is no HOST[:PORT]"
    if match[1] is not None and not 0 < int(match[1]) <= _PORT_MAX:
        return f"there is no port {match[1]}"
    return None


def _repository_problem(repository: str, *, has_host: bool) -> str | None:
    if not repository:
        return "the name is empty"
    if not has_host and len(repository) == _DIGITS["sha256"] and re.fullmatch(_HEX, repository):
        return "64 hexadecimal digits are an ID or a digest (NAME@sha256:DIGITS)"
    if re.fullmatch(_REPOSITORY, repository):
        return None
    if re.fullmatch(_REPOSITORY, repository.lower()):
        return f"{repository!r} is not all lower case"
    return f"{repository!r} is no path of letters, digits, and single '.', '_' or '-' between them"


def _tag_problem(tag: str) -> str | None:
    if re.fullmatch(_TAG, tag):
        return None
    return f"{tag!r} is no tag" if tag else "the tag is empty"


def _digest_problem(digest: str) -> str | None:
    algorithm, _, digits = digest.partition(":")
    count = _DIGITS.get(algorithm)
    if count is None:
        return f"{digest!r} is no digest; wanted {', '.join(_DIGITS)}, a colon and the digits"
    if len(digits) != count or not re.fullmatch(_HEX, digits):
        return f"{digest!r} is no digest; {algorithm} has {count} hexadecimal digits, in lower case"
    return None
