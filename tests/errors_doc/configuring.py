"""What the configuration of the host says against an import; nothing is asked of a registry."""

import json
import os
from unittest import mock

from tests.errors_doc.cases import case
from tests.errors_doc.scene import Scene
from tests.hosts import auth

IMAGE = "docker://registry.example/space/app:1"
CONF = ".config/containers/registries.conf"
POLICY = ".config/containers/policy.json"


def refused(scene: Scene, files: dict[str, object], *arguments: str, **environ: str) -> str:
    """Import an image of a registry where the user's home has *files*, and return what is said."""
    home = scene.path / "home"
    for name, content in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(0o755)
    cleared = dict.fromkeys(("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"), "")
    cleared |= {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    with mock.patch.dict(os.environ, cleared | environ):
        return scene.refuses(*arguments or [IMAGE])


# policy.json


@case
def policy_rejects(scene: Scene) -> str:
    scopes = {"registry.example": [{"type": "reject"}]}
    return refused(scene, {POLICY: {"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": scopes}}})


@case
def policy_wants_signature(scene: Scene) -> str:
    return refused(scene, {POLICY: {"default": [{"type": "sigstoreSigned", "keyPath": "/etc/key.pub"}]}})


@case
def policy_broken(scene: Scene) -> str:
    return refused(scene, {POLICY: {"default": [{"type": "reject"}], "transport": {}}})


# registries.conf


@case
def registry_blocked(scene: Scene) -> str:
    return refused(scene, {CONF: '[[registry]]\nlocation = "registry.example"\nblocked = true\n'})


@case
def registries_conf_of_version_1(scene: Scene) -> str:
    return refused(scene, {CONF: '[registries.search]\nregistries = ["registry.example"]\n'})


@case
def location_without_host(scene: Scene) -> str:
    return refused(scene, {CONF: '[[registry]]\nprefix = "registry.example"\nlocation = "mirror/space"\n'})


@case
def short_for_several(scene: Scene) -> str:
    return refused(scene, {CONF: 'unqualified-search-registries = ["registry.example", "docker.io"]\n'}, "app:1")


# Credentials


@case
def auth_file_missing(scene: Scene) -> str:
    return refused(scene, {}, IMAGE, "--authfile", f"{scene.path}/auth.json")


@case
def auth_file_broken(scene: Scene) -> str:
    return refused(scene, {".docker/config.json": {"auths": {"registry.example": {"auth": "user:password"}}}})


@case
def helper_missing(scene: Scene) -> str:
    return refused(scene, {".docker/config.json": {"credHelpers": {"registry.example": "vault"}}})


@case
def helper_fails(scene: Scene) -> str:
    files = {
        ".docker/config.json": {"credHelpers": {"registry.example": "vault"}, "auths": {"other.example": auth()}},
        "bin/docker-credential-vault": "#!/bin/sh\nexit 1\n",
    }
    return refused(scene, files)


@case
def creds_without_password(scene: Scene) -> str:
    return refused(scene, {}, IMAGE, "--creds", "user")


# Connections


@case
def certificate_without_key(scene: Scene) -> str:
    (scene.path / "certs").mkdir()
    (scene.path / "certs/client.cert").touch()
    return refused(scene, {}, IMAGE, "--cert-dir", f"{scene.path}/certs")


@case
def proxy_of_another_kind(scene: Scene) -> str:
    return refused(scene, {}, HTTPS_PROXY="socks5://proxy.example:1080")
