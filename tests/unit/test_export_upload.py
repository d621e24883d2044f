"""Exports to a registry: blobs first, the name last, and none if anything fails."""

import threading
import time

import pytest

from composefs.errors import AuthenticationError, RegistryError, UsageError
from composefs.oci.export.events import ExportStarted, LayerExported, Sending
from composefs.oci.export.exporter import export_image
from composefs.oci.importer import import_image
from composefs.oci.manifest import Compression
from composefs.oci.sources.access import Access
from composefs.registry.endpoint import Endpoint
from tests.layouts import files_layer, image_layout, noise
from tests.registries import answers
from tests.registries.honest import refusal
from tests.unit.test_export import foreign
from tests.unit.test_registry_upload import Uploads

FILES = [{"usr/a": noise(100_000)}, {"usr/b": b"words " * 5000}]
EVERY_CHANGE = "^(POST|PUT|PATCH|GET .*/uploads/|DELETE)"


class Here:
    """A host that reaches every registry without TLS."""

    def endpoint_to_push(self, image):
        return Endpoint(image.host, image.repository, plain_http=True)


pytestmark = pytest.mark.usefixtures("quick_retries", "no_flush")


@pytest.fixture
def image(repository, tmp_path):
    """An image that can be made again."""
    layers = [files_layer(FILES[0]), files_layer(FILES[1], "gzip")]
    return import_image(repository, str(image_layout(tmp_path / "layout", layers)), name="os", workers=1)


@pytest.fixture
def push(repository, server, tmp_path):
    """Export the image to the registry; scripts come before."""

    def push(version=":tag", **options):
        server.always(EVERY_CHANGE, Uploads(server).answer)
        place = f"docker://{server.address}/a/b{version}"
        return export_image(repository, "os", place, access=Access(Here(), spool=str(tmp_path)), **options)

    return push


def puts(server):
    """Return the manifests that were put: their names, and whether all that they need was there before."""
    return [request.path.rpartition("/")[2] for request in server.requests if _is_name(request)]


def _is_name(request):
    return request.method == "PUT" and "/manifests/" in request.path


def test_push(push, image, server):
    """All blobs are there before the manifest, which is the stored one; a second time nothing is sent."""
    result = push()

    assert (result.manifest, [layer.status for layer in result.layers]) == (image.manifest, ["written"] * 2)
    assert puts(server) == ["tag"]
    assert _is_name(server.requests[-1])
    assert set(server.contents.blobs) == {image.config, *(layer.digest for layer in image.layers)}
    server.clear()
    again = push()
    assert (again.manifest, [layer.status for layer in again.layers]) == (image.manifest, ["present"] * 2)
    assert [request.method for request in server.requests if "/blobs/" in request.path] == ["HEAD"] * 3


def test_other_compression(push, image, server):
    """What was made in vain, since it was there, is not sent, and not counted."""
    first, second = (push(compression=Compression.ZSTD) for _ in range(2))

    assert first.manifest == second.manifest != image.manifest
    assert [layer.status for layer in second.layers] == ["present"] * 2
    assert (first.bytes_written, second.bytes_written) == (sum(layer.size for layer in first.layers), 0)


def test_foreign_blobs(push, repository, server, tmp_path):
    """With the blobs in the registry, the stored manifest holds; without, a new one is put."""
    layer = foreign(FILES[1])
    layout = image_layout(tmp_path / "layout", [layer])
    image = import_image(repository, str(layout), name="os", workers=1)

    assert not push().is_kept
    server.contents.blobs[layer.digest] = layer.blob
    assert push().manifest == image.manifest


def test_digest_as_name(push, image, server):
    """A digest is a name that only one manifest can have."""
    assert push(f"@{image.manifest}").manifest == image.manifest
    assert puts(server) == [image.manifest]
    server.clear()
    wrong = "sha256:" + "0" * 64
    with pytest.raises(UsageError, match=f"of that digest; the manifest of this image is {image.manifest}$"):
        push(f":tag@{wrong}")
    assert puts(server) == []


def refuse(status, code="DENIED"):
    return lambda exchange, _: exchange.reply(refusal(status, code, "no"))


@pytest.mark.parametrize("pattern", ["^POST", "^PUT .*/blobs/", "^PUT .*/manifests/"])
@pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (403, RegistryError), (400, RegistryError)])
def test_refused(status, error, pattern, push, image, server, tmp_path):
    """Where a registry refuses a blob or the manifest, no manifest has a name, and no file is left."""
    server.always(pattern, refuse(status))

    with pytest.raises(error):
        push()

    assert server.contents.manifests == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "repository"]


def test_server_errors(push, image, server):
    """A server that has trouble for a while is asked again; with one that has it for ever the export ends."""
    server.script("^PUT .*/blobs/", refuse(500, "UNKNOWN"), refuse(503, "UNKNOWN"))
    server.script("^PUT .*/manifests/", refuse(502, "UNKNOWN"))
    assert push().manifest == image.manifest

    server.clear()
    server.contents.blobs.clear()
    server.contents.manifests.clear()
    server.always("^PUT .*/blobs/", refuse(500, "UNKNOWN"))
    with pytest.raises(RegistryError) as caught:
        push(":other")
    assert caught.value.status == 500
    assert puts(server) == []
    assert server.contents.manifests == {}


def test_lost_connection(push, image, server):
    """A blob whose connection breaks is sent again, from its start."""
    server.script("^PUT .*/blobs/", answers.hang_up(), answers.hang_up())

    assert push().manifest == image.manifest
    assert {layer.digest for layer in image.layers} < set(server.contents.blobs)


@pytest.mark.parametrize("kind", [ExportStarted, LayerExported, Sending])
def test_stopped(kind, push, image, server, tmp_path):
    """Whoever stops an export ends it at once, also one that waits, without a name."""
    server.always("^PUT .*/manifests/", lambda exchange, _: exchange.sleep(60))

    def stop(event):
        if isinstance(event, kind):
            raise KeyboardInterrupt

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        push(progress=stop)

    assert time.monotonic() - before < 30  # not the minutes that a registry has to answer
    assert puts(server) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("composefs-push")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "repository"]


def test_stopped_while_the_registry_is_silent(push, image, server):
    """A registry that takes all and says nothing keeps nobody who wants to go."""
    server.always("^PUT .*/blobs/", answers.silent)
    sent = []

    def stop(event):
        if isinstance(event, Sending):
            sent.append(time.monotonic())
            if len(sent) > 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(progress=stop)

    assert time.monotonic() - sent[-1] < 1  # not the minutes that a registry has to answer
    assert puts(server) == []


def test_events(push, image, server):
    """What is sent is told, to the last byte."""
    events = []

    push(progress=events.append)

    last = [event for event in events if isinstance(event, Sending)][-1]
    assert last.done == last.total
    assert last.total == sum(len(data) for data in server.contents.blobs.values())
