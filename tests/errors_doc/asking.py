"""What a registry says, or does, against an import; it is a server of this machine, called `registry.example`."""

import json
from collections.abc import Callable
from unittest import mock

from composefs.registry import session
from composefs.registry.pool import close_connections
from tests.errors_doc.cases import case
from tests.errors_doc.scene import FILES, Scene
from tests.layouts import files_layer, image_layout
from tests.registries import answers, honest
from tests.registries.scripted import ScriptedServer

IMAGE = "space/app"
_SHORT = {"_FIRST_BACKOFF": 0.01, "_FIRST_PAUSE": 0.01}  # nobody has to wait for the next try


def asked(scene: Scene, prepare: Callable[[ScriptedServer], object], *arguments: str, tag: str = "1") -> str:
    """Import an image of a registry that *prepare* has changed, and return what is said."""
    layout = image_layout(scene.path / "layout", [files_layer(FILES)])
    with ScriptedServer() as server, mock.patch.multiple(session, **_SHORT):
        server.contents.put_layout(layout.path, IMAGE, "1")
        prepare(server)
        name = f"docker://{server.address}/{IMAGE}:{tag}"
        said = scene.refuses(name, *arguments or ["--tls-verify=false"], "--policy", "none")
        close_connections()
        return said.replace(server.address, "registry.example")


@case
def registry_has_no_such_image(scene: Scene) -> str:
    return asked(scene, lambda _: None, tag="2")


@case
def registry_wants_credentials(scene: Scene) -> str:
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    return asked(scene, lambda server: server.always("", answers.say(401, challenge)))


@case
def registry_refuses_credentials(scene: Scene) -> str:
    def prepare(server: ScriptedServer) -> None:
        server.tokens = honest.Tokens(users={"user": "another"})

    return asked(scene, prepare, "--tls-verify=false", "--creds", "user:hunter22")


@case
def registry_asks_too_much(scene: Scene) -> str:
    def prepare(server: ScriptedServer) -> None:
        server.tokens = honest.Tokens(realm="https://10.0.0.1/token")

    return asked(scene, prepare, "--tls-verify=false", "--creds", "user:hunter22")


@case
def registry_without_tls(scene: Scene) -> str:
    return asked(scene, lambda _: None, "--tls-verify=true")


@case
def registry_is_down(scene: Scene) -> str:
    return asked(scene, lambda server: server.__exit__())


@case
def registry_fails(scene: Scene) -> str:
    return asked(scene, lambda server: server.always("manifests", answers.say(503, {}, b"upstream is down")))


@case
def registry_has_enough(scene: Scene) -> str:
    message = "You have reached your pull rate limit"
    body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": message}]}).encode()
    return asked(scene, lambda server: server.always("manifests", answers.say(429, {"Retry-After": "0"}, body)))


@case
def registry_hangs_up(scene: Scene) -> str:
    return asked(scene, lambda server: server.always("manifests", answers.hang_up()))


@case
def registry_gives_another_manifest(scene: Scene) -> str:
    return asked(scene, lambda server: server.always("GET .*manifests", answers.flip(20)))


@case
def registry_of_schema_1(scene: Scene) -> str:
    signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    answer = answers.say(200, {"Content-Type": signed}, b'{"schemaVersion": 1}')
    return asked(scene, lambda server: server.always("manifests", answer))
