"""Manifests, indexes and configs: what they say is read, and what they must not say is refused with its place."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composefs.errors import FormatError, UsageError
from composefs.oci.manifest import Compression, Config, Descriptor, Manifest, Platform, parse_index
from tests import layouts

DIGEST = layouts.sha256(b"blob")
BLOB = {"mediaType": "text/plain", "digest": DIGEST, "size": 4}
DEEP = 200_000  # levels, far above any parser's limit


def packed(value):
    return json.dumps(value).encode()


def manifest(**changes):
    return packed({"schemaVersion": 2, "config": BLOB, "layers": [BLOB]} | changes)


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("windows/amd64", Platform("windows", "amd64")),
    ],
)
def test_platform(text, platform):
    """A platform is read from the form in which it is written."""
    assert Platform.parse(text) == platform
    assert str(platform) == text


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux/arm64/", "linux/arm64/v8/x", "//"])
def test_platform_of_another_form(text):
    """What is not OS/ARCH[/VARIANT] is wrong usage, and the message shows the right form."""
    with pytest.raises(UsageError) as caught:
        Platform.parse(text)

    assert str(caught.value) == f"platform {text!r} is not of the form OS/ARCH[/VARIANT], such as linux/arm64/v8"


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        ("application/vnd.oci.image.layer.v1.tar", Compression.NONE),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Compression.GZIP),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Compression.ZSTD),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", Compression.NONE),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Compression.GZIP),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Compression.ZSTD),
        ("application/vnd.docker.image.rootfs.diff.tar", Compression.NONE),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression.GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", Compression.ZSTD),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Compression.GZIP),
        ("application/vnd.oci.image.layer.v1.tar+xz", None),
        ("application/vnd.oci.image.layer.v1.TAR", None),
        ("application/octet-stream", None),
        ("", None),
    ],
)
def test_compression(media_type, compression):
    """The media type says how a layer is compressed; what is no layer says nothing."""
    assert Descriptor(media_type, DIGEST, 4).compression is compression


@pytest.mark.parametrize(
    ("media_type", "is_index", "is_manifest"),
    [
        (layouts.INDEX, True, False),
        (layouts.DOCKER_INDEX, True, False),
        (layouts.MANIFEST, False, True),
        (layouts.DOCKER_MANIFEST, False, True),
        (layouts.CONFIG, False, False),
        ("application/vnd.docker.distribution.manifest.v1+json", False, False),
    ],
)
def test_kinds_of_descriptors(media_type, is_index, is_manifest):
    """OCI's and Docker's indexes and manifests are told apart from all else."""
    descriptor = Descriptor(media_type, DIGEST, 4)

    assert (descriptor.is_index, descriptor.is_manifest) == (is_index, is_manifest)


def test_manifest():
    """Config and layers come out in order, unknown fields are passed over."""
    other = BLOB | {"digest": layouts.sha256(b"other"), "size": 0, "urls": ["http://x"], "data": "e30="}

    found = Manifest.parse(manifest(layers=[BLOB, other], subject=None, unknown={"a": [1]}), "manifest")

    assert found.config == Descriptor("text/plain", DIGEST, 4)
    assert [(layer.digest, layer.size) for layer in found.layers] == [(DIGEST, 4), (other["digest"], 0)]


@pytest.mark.parametrize(
    ("media_type", "is_container"), [(layouts.CONFIG, True), (layouts.DOCKER_CONFIG, True), (layouts.EMPTY, False)]
)
def test_artifacts(media_type, is_container):
    """The type of the config tells a container image from an artifact."""
    found = Manifest.parse(manifest(config=BLOB | {"mediaType": media_type}), "manifest")

    assert found.is_container is is_container


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "M, offset 0: broken JSON: Expecting value"),
        (b'{"schemaVersion": 2,', "M, offset 20: broken JSON: Expecting property name enclosed in double quotes"),
        (b"[]", "M, offset 0: not a JSON object"),
        (b"null", "M, offset 0: not a JSON object"),
        (manifest(schemaVersion=1), "M, offset 0: schemaVersion 1, wanted 2"),
        (manifest(schemaVersion="2"), "M, offset 0: schemaVersion '2', wanted 2"),
        (manifest(schemaVersion=2.0), "M, offset 0: schemaVersion 2.0, wanted 2"),
        (manifest(schemaVersion=True), "M, offset 0: schemaVersion True, wanted 2"),
        (b"{}", "M, offset 0: schemaVersion None, wanted 2"),
        (manifest(mediaType=[]), "M, offset 0: media type [] is not that of a manifest"),
        (manifest(mediaType={"a": 1}), "M, offset 0: media type {'a': 1} is not that of a manifest"),
        (manifest(mediaType=layouts.INDEX), f"M, offset 0: media type '{layouts.INDEX}' is not that of a manifest"),
        (manifest(layers=None), "M, offset 0: layers is no list"),
        (manifest(layers={}), "M, offset 0: layers is no list"),
        (manifest(config=None), "M, config, offset 0: no descriptor"),
        (manifest(layers=[BLOB, 7]), "M, layer 2, offset 0: no descriptor"),
        (manifest(config={}), "M, config, offset 0: mediaType None is no text"),
        (manifest(config=BLOB | {"size": -1}), "M, config, offset 0: size -1 is no number of bytes"),
        (manifest(config=BLOB | {"size": True}), "M, config, offset 0: size True is no number of bytes"),
        (manifest(config=BLOB | {"size": 1.5}), "M, config, offset 0: size 1.5 is no number of bytes"),
        (manifest(config=BLOB | {"size": "4"}), "M, config, offset 0: size '4' is no number of bytes"),
        (manifest(config=BLOB | {"size": 1 << 63}), f"M, config, offset 0: size {1 << 63} is no number of bytes"),
    ],
)
def test_broken_manifest(data, message):
    """A manifest that is none is refused, with the place and what stands there."""
    with pytest.raises(FormatError) as caught:
        Manifest.parse(data, "M")

    assert str(caught.value) == message


@pytest.mark.parametrize(
    "digest",
    [
        None,
        7,
        "",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 64 + "\n",
        "sha512:" + "0" * 128,
        "sha256:../../../etc/passwd",
        "sha256:" + "../" * 21 + "x",
        "../sha256:" + "0" * 64,
        "sha256:" + "\N{ARABIC-INDIC DIGIT ZERO}" * 64,
        "SHA256:" + "0" * 64,
    ],
)
def test_digest_of_another_form(digest):
    """Only sha256 and 64 lower-case digits are a digest: nothing else ever becomes part of a path."""
    wanted = f"digest {digest!r} is not sha256: and 64 hexadecimal digits"

    with pytest.raises(FormatError) as in_manifest:
        Manifest.parse(manifest(layers=[BLOB | {"digest": digest}]), "M")
    with pytest.raises(FormatError) as in_index:
        parse_index(packed({"manifests": [BLOB | {"digest": digest}]}), "I")
    with pytest.raises(FormatError) as in_config:
        Config.parse(packed({"rootfs": {"diff_ids": [DIGEST, digest]}}), "C")

    assert str(in_manifest.value) == f"M, layer 1, offset 0: {wanted}"
    assert str(in_index.value) == f"I, manifest 1, offset 0: {wanted}"
    assert str(in_config.value) == f"C, diff_id 2, offset 0: {wanted}"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"size": ' + b"9" * 5000 + b"}",
        b'{"a": "\xff"}',
        b"\xff\xfe{",
        b"\0" * 100,
        b'{"a": "\n"}',
        b'{"a": 1, "b": {"c": 2, "c": 2}}',
        b'{"a": NaN}',
        b'{"a": [-Infinity]}',
        b'{"a": "\\ud800"}',
        b'{"\\uDFFF": 1}',
        b'{"a": ["\\udc00\\ud800"]}',
    ],
    ids=[
        *("lists", "objects", "closed-lists", "long-number", "not-utf-8", "half-utf-16", "zeros", "control-character"),
        *("key-twice", "nan", "infinity", "half-pair", "half-pair-as-key", "pair-the-wrong-way-round"),
    ],
)
@pytest.mark.parametrize("parse", [Manifest.parse, Config.parse, parse_index])
def test_hostile_json(parse, data):
    """JSON that a parser chokes on is a format error like any other."""
    with pytest.raises(
        FormatError, match=r"^S, offset \d+: (broken JSON: |more than 64 lists and objects in one another in JSON$)"
    ):
        parse(data, "S")


def test_whole_pairs():
    """Characters beyond the first 65536 may be written as pairs of surrogates."""
    data = packed({"manifests": [BLOB | {"annotations": {"org.opencontainers.image.ref.name": "\N{GRINNING FACE}"}}]})

    assert b"\\ud83d\\ude00" in data
    assert parse_index(data, "I")[0].tag == "\N{GRINNING FACE}"


def test_config():
    """Platform and diff_ids are read, of a variant too."""
    data = packed({"os": "linux", "architecture": "arm", "variant": "v7", "rootfs": {"diff_ids": [DIGEST, DIGEST]}})

    assert Config.parse(data, "C") == Config(Platform("linux", "arm", "v7"), (DIGEST, DIGEST))


@pytest.mark.parametrize("value", [{}, {"rootfs": None}, {"rootfs": []}, {"rootfs": {}}, {"rootfs": {"diff_ids": "x"}}])
def test_config_without_layers(value):
    """A config must list its layers, if only none."""
    with pytest.raises(FormatError) as caught:
        Config.parse(packed(value), "C")

    assert str(caught.value) == "C, offset 0: rootfs.diff_ids is no list"


@pytest.mark.parametrize(
    "platform",
    [
        None,
        [],
        {},
        {"os": "linux"},
        {"architecture": "amd64"},
        {"os": "", "architecture": "x"},
        {"os": 1, "architecture": 2},
    ],
)
def test_descriptor_without_platform(platform):
    """A platform that does not name system and CPU is none."""
    (found,) = parse_index(packed({"manifests": [BLOB | {"platform": platform}]}), "I")

    assert found.platform is None


@pytest.mark.parametrize("annotations", [None, [], {}, {"org.opencontainers.image.ref.name": 7}])
def test_descriptor_without_tag(annotations):
    """An annotation that is no text is no tag."""
    (found,) = parse_index(packed({"manifests": [BLOB | {"annotations": annotations}]}), "I")

    assert found.tag is None


@pytest.mark.parametrize(
    ("data", "what"), [(b"{}", "manifests is no list"), (b'{"manifests": 1}', "manifests is no list")]
)
def test_broken_index(data, what):
    """An index must list manifests, if only none."""
    with pytest.raises(FormatError, match=f"^I, offset 0: {what}$"):
        parse_index(data, "I")


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(DIGEST)
_KEYS = st.sampled_from(
    "schemaVersion mediaType config layers manifests digest size platform annotations os architecture variant rootfs "
    "diff_ids org.opencontainers.image.ref.name".split()
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=6), max_leaves=12
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(value=st.fixed_dictionaries({"schemaVersion": st.just(2)}, optional={
    "config": st.just(BLOB) | _VALUES,
    "layers": st.lists(st.just(BLOB) | _VALUES, max_size=3),
    "manifests": st.lists(st.fixed_dictionaries({}, optional={key: st.just(BLOB[key]) | _VALUES for key in BLOB}
        | {"platform": _VALUES, "annotations": _VALUES}), max_size=3),
    "rootfs": _VALUES | st.fixed_dictionaries({"diff_ids": _VALUES}),
}))  # fmt: skip
@pytest.mark.parametrize("parse", [Manifest.parse, Config.parse, parse_index])
def test_any_json(parse, value):
    """Whatever JSON says, it is read or refused with a format error."""
    try:
        parse(packed(value), "S")
    except FormatError as error:
        assert str(error).startswith("S")  # noqa: PT017  # either way is right
