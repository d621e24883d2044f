"""URLs as servers send them: whom they are about, and what of them may be shown."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

Origin = tuple[str, str, int]  # scheme, host in lower case, port: whom a password is for


def url_origin(url: str) -> Origin:
    """Return whom *url* asks.

    Raises:
        ValueError: nobody that HTTP leads to.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no URL of a server")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def is_http_url(url: str) -> bool:
    """Return whether *url* leads to a server of HTTP."""
    try:
        url_origin(url)
    except ValueError:
        return False
    return True


def url_host(url: str) -> str:
    """Return host[:port] of *url*, for messages."""
    return urlsplit(url).netloc.rpartition("@")[2]


def url_secrets(url: str) -> tuple[str, ...]:
    """Return the query of *url*, which may sign it, whole and in its parts; servers repeat them in errors."""
    query = urlsplit(url).query
    if not query:
        return ()
    as_sent = (part.partition("=")[2] for part in query.split("&"))
    return (query, *as_sent, *(value for _, value in parse_qsl(query)))
