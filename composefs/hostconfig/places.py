"""Where the configuration of registries is, in the order in which it counts; nothing is opened.

Source: containers-auth.json(5), containers-registries.conf(5), containers-certs.d(5), and what skopeo
1.9.3 is seen to read; ostree's auth.json as bootc reads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from composefs.hostconfig.files import first_existing

_REGISTRIES_VARIABLES = ("CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH")


class AuthFile(NamedTuple):
    """A file of credentials."""

    path: str
    legacy: bool = False  # it is the map of registries itself
    required: bool = False  # somebody named this one
    shared: bool = False  # it is in a directory that others make, who may keep this user out


class RegistriesFiles(NamedTuple):
    """The files of registries.conf."""

    main: str
    directories: tuple[str, ...]  # of *.conf that change it, in this order
    required: bool = False  # somebody named this one


@dataclass(frozen=True)
class Places:
    """Where this user looks on this host.

    Attributes:
        uid: of the user.
        home: None: there is none.
        environ: variables of the environment; their values may be secrets.
        root: what stands before /etc, /run, /usr and /var.
    """

    uid: int
    home: str | None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    root: str = ""

    def auth_files(self, chosen: str | None = None) -> tuple[AuthFile, ...]:
        """Return the files of credentials; *chosen* is the one to use instead of all others.

        For root ostree's file goes before podman's: a host that boots its images has the credentials for them there.
        """
        if chosen is not None:
            return (AuthFile(chosen, required=True),)
        if named := self.environ.get("REGISTRY_AUTH_FILE"):
            return (AuthFile(named),)
        runtime = self.environ.get("XDG_RUNTIME_DIR") or f"{self.root}/run/containers/{self.uid}"
        inside = "containers/auth.json" if self.environ.get("XDG_RUNTIME_DIR") else "auth.json"
        paths = []
        if config := self.environ.get("XDG_CONFIG_HOME") or self._below_home(".config"):
            paths.append(f"{config}/containers/auth.json")
        if docker := self.environ.get("DOCKER_CONFIG") or self._below_home(".docker"):
            paths.append(f"{docker}/config.json")
        files = [AuthFile(f"{runtime}/{inside}", shared=not self.environ.get("XDG_RUNTIME_DIR"))]
        files += [AuthFile(path) for path in paths]
        if legacy := self._below_home(".dockercfg"):
            files.append(AuthFile(legacy, legacy=True))
        if booted := self._ostree_auth_file():
            files.insert(0, AuthFile(booted))
        return tuple(files)

    def registries(self) -> RegistriesFiles:
        """Return the files of registries.conf; that of a user makes those of the host void."""
        system = f"{self.root}/etc/containers/registries.conf"
        user = self._below_home(".config/containers/registries.conf")
        directories = (f"{system}.d", f"{user}.d") if user is not None else (f"{system}.d",)
        for variable in _REGISTRIES_VARIABLES:
            if named := self.environ.get(variable):
                return RegistriesFiles(named, directories, required=True)
        if user is not None and os.path.exists(user):
            return RegistriesFiles(user, (f"{user}.d",))
        return RegistriesFiles(system, directories)

    def short_name_aliases(self) -> str | None:
        """Return the file in which podman notes what users chose."""
        name = "containers/short-name-aliases.conf"
        if self.uid == 0:
            return f"{self.root}/var/cache/{name}"
        cache = self.environ.get("XDG_CACHE_HOME") or self._below_home(".cache")
        return f"{cache}/{name}" if cache is not None else None

    def certificates(self, host: str) -> tuple[str, ...]:
        """Return the directories of certificates for *host*, which is host[:port]; the first that exists counts."""
        user = self._below_home(".config/containers/certs.d")
        system = (f"{self.root}/etc/containers/certs.d", f"{self.root}/etc/docker/certs.d")
        return tuple(f"{directory}/{host}" for directory in (user, *system) if directory is not None)

    def _ostree_auth_file(self) -> str | None:
        if self.uid != 0:
            return None
        return first_existing(f"{self.root}/{where}/ostree/auth.json" for where in ("run", "etc", "usr/lib"))

    def _below_home(self, path: str) -> str | None:
        return f"{self.home}/{path}" if self.home else None
