"""The configuration of registries on this host: read where podman and skopeo read it, and when it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from composefs.hostconfig.files import read_file
from composefs.hostconfig.options import NO_POLICY, AccessOptions

if TYPE_CHECKING:
    from composefs.hostconfig.network import Network
    from composefs.hostconfig.policy import Policy
    from composefs.reference.names import RegistryName
    from composefs.reference.values import Reference
    from composefs.registry.endpoint import Credentials, Endpoint


class HostConfig:
    """What this host says of registries and of images.

    Files are read when they are needed, and once: for an image that lies in a directory, only policy.json.

    Args:
        environ: variables of the environment: where files are, proxies, and what credential helpers get.
        uid: of the user; root has the credentials of the host, too.
        home: directory of the user; None: there is none.
        options: what to use instead.
        root: what stands before /etc, /run, /usr and /var.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        uid: int,
        home: str | None,
        options: AccessOptions | None = None,
        root: str = "",
    ) -> None:
        self.options = options or AccessOptions()
        self._environ, self._uid, self._home, self._root = environ, uid, home, root

    def endpoints(self, name: RegistryName) -> Iterator[Endpoint]:
        """Return where to fetch the image *name* from: mirrors in their order, and last what the name itself says.

        Credentials are looked for when an endpoint is taken, so that no helper is asked in vain.  A mirror for which
        that fails is left out, with a warning.

        Raises:
            PolicyError: the image is blocked.
            FormatError: a file is broken; also from the iterator.
            ComposefsError: a credential helper fails; likewise.
            OSError: a file cannot be read; likewise.
        """
        return self.network.endpoints(name)

    def endpoint_to_push(self, name: RegistryName) -> Endpoint:
        """Return where to put the image *name*: at the registry that it names; mirrors and rewriting are for pulls.

        Raises:
            PolicyError: that registry is blocked.
            FormatError, ComposefsError, OSError: as of `endpoints`.
        """
        return self.network.endpoint_to_push(name)

    def find_credentials(self, name: RegistryName) -> tuple[Credentials, str] | None:
        """Return the credentials for the repository *name*, and the file or helper that has them.

        Raises:
            FormatError: a file is broken.
            ComposefsError: a credential helper fails.
            OSError: a file cannot be read.
        """
        return self.network.find_credentials(name)

    def full_names(self, short: str) -> tuple[RegistryName, ...]:
        """Return what the short name *short*, such as `fedora:42`, stands for.

        That is one name if there is an alias, and otherwise one for each of the unqualified-search-registries.

        Raises:
            FormatError: registries.conf is broken.
        """
        return self.network.full_names(short)

    def check_policy(self, reference: Reference, *, store: str | None = None, signatures_checked: bool = False) -> None:
        """See that the image *reference* may be taken, as policy.json says; where there is no such file, all may.

        Args:
            reference: as it was given.
            store: `DRIVER@ROOT` of the store, for an image of containers-storage.
            signatures_checked: whether somebody else sees to the signatures that the policy wants, as skopeo's proxy
                does from version 0.2.6 of its protocol on.

        Raises:
            PolicyError: it may not, or only with a signature.
            FormatError: policy.json is broken.
            OSError: policy.json cannot be read.
        """
        if self.policy is not None:
            self.policy.check(reference, store=store, signatures_checked=signatures_checked)

    @cached_property
    def policy(self) -> Policy | None:
        """What policy.json says; None: there is none, or none is wanted."""
        path = self.policy_path
        if path is None:
            return None
        data = read_file(path)
        if data is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        from composefs.hostconfig.policy import parse_policy  # noqa: PLC0415  # hosts without podman have none

        return parse_policy(data, path)

    @property
    def policy_path(self) -> str | None:
        """The policy.json that counts; None: there is none, or none is wanted.

        Raises:
            PermissionError: nobody shows whether there is one.
        """
        if self.options.policy is not None:
            return self.options.policy if self.options.policy != NO_POLICY else None
        user = f"{self._home}/.config/containers/policy.json"
        if self._home and os.path.lexists(user):
            return user
        system = f"{self._root}/etc/containers/policy.json"
        try:
            os.lstat(system)  # a link that leads nowhere is no permission, nor is a directory that is closed
        except (FileNotFoundError, NotADirectoryError):
            return None
        return system

    @cached_property
    def network(self) -> Network:
        """All that is for images in registries."""
        from composefs.hostconfig.network import Network  # noqa: PLC0415  # most images lie in a directory or file
        from composefs.hostconfig.places import Places  # noqa: PLC0415  # likewise

        return Network(Places(self._uid, self._home, self._environ, self._root), self.options)
