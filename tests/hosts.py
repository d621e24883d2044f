"""A host's configuration of registries, in a directory of a test."""

import base64
import json
from pathlib import Path

from composefs.hostconfig import AccessOptions, HostConfig

# In no message, log or argument: tests look for it.
SECRET = "Geheimnis-7f3a"
PATH = "/usr/bin:/bin"


def auth(username: str = "user", password: str = SECRET, token: str | None = None) -> dict[str, str]:
    """An entry of auth.json."""
    entry = {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}
    return entry | {"identitytoken": token} if token is not None else entry


class Host:
    """The files of a host below *root*, and of a user whose home is there."""

    def __init__(self, root: Path, uid: int = 1000) -> None:
        self.root, self.uid, self.home = root, uid, root / "home"
        self.environ = {"PATH": f"{root}/bin:{PATH}"}

    def write(self, path: str, content: object) -> Path:
        """Write *content*, text or what becomes JSON, to *path*; `~/` is the home."""
        target = self.home / path[2:] if path.startswith("~/") else self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.write_text(content if isinstance(content, str) else json.dumps(content))
        return target

    def helper(self, name: str, script: str) -> Path:
        """Make a credential helper of *script*, a shell's."""
        path = self.write(f"bin/docker-credential-{name}", f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def config(self, **options: object) -> HostConfig:
        """Return what is there now."""
        chosen = AccessOptions(**options)  # type: ignore[arg-type]
        return HostConfig(self.environ, uid=self.uid, home=str(self.home), options=chosen, root=str(self.root))
