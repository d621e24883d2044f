"""TLS contexts: one for each kind of settings in a process, since making one takes 60 ms."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from typing import NoReturn

from composefs.errors import FormatError, UsageError
from composefs.registry.endpoint import Tls

# Where distributions keep their CA certificates, for a Python that was not built for this one.
_SYSTEM_STORES = (
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
)


@lru_cache(maxsize=64)
def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return the context for *tls*.

    Servers are believed by the trust store of the system, which OpenSSL finds, also by `SSL_CERT_FILE` and
    `SSL_CERT_DIR`, and by the authorities of *tls*.

    Raises:
        FormatError: a file holds no certificate, or no key that belongs to it.
        UsageError: a key is encrypted.
        OSError: a file cannot be read; with its path.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _load_system_store(context)
        for path in tls.authorities:
            _load_authorities(context, path)
    for certificate, key in tls.certificates:
        _load_certificate(context, certificate, key)
    return context


def _load_system_store(context: ssl.SSLContext) -> None:
    context.load_default_certs()
    paths = ssl.get_default_verify_paths()  # None for what does not exist
    if paths.cafile is not None or (paths.capath is not None and os.listdir(paths.capath)):
        return
    for path in _SYSTEM_STORES:
        if os.path.exists(path):
            _load_authorities(context, path)
            return


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    _check_readable(path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise FormatError(path, 0, f"no certificates in PEM: {_reason(error)}") from None


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    _check_readable(certificate)
    _check_readable(key)

    def refuse() -> NoReturn:  # without this, OpenSSL asks at the terminal
        raise UsageError(f"{key}: the key is encrypted; only keys without a passphrase are used")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        raise FormatError(certificate, 0, f"no certificate in PEM with its key in {key}: {_reason(error)}") from None


def _check_readable(path: str) -> None:
    with open(path, "rb"):  # the ssl module's own failures name no path
        pass


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
