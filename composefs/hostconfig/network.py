"""How registries are reached from this host: where an image is fetched from, as whom, and whom to believe."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from composefs.errors import ComposefsError
from composefs.hostconfig.auth import find_in_files
from composefs.hostconfig.certs import find_certificates
from composefs.hostconfig.files import first_existing
from composefs.hostconfig.helpers import ask_helper
from composefs.hostconfig.options import AccessOptions
from composefs.hostconfig.places import Places
from composefs.hostconfig.proxies import find_proxies
from composefs.hostconfig.registries import AUTH_FILES, PullSource, Registries, read_aliases, read_registries
from composefs.reference.names import RegistryName
from composefs.registry.endpoint import Credentials, Endpoint, Proxies, Tls

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """What *places* say of registries, and *options* instead; see `HostConfig`, which has the same methods."""

    places: Places
    options: AccessOptions

    @cached_property
    def registries(self) -> Registries:
        """What registries.conf says."""
        return read_registries(self.places.registries())

    @cached_property
    def proxies(self) -> Proxies:
        """The proxies of the environment."""
        return find_proxies(self.places.environ)

    def endpoints(self, name: RegistryName) -> Iterator[Endpoint]:
        """Return where to fetch the image *name* from."""
        return self._endpoints(name, self.registries.sources(name))  # what is blocked is refused now

    def endpoint_to_push(self, name: RegistryName) -> Endpoint:
        """Return where to put the image *name*."""
        self.registries.check_blocked(name)
        return self._endpoint(PullSource(name, self.registries.is_insecure(name)), name)

    def find_credentials(self, name: RegistryName) -> tuple[Credentials, str] | None:
        """Return the credentials for the repository *name*, and what has them."""
        failures: list[ComposefsError] = []
        for helper in self.registries.credential_helpers:
            try:
                found = self._ask(helper, name)
            except ComposefsError as error:
                failures.append(error)  # another may know
                continue
            if found is not None:
                return found
        if failures:
            raise failures[0]
        return None

    def full_names(self, short: str) -> tuple[RegistryName, ...]:
        """Return what the short name *short* stands for."""
        noted = self.places.short_name_aliases()
        return self.registries.full_names(short, read_aliases(noted) if noted is not None else ())

    def _endpoints(self, name: RegistryName, sources: tuple[PullSource, ...]) -> Iterator[Endpoint]:
        for source in sources[:-1]:
            try:
                self.registries.check_blocked(source.name)
                endpoint = self._endpoint(source, name)
            except ComposefsError as error:
                _logger.warning("the mirror %s is left out: %s", source.name, error)
                continue
            yield endpoint
        yield self._endpoint(sources[-1], name)

    def _endpoint(self, source: PullSource, wanted: RegistryName) -> Endpoint:
        """Return the place *source* of the image that is called *wanted*."""
        host, insecure = source.name.host, source.insecure
        # What was given is for the registry that was named, and no mirror gets it.
        credentials = self.options.credentials if host == wanted.host else None
        if credentials is None:
            found = self.find_credentials(source.name)
            credentials = found[0] if found is not None else None
        if self.options.tls_verify is not None:
            insecure = not self.options.tls_verify
        endpoint = Endpoint(
            host=host,
            repository=source.name.repository,
            plain_http=insecure,
            tls=self._tls(host, verify=not insecure),
            credentials=credentials,
            proxies=self.proxies,
        )
        _logger.debug("a place for %s: %s", wanted, endpoint)
        return endpoint

    def _tls(self, host: str, *, verify: bool) -> Tls:
        directory = self.options.cert_dir or first_existing(self.places.certificates(host))
        if directory is None:
            return Tls(verify)
        try:
            authorities, certificates = find_certificates(directory)
        except PermissionError:
            if self.options.cert_dir is not None:
                raise
            return Tls(verify)  # it is for others
        return Tls(verify, authorities, certificates)

    def _ask(self, helper: str, name: RegistryName) -> tuple[Credentials, str] | None:
        """Return what *helper*, an entry of credential-helpers, has for *name*."""
        if helper == AUTH_FILES:
            files = self.places.auth_files(self.options.auth_file)
            return find_in_files(name.without_version, files, self._ask_helper)
        found = self._ask_helper(helper, name.host, self.registries.helpers_source)
        return (found, f"docker-credential-{helper}") if found is not None else None

    def _ask_helper(self, helper: str, registry: str, wanted_by: str) -> Credentials | None:
        return ask_helper(helper, registry, wanted_by=wanted_by, environ=self.places.environ)
