"""The client of skopeo's proxy: every version of the protocol, and every way in which the other side can fail."""

import base64
import os
import re
import time

import pytest

from composefs import limits
from composefs.errors import (
    AuthenticationError,
    CancelledError,
    FormatError,
    IntegrityError,
    LimitError,
    NotFoundError,
    PolicyError,
    RegistryError,
)
from composefs.oci.sources import skopeo_process, skopeo_proxy
from composefs.oci.sources.skopeo_process import ImageKey, SkopeoOptions
from composefs.oci.sources.skopeo_proxy import LayerInfo, Proxy
from tests.layouts import noise, sha256
from tests.skopeos import Script

DATA = noise(300_000)
DIGEST = sha256(DATA)
KEY = ImageKey("dir:/image", SkopeoOptions(host="registry.test"))
VERSIONS = ["0.2.3", "0.2.8"]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """What goes for skopeo."""
    script = Script(tmp_path)
    script.set(manifest="{}", blobs={DIGEST: base64.b64encode(DATA).decode()})
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(skopeo_proxy, "_ENDING_MAX", 0.5)
    monkeypatch.setattr(skopeo_proxy, "_PATIENCE", 0.2)
    before = sorted(os.listdir("/proc/self/fd"))
    yield script
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def proxy(script):
    """A proxy that has an image open."""
    opened = []

    def begin(**settings):
        script.set(**settings)
        opened.append(Proxy(KEY))
        return opened[-1]

    yield begin
    for each in opened:
        each.kill()
        each.close()


def read(stream):
    try:
        return b"".join(iter(lambda: stream.read(100_000), b""))
    finally:
        stream.abandon()


@pytest.mark.parametrize("version", VERSIONS)
def test_blobs(proxy, version):
    """They come whole, one after another through one process."""
    opened = proxy(version=version)

    for _ in range(3):
        stream = opened.open_blob(DIGEST, len(DATA), "layer L", lambda: None)
        assert stream.promised == len(DATA)
        assert read(stream) == DATA
        assert stream.is_whole
        assert stream.read(10) == b""
    assert opened.read_blob(DIGEST, len(DATA), "config") == DATA


@pytest.mark.parametrize("version", VERSIONS)
def test_the_size_of_a_blob(proxy, version):
    """It can be had before the blob is read."""
    assert proxy(version=version).size_of(DIGEST) == len(DATA)


def test_the_manifest(proxy):
    """It comes with the digest of the manifest as it was."""
    assert proxy(manifest='{"a": 1}', digest="sha256:other").manifest() == ("sha256:other", b'{"a": 1}')


def test_layers(proxy):
    """Old versions do not tell of them; what they are not is refused."""
    layers = [{"digest": DIGEST, "size": 3, "media_type": "t"}, {"digest": DIGEST, "size": -1, "media_type": "t"}]

    assert proxy().layers() is None
    assert proxy(version="0.2.7", layers=layers).layers() == [LayerInfo(DIGEST, 3, "t"), LayerInfo(DIGEST, None, "t")]
    for broken in (7, [7], [{"digest": 7, "media_type": "t"}], [{"digest": DIGEST}]):
        with pytest.raises(FormatError, match="layer"):
            proxy(layers=broken).layers()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"corrupted blob, expecting {DIGEST}", IntegrityError),
        ("expected 9 bytes in blob, got 5", IntegrityError),
        ("connection reset by peer", RegistryError),
    ],
)
def test_what_the_end_of_a_blob_says(proxy, version, text, error):
    """A blob is whole only if skopeo says so."""
    stream = proxy(version=version, wrong_end=text).open_blob(DIGEST, len(DATA), "layer L", lambda: None)

    with pytest.raises(error, match=f"layer L.*{text}"):
        read(stream)

    assert not stream.is_whole


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("reading manifest t: manifest unknown", NotFoundError),
        ("open /image/manifest.json: no such file or directory", NotFoundError),
        ("Source image rejected: Running image docker://x is rejected by policy.", PolicyError),
        ("unauthorized: authentication required", AuthenticationError),
        ("pinging container registry registry.test: dial tcp: connection refused", RegistryError),
    ],
)
def test_an_image_that_cannot_be_opened(proxy, text, error):
    """The error is of the kind that its text tells, and names the image or the host."""
    with pytest.raises(error) as caught:
        proxy(fail={"OpenImage": text})

    assert text in str(caught.value)
    if isinstance(caught.value, RegistryError):
        assert caught.value.host == "registry.test"
    else:
        assert str(caught.value).startswith("dir:/image: ")


@pytest.mark.parametrize("method", ["Initialize", "OpenImage", "GetManifest"])
def test_skopeo_dies(proxy, method):
    """What it has said last is the error."""
    with pytest.raises(RegistryError, match=f"skopeo has ended: fatal: {method} went wrong"):
        proxy(die=[method]).manifest()


@pytest.mark.parametrize("version", VERSIONS)
def test_skopeo_is_killed_in_a_blob(proxy, version):
    """A blob that ends early is not taken for whole."""
    opened = proxy(version=version, stall=True)
    stream = opened.open_blob(DIGEST, len(DATA), "layer L", lambda: None)
    assert stream.read(1000)
    opened.kill()

    what = "skopeo has ended" if version == "0.2.3" else "layer L: ends after 150000 of 300000 bytes"
    with pytest.raises(RegistryError, match=what):
        read(stream)


@pytest.mark.parametrize("version", VERSIONS)
def test_skopeo_is_silent(proxy, version, monkeypatch):
    """It is not waited for for ever."""
    monkeypatch.setattr(skopeo_proxy, "_SILENCE_MAX", 0.1)
    stream = proxy(version=version, stall=True).open_blob(DIGEST, len(DATA), "layer L", lambda: None)

    with pytest.raises(RegistryError, match="layer L: not a byte from skopeo for 0 s"):
        read(stream)


