"""What somebody chose instead of what the files of the host say."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from composefs.registry.endpoint import Credentials

NO_POLICY = "none"  # instead of the path of a policy.json


class AccessOptions(NamedTuple):
    """What is used instead of what the files say.

    Attributes:
        auth_file: the only file of credentials.
        credentials: for the registry that an image is named after, not for its mirrors.
        tls_verify: whether certificates are checked, everywhere.
        cert_dir: the only directory of certificates.
        policy: the policy.json, or `NO_POLICY`.
    """

    auth_file: str | None = None
    credentials: Credentials | None = None
    tls_verify: bool | None = None
    cert_dir: str | None = None
    policy: str | None = None
