"""Options that say how images are reached, spelled as skopeo has them, and what this user's environment says."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from composefs.cli import logs, options
from composefs.cli.output import standard_input
from composefs.errors import UsageError

if TYPE_CHECKING:
    from composefs.hostconfig import HostConfig
    from composefs.oci.sources.access import Access
    from composefs.registry.endpoint import Credentials

_PASSWORD_MAX = 1 << 16  # bytes; tokens that take its place have some 1000


class _Creds:
    """A user and a password, which no message shows."""

    def __init__(self, username: str, password: str | None) -> None:
        self.username, self.password = username, password


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands have which fetch an image from somewhere."""
    group = add_registry_options(parser)
    group.add_argument(
        "--policy", metavar="PATH|none", help="policy.json that says which images are taken; none: take all"
    )
    group.add_argument("--via", choices=("skopeo",), help="have skopeo fetch the image, and check its signatures")


def add_registry_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that say how a registry is reached, also to put an image there; return their group."""
    parser.set_defaults(policy=None, via=None)  # which are about images that are fetched
    group = parser.add_argument_group("access", "instead of what podman's files on this host say")
    group.add_argument("--authfile", metavar="PATH", help="the file of credentials (default: podman's and Docker's)")
    group.add_argument(
        "--creds",
        type=_creds,
        metavar="USER[:PASSWORD]",
        help="credentials for the registry; others see them in the list of processes, unless the password is left "
        "out, and asked for",
    )
    group.add_argument("--password-stdin", action="store_true", help="read the password of --creds from standard input")
    group.add_argument(
        "--tls-verify",
        nargs="?",
        choices=("true", "false"),
        const="true",
        metavar="true|false",
        help="check certificates; if false, HTTP will do, too (default: true, unless registries.conf says insecure)",
    )
    group.add_argument("--cert-dir", metavar="PATH", help="certificates (*.crt, *.cert, *.key) for the registry")
    group.add_argument("--verbose", "-v", action="store_true", help="say which files and servers are used")
    group.add_argument(
        "--streams", type=options.positive, metavar="N", help="connections to a registry at a time (default: 6)"
    )
    return group


def access(arguments: argparse.Namespace) -> Access:
    """Return how images are reached, as *arguments* and the environment say.

    Raises:
        UsageError: the options do not fit together.
    """
    from dataclasses import replace

    from composefs.oci.sources.access import STREAMS

    logs.configure(arguments)
    return replace(
        host_access(),
        host=host_config(arguments),
        via_skopeo=arguments.via == "skopeo",
        streams=arguments.streams or STREAMS,
    )


def host_access() -> Access:
    """Return how images are reached, as the environment says."""
    from composefs.oci.sources.access import Access

    spool = os.environ.get("TMPDIR") or Access.spool
    return Access(host=host_config(), spool=spool, environ=dict(os.environ))


def host_config(arguments: argparse.Namespace | None = None) -> HostConfig:
    """Return the configuration of this host for this user, and *arguments* instead of it; nothing is read yet.

    Raises:
        UsageError: the options do not fit together.
    """
    from composefs.hostconfig import AccessOptions, HostConfig

    chosen = None
    if arguments is not None:
        for option in ("authfile", "cert_dir", "policy"):
            if getattr(arguments, option) == "":
                raise UsageError(f"--{option.replace('_', '-')} is empty")
        chosen = AccessOptions(
            auth_file=arguments.authfile,
            credentials=_credentials(arguments),
            tls_verify=arguments.tls_verify == "true" if arguments.tls_verify is not None else None,
            cert_dir=arguments.cert_dir,
            policy=arguments.policy,
        )
    return HostConfig(os.environ, uid=os.getuid(), home=_home(), options=chosen)


def full_reference(text: str, host: HostConfig) -> str:
    """Return the reference *text*; for a short name, such as `fedora:42`, what it stands for on this host.

    Raises:
        UsageError: it is none, or stands for several.
    """
    from composefs.reference.parsing import is_short_name

    if not is_short_name(text):
        return text
    names = host.full_names(text)
    if len(names) > 1:
        raise UsageError(f"{text!r} is short for any of {', '.join(f'docker://{name}' for name in names)}")
    return f"docker://{names[0].versioned()}" if names else text


def _home() -> str | None:
    home = os.environ.get("HOME")
    if home:
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _creds(text: str) -> _Creds:
    """Return user and password of *text*, for argparse; errors do not quote it."""
    username, colon, password = text.partition(":")
    if not username:
        raise argparse.ArgumentTypeError("there is no user before the colon")
    return _Creds(username, password if colon else None)


def _credentials(arguments: argparse.Namespace) -> Credentials | None:
    """Return what --creds says, with the password from wherever it is to come from."""
    given: _Creds | None = arguments.creds
    if given is None:
        if arguments.password_stdin:
            raise UsageError("--password-stdin needs --creds USER")
        return None
    from composefs.registry.endpoint import Credentials

    password = given.password
    if arguments.password_stdin:
        if password is not None:
            raise UsageError("--password-stdin is for a --creds without a password")
        password = _read_password()
    elif password is None:
        password = _ask_password(given.username)
    return Credentials(given.username, password)


def _read_password() -> str:
    line = standard_input().readline(_PASSWORD_MAX)
    if not line:
        raise UsageError("there is no password on standard input")
    if len(line) == _PASSWORD_MAX:
        raise UsageError(f"the password on standard input has {_PASSWORD_MAX} bytes or more")
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:  # which would quote it
        raise UsageError("the password on standard input is not UTF-8") from None


def _ask_password(username: str) -> str:
    import getpass

    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("--creds has no password, and there is no terminal to ask at; see --password-stdin")
    try:
        return getpass.getpass(f"password of {username}: ")
    except EOFError:
        raise UsageError("no password was given at the terminal") from None
