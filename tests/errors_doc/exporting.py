"""Why an image does not get out of a repository."""

import json
from unittest import mock

from composefs import Repository
from composefs.oci.importer import import_image
from composefs.registry import session
from composefs.registry.pool import close_connections
from tests.errors_doc.cases import case
from tests.errors_doc.scene import FILES, Scene
from tests.layouts import files_layer, image_layout
from tests.registries import answers
from tests.registries.scripted import Answer, ScriptedServer


def exported(scene: Scene, place: str, *arguments: str) -> str:
    """Export the image `os` to *place*, and return what is said."""
    return scene.run("oci", "export", "os", place, "--progress", "none", *arguments)


def stored(scene: Scene) -> None:
    """Store the image `os`."""
    layout = image_layout(scene.path / "layout", [files_layer(FILES)])
    with Repository.open(scene.made()) as repository:
        import_image(repository, str(layout), name="os", workers=1)


def pushed(scene: Scene, name: str, answer: Answer) -> str:
    """Push the image `os` to a registry which gives that *answer* to POST, and return what is said."""
    stored(scene)
    with ScriptedServer() as server, mock.patch.multiple(session, _FIRST_BACKOFF=0.01):
        server.always("^POST", answer)
        said = exported(scene, f"docker://{server.address}/{name}", "--tls-verify=false")
        close_connections()
        return said.replace(server.address, "registry.example")


@case
def export_into_other_files(scene: Scene) -> str:
    stored(scene)
    (scene.path / "documents").mkdir()
    (scene.path / "documents/letter").touch()
    return exported(scene, f"oci:{scene.path}/documents:1")


@case
def export_of_a_broken_object(scene: Scene) -> str:
    stored(scene)
    path = next(path for path in scene.repository.glob("objects/??/*") if path.stat().st_size == 20_000)
    path.chmod(0o644)
    path.write_bytes(bytes(20_000))
    return exported(scene, f"oci:{scene.path}/new:1")


@case
def export_to_the_wrong_kind(scene: Scene) -> str:
    stored(scene)
    return exported(scene, "docker-daemon:app:1")


@case
def export_refused(scene: Scene) -> str:
    denied = json.dumps({"errors": [{"code": "DENIED", "message": "requested access is denied"}]}).encode()
    return pushed(scene, "space/app:1", answers.say(403, {"Content-Type": "application/json"}, denied))


@case
def export_of_another_manifest(scene: Scene) -> str:
    return pushed(
        scene, f"space/app@sha256:{'1' * 64}", answers.say(202, {"Location": "/v2/space/app/blobs/uploads/1"})
    )
