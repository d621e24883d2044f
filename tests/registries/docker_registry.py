"""Debian's docker-registry, with what it stores in a directory of the test."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.registries.serving import HOST, serving
from tests.tools import require_tool


@dataclass(frozen=True)
class DockerRegistry:
    """A registry that runs.

    Attributes:
        port: of the loopback interface, plain HTTP.
        storage: its directory.
        log: what it prints, a line a request among others.
    """

    port: int
    storage: Path
    log: Path

    @property
    def address(self) -> str:
        """The host and port, as references have them."""
        return f"{HOST}:{self.port}"


@contextlib.contextmanager
def docker_registry(directory: Path, users: Mapping[str, str] | None = None) -> Iterator[DockerRegistry]:
    """Run a registry while the context lasts.

    Args:
        directory: for all its files; made if it is not there, and kept as it is if it is.
        users: passwords by user: basic authentication; none: it serves and takes everything.
    """
    program = require_tool("docker-registry")
    storage, log = directory / "storage", directory / "log"
    storage.mkdir(parents=True, exist_ok=True)
    if users:
        _write_passwords(directory / "htpasswd", users)

    def command(ports: Sequence[int]) -> Sequence[str]:
        config = directory / "config.json"  # YAML, as any JSON is
        config.write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "log": {"level": "info", "accesslog": {"disabled": False}},
                    "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
                    "http": {"addr": f"{HOST}:{ports[0]}", "relativeurls": True},
                    **({"auth": {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}} if users else {}),
                }
            )
        )
        return [program, "serve", str(config)]

    with serving(command, log) as (port,):
        yield DockerRegistry(port, storage, log)


def skopeo_copy(source: str, destination: str, *options: str) -> None:
    """Copy an image with skopeo, which verifies no TLS and wants no signatures."""
    command = [
        *(require_tool("skopeo"), "--insecure-policy", "copy", "--quiet"),
        *("--src-tls-verify=false", "--dest-tls-verify=false", *options, source, destination),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def _write_passwords(path: Path, users: Mapping[str, str]) -> None:
    """Write a password file as the registry wants it, which is bcrypt."""
    lines = []
    for user, password in users.items():
        done = subprocess.run(
            [require_tool("htpasswd"), "-niB", user], input=password, check=True, capture_output=True, text=True
        )
        lines.append(done.stdout.strip())
    path.write_text("".join(f"{line}\n" for line in lines))
