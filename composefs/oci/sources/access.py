"""What a program says of how images are to be reached; without it, nothing of the host is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from composefs.hostconfig import HostConfig

STREAMS = 6  # connections to a registry at a time, as skopeo and podman have
LocalFetch = Literal["disabled", "auto", "zerocopy"]


@dataclass(frozen=True)
class Access:
    """How images are reached.

    Attributes:
        host: credentials, mirrors, certificates, proxies and policy of this host; None: none of it, as for a user who
            has configured nothing.
        via_skopeo: have skopeo fetch the image, whatever the transport.
        streams: connections to a registry at a time.
        spool: a directory for unnamed files of the size of an archive that is compressed, or comes from a pipe.
        local_fetch: how files of local container storage are taken over: copied; shared if that can be done; or shared,
            and an error if not.
        environ: the variables that say where the stores of local programs are, such as `DOCKER_HOST`.
    """

    host: HostConfig | None = None
    via_skopeo: bool = False
    streams: int = STREAMS
    spool: str = "/var/tmp"  # noqa: S108  # unnamed files only
    local_fetch: LocalFetch = "disabled"
    environ: dict[str, str] = field(default_factory=dict, repr=False)
