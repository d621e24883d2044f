"""nginx before a registry, for what registries do that Debian's alone does not."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.registries.serving import HOST, serving
from tests.registries.tls import Certificate
from tests.tools import require_tool

SIGNATURE = "signature=f3a1c0ffee"  # the query of a redirected blob, which is a secret as in signed URLs


@dataclass(frozen=True)
class Front:
    """What nginx does to the requests that it passes on.

    Attributes:
        users: passwords by user: basic authentication; none: it asks for nobody.
        redirects_blobs: GET and HEAD of a blob are answered by 307, to a second server on another port of this host,
            which answers 400 to a request that has Authorization, or lacks the query `SIGNATURE`.
        requests_per_second: more are answered by 429 and *retry_after*; None: any number.
        retry_after: the header's value.
        strips_range: requests have lost their Range, so answers are 200 and whole.
        limit_rate: bytes per second of each answer, as nginx writes it ("25m"); None: any.
        tls: serve HTTPS with this certificate; None: HTTP.
        client_authority: with *tls*: serve only who has a certificate of this CA (PEM file).
    """

    users: Mapping[str, str] = field(default_factory=dict)
    redirects_blobs: bool = False
    requests_per_second: int | None = None
    retry_after: str = "1"
    strips_range: bool = False
    limit_rate: str | None = None
    tls: Certificate | None = None
    client_authority: Path | None = None


@dataclass(frozen=True)
class Nginx:
    """An nginx that runs.

    Attributes:
        port: of the loopback interface.
        blob_port: of the server that blobs are redirected to.
    """

    port: int
    blob_port: int
    directory: Path

    @property
    def address(self) -> str:
        """The host and port, as references have them."""
        return f"{HOST}:{self.port}"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What has been answered: port, method, uri, status, sent (bytes of body), range, authorization."""
        lines = (self.directory / "access").read_text().splitlines()
        return [{**line, "status": int(line["status"]), "sent": int(line["sent"])} for line in map(json.loads, lines)]


@contextlib.contextmanager
def nginx(directory: Path, upstream: int, front: Front | None = None) -> Iterator[Nginx]:
    """Run nginx while the context lasts.

    Args:
        directory: for all its files; made if it is not there.
        upstream: the port of the registry, plain HTTP.
        front: what it does; by default it only passes on.
    """
    program = require_tool("nginx")
    directory.mkdir(parents=True, exist_ok=True)
    wanted = front or Front()
    if wanted.users:
        passwords = "".join(f"{user}:{_hash(password)}\n" for user, password in wanted.users.items())
        (directory / "passwords").write_text(passwords)

    def command(ports: Sequence[int]) -> Sequence[str]:
        config = directory / "nginx.conf"
        config.write_text(_config(directory, upstream, wanted, *ports))
        return [program, "-p", str(directory), "-e", str(directory / "errors"), "-c", str(config)]

    with serving(command, directory / "log", 2) as (port, blob_port):
        yield Nginx(port, blob_port, directory)


def _hash(password: str) -> str:
    command = [require_tool("openssl"), "passwd", "-apr1", "-stdin"]
    return subprocess.run(command, input=password, check=True, capture_output=True, text=True).stdout.strip()


_FORMAT = (
    '{"port":"$server_port","method":"$request_method","uri":"$request_uri","status":"$status",'
    '"sent":"$body_bytes_sent","range":"$http_range","authorization":"$http_authorization"}'
)


def _config(directory: Path, upstream: int, front: Front, port: int, blob_port: int) -> str:
    temporary = "\n".join(f"    {kind}_temp_path {directory}/{kind};" for kind in _TEMPORARY)
    zone = ""
    if front.requests_per_second is not None:
        zone = f"limit_req_zone $server_port zone=all:1m rate={front.requests_per_second}r/s;"
    scheme = "https" if front.tls else "http"
    redirect = f"""
        location ~ ^/v2/.*/blobs/[a-z0-9]+:[0-9a-f]+$ {{
            if ($request_method ~ ^(GET|HEAD)$) {{
                return 307 {scheme}://{HOST}:{blob_port}$uri?{SIGNATURE};
            }}
            proxy_pass http://{HOST}:{upstream};
        }}"""
    # One process, so that no user is changed, and the end of one is the end of all.
    return f"""
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/errors warn;
events {{ worker_connections 512; }}
http {{
{temporary}
    log_format requests escape=json '{_FORMAT}';
    access_log {directory}/access requests;
    {zone}
    client_max_body_size 0;
    proxy_http_version 1.1;
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-Proto $scheme;
    {'proxy_set_header Range "";' if front.strips_range else ""}
    {f"limit_rate {front.limit_rate};" if front.limit_rate else ""}
    server {{
        {_listen(port, front)}
        {_guard(directory, front)}
        {redirect if front.redirects_blobs else ""}
        location / {{
            proxy_pass http://{HOST}:{upstream};
        }}
    }}
    server {{
        {_listen(blob_port, front)}
        if ($http_authorization) {{ return 400 "Only one auth mechanism allowed"; }}
        if ($args != "{SIGNATURE}") {{ return 403; }}
        location / {{
            proxy_pass http://{HOST}:{upstream};
        }}
    }}
}}
"""


_TEMPORARY = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")


def _listen(port: int, front: Front) -> str:
    if front.tls is None:
        return f"listen {HOST}:{port};"
    lines = [
        f"listen {HOST}:{port} ssl;",
        f"ssl_certificate {front.tls.certificate};",
        f"ssl_certificate_key {front.tls.key};",
    ]
    if front.client_authority is not None:
        lines += [f"ssl_client_certificate {front.client_authority};", "ssl_verify_client on;"]
    return " ".join(lines)


def _guard(directory: Path, front: Front) -> str:
    """Return what keeps requests out."""
    lines = []
    if front.users:
        lines += ['auth_basic "a test";', f"auth_basic_user_file {directory}/passwords;"]
    if front.requests_per_second is not None:
        lines += ["limit_req zone=all;", "limit_req_status 429;", f"add_header Retry-After {front.retry_after} always;"]
    return " ".join(lines)
