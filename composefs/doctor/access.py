"""What this host says of registries and images, and which files say so: those that an import would read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from composefs.doctor.finding import Finding, Job, Status
from composefs.errors import FormatError
from composefs.hostconfig import HostConfig
from composefs.hostconfig.auth import read_auth_file
from composefs.hostconfig.registries import AUTH_FILES
from composefs.text import counted, describe_failure


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading files of one kind.

    Attributes:
        id: of the finding.
        title: of the finding.
        found: what they say, or why they cannot be read.
        problem: how it is with them, if they cannot be read.
        remedy: what to do then.
        needed_for: what cannot be done without them.
    """

    id: str
    title: str
    found: str
    problem: Status | None = None
    remedy: str | None = None
    needed_for: tuple[Job, ...] = ()


def find_readings(host: HostConfig) -> Iterator[Reading]:
    """Yield what *host* has: credentials, registries.conf, policy.json."""
    yield _read("registry.credentials", "credentials", lambda: _describe_credentials(host), "log in again")
    yield _read("registry.configuration", "registries.conf", lambda: _describe_registries(host), "correct the file")
    # Of every image it is asked whether it may be taken.
    yield _read("registry.policy", "policy.json", lambda: _describe_policy(host), "correct the file", (Job.IMPORT,))


def judge_reading(reading: Reading) -> Finding:
    """Return what *reading* means."""
    status = reading.problem or Status.OK
    return Finding(reading.id, reading.title, status, reading.found, reading.remedy, reading.needed_for)


def _read(name: str, title: str, describe: Callable[[], str], remedy: str, needed_for: tuple[Job, ...] = ()) -> Reading:
    try:
        return Reading(name, title, describe(), needed_for=needed_for)
    except PermissionError as error:
        found, problem, remedy = describe_failure(error), Status.UNKNOWN, "run it as the user who imports"
    except OSError as error:
        found, problem = describe_failure(error), Status.MISSING
    except FormatError as error:
        found, problem = f"{error.source}: {error.what}", Status.MISSING
    return Reading(name, title, found, problem, remedy, needed_for)


def _describe_credentials(host: HostConfig) -> str:
    helpers = host.network.registries.credential_helpers
    parts: list[str] = []
    for helper in helpers:
        if helper != AUTH_FILES:
            parts.append(f"docker-credential-{helper}")
            continue
        for file in host.network.places.auth_files(host.options.auth_file):
            entries = read_auth_file(file)
            count = len(entries.auths.keys() | entries.helpers.keys())
            if count or entries.store is not None:
                store = f", all others by docker-credential-{entries.store}" if entries.store is not None else ""
                parts.append(f"{file.path} ({counted(count, 'entry')}{store})")
    return ", then ".join(parts) if parts else "none: registries are asked anonymously"


def _describe_registries(host: HostConfig) -> str:
    registries = host.network.registries
    if not registries.files:
        return "none: every registry is asked itself"
    mirrors = sum(len(table.mirrors) for table in registries.tables)
    blocked = sum(table.blocked for table in registries.tables)
    numbers = f"{counted(len(registries.tables), 'registry')}, {counted(mirrors, 'mirror')}, {blocked} blocked"
    return f"{', '.join(registries.files)}: {numbers}"


def _describe_policy(host: HostConfig) -> str:
    policy = host.policy
    if policy is None:
        return "none: every image is taken"
    scopes = sum(len(scopes) for scopes in policy.transports.values())
    return f"{policy.source}: by default {' and '.join(policy.default)}, {counted(scopes, 'scope')}"