def test_no_reply(proxy, monkeypatch):
    """Nor is a reply."""
    monkeypatch.setattr(skopeo_proxy, "_REPLY_MAX", 0.1)

    with pytest.raises(RegistryError, match="no reply from skopeo for 0 s"):
        proxy(hang=["OpenImage"])


def test_the_work_may_be_stopped(script):
    """While skopeo is waited for; it ends at once."""

    def stop():
        raise CancelledError("stop")

    script.set(hang=["OpenImage"])
    begin = time.monotonic()
    with pytest.raises(CancelledError):
        Proxy(KEY, stop)
    script.set(hang=[], stall=True)
    opened = Proxy(KEY)
    stream = opened.open_blob(DIGEST, len(DATA), "layer L", stop)
    with pytest.raises(CancelledError):
        read(stream)
    opened.kill()
    opened.close()

    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("version", ["0.2.2", "0.3.0", "1.0.0", "x", 7])
def test_versions_that_are_not_known(proxy, version):
    """They are refused by their names."""
    with pytest.raises((FormatError, RegistryError), match=f"version .*{version}"):
        proxy(version=version)


@pytest.mark.parametrize(
    "reply", ["", "{", "[]", "7", '{"success": 1}', '{"success": true, "value": "x"}', '{"success": true, "value": 0}']
)
def test_broken_replies(proxy, reply):
    """They end in a typed error."""
    with pytest.raises((FormatError, RegistryError)):
        proxy(reply={"OpenImage": reply})


def test_a_reply_that_is_cut(proxy):
    """A datagram that is longer than the protocol has it is not read as if it were whole."""
    with pytest.raises(FormatError, match="reply is cut"):
        proxy(reply={"OpenImage": '{"success": true, "value": 1' + " " * 40_000 + "}"})


def test_a_digest_that_is_none(proxy):
    """The digest of the manifest must be a text."""
    with pytest.raises(FormatError, match="digest 7 of the manifest is no text"):
        proxy(digest=7).manifest()


def test_a_skopeo_that_does_not_end(proxy):
    """It is not waited for for long."""
    opened = proxy(hang=["GetManifest"])
    process = opened._process
    opened._send("GetManifest", 1)

    opened.close()

    assert process.returncode == -9


@pytest.mark.parametrize("version", VERSIONS)
def test_no_descriptors(proxy, version):
    """A reply without the pipe that it should bring is refused."""
    reply = '{"success": true, "value": 1, "pipeid": 5}'
    opened = proxy(version=version, reply={"GetBlob": reply, "GetRawBlob": reply})

    with pytest.raises(FormatError, match="0 descriptors"):
        opened.open_blob(DIGEST, len(DATA), "layer L", lambda: None)


def test_a_manifest_that_is_too_large(proxy, monkeypatch):
    """It is not read whole."""
    opened = proxy(manifest="x" * 100_000)
    monkeypatch.setattr(limits, "JSON_SIZE", 1000)

    with pytest.raises(LimitError, match="bytes of JSON"):
        opened.manifest()


def test_no_skopeo(tmp_path, monkeypatch):
    """Its absence is told."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NotFoundError, match="no program skopeo, which is wanted for this image"):
        Proxy(KEY)


def test_a_blob_whose_end_is_not_told(proxy):
    """An old skopeo keeps the pipe open behind a blob that is shorter than it should be, until it is asked."""
    stream = proxy(sizes=False).open_blob(DIGEST, len(DATA) + 1, "layer L", lambda: None)
    assert stream.promised is None

    with pytest.raises(IntegrityError, match="expected 300001 bytes in blob, got 300000"):
        read(stream)


def test_skopeo_ends_in_the_middle_of_a_blob(proxy):
    """It hears that the socket is closed, though there is more to come."""
    opened = proxy(stall=True)
    process = opened._process
    stream = opened.open_blob(DIGEST, len(DATA), "layer L", lambda: None)
    stream.read(1000)

    opened._socket.close()

    assert process.wait(10) == 0
    stream.abandon()


def test_skopeo_ends_with_the_socket(proxy):
    """It needs no signal, and so does not outlive a process that was killed."""
    opened = proxy()
    process = opened._process

    opened._socket.close()

    assert process.wait(10) == 0


def test_secrets_in_messages(proxy):
    """What skopeo says is shown without them."""
    text = (
        'Get "https://user:hunter2@blobs.test/x?X-Amz-Signature=hunter2": denied, Authorization: Bearer hunter2, '
        "Basic hunter2 at\nhttps://t.test/token?password=hunter2"
    )

    with pytest.raises(RegistryError) as caught:
        proxy(fail={"OpenImage": text})

    assert "hunter2" not in str(caught.value) + repr(caught.value)
    assert "blobs.test/x" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_long_messages(proxy):
    """They are cut."""
    with pytest.raises(RegistryError, match=re.escape("x" * 500 + "...")):
        proxy(fail={"OpenImage": "x" * 5000})


def test_run_skopeo(script, monkeypatch):
    """A command's output is returned, or its last word is the error."""
    script.set(raw={"dir:/image": "output"})
    assert skopeo_process.run_skopeo(KEY, "inspect", "--raw") == b"output"
    script.set(fail={"inspect": "first\nsomething is wrong"})
    with pytest.raises(RegistryError, match="^registry.test: something is wrong$"):
        skopeo_process.run_skopeo(KEY, "inspect", "--raw")
    monkeypatch.setattr(limits, "JSON_SIZE", 3)
    script.set(fail={})
    with pytest.raises(LimitError):
        skopeo_process.run_skopeo(KEY, "inspect", "--raw")
