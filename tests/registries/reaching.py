"""How tests have an import reach the registries of this directory: as options, and as files of a host."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from composefs.hostconfig import NO_POLICY, AccessOptions, HostConfig
from composefs.oci.sources.access import Access
from composefs.registry.endpoint import Credentials


def reaching(
    *,
    credentials: Credentials | None = None,
    certificates: Path | None = None,
    environ: Mapping[str, str] | None = None,
    streams: int = 6,
) -> Access:
    """Return access to registries of plain HTTP, or to those with HTTPS by the CA in the directory *certificates*.

    Args:
        credentials: to show.
        certificates: a directory as --cert-dir takes it.
        environ: variables, such as `mirrored` gives; without them no file of the host says anything of registries.
        streams: connections at a time.
    """
    options = AccessOptions(
        credentials=credentials,
        tls_verify=certificates is not None,
        cert_dir=str(certificates) if certificates is not None else None,
        policy=NO_POLICY,
    )
    variables = {"CONTAINERS_REGISTRIES_CONF": os.devnull, **(environ or {})}
    return Access(host=HostConfig(variables, uid=65534, home=None, options=options), streams=streams)


def mirrored(directory: Path, registry: str, mirrors: Sequence[str]) -> dict[str, str]:
    """Write a registries.conf by which *registry* has *mirrors*, all of them host:port; return the variables for it."""
    path = directory / "registries.conf"
    lines = ["[[registry]]", f"location = {json.dumps(registry)}", "insecure = true"]
    for mirror in mirrors:
        lines += ["[[registry.mirror]]", f"location = {json.dumps(mirror)}", "insecure = true"]
    path.write_text("\n".join([*lines, ""]))
    return {"CONTAINERS_REGISTRIES_CONF": str(path)}
