"""certs.d: the certificates for a registry, in a directory that has its name.

`*.crt` are authorities that are believed beside those of the system; `NAME.cert` is shown to the registry, with the key
`NAME.key`.

Source: containers-certs.d(5).
"""

from __future__ import annotations

import logging
import os

from composefs.errors import NotFoundError

_logger = logging.getLogger(__name__)


def find_certificates(directory: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the files of authorities, and those of client certificates, each with its key, in *directory*.

    Raises:
        NotFoundError: a certificate has no key, or a key no certificate.
        OSError: *directory* cannot be read.
    """
    names = set(os.listdir(directory))
    _logger.debug("certificates are in %s: %s", directory, ", ".join(sorted(names)) or "none")
    for name in names:
        stem, dot, extension = name.rpartition(".")
        other = {"cert": "key", "key": "cert"}.get(extension)
        if dot and other is not None and f"{stem}.{other}" not in names:
            hint = " (an authority's ends in .crt)" if extension == "cert" else ""
            raise NotFoundError(f"{directory}/{name} has no {stem}.{other} beside it{hint}")
    authorities = tuple(f"{directory}/{name}" for name in sorted(names) if name.endswith(".crt"))
    stems = sorted(name.removesuffix(".cert") for name in names if name.endswith(".cert"))
    return authorities, tuple((f"{directory}/{stem}.cert", f"{directory}/{stem}.key") for stem in stems)
