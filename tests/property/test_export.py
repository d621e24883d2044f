"""What is written for any image, over whatever was there."""

import gzip
import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from composefs.errors import FormatError
from composefs.oci.export.encoding import Gzip, Zstd
from composefs.oci.export.layout import add_to_index, new_index
from composefs.oci.manifest import Descriptor, parse_index
from tests.layouts import MANIFEST

DIGESTS = st.sampled_from(["sha256:" + digit * 64 for digit in "0123"])
TAGS = st.none() | st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
DESCRIPTORS = st.builds(
    lambda digest, annotations, more: more | {"mediaType": "x", "digest": digest, "size": 1} | annotations,
    DIGESTS,
    st.sampled_from(["a", "b", None, 1, {}]).map(
        lambda tag: {"annotations": {"org.opencontainers.image.ref.name": tag}}
    )
    | st.just({}),
    st.dictionaries(st.text(max_size=3), JSON, max_size=2),
)
NEW = st.builds(lambda digest: Descriptor(MANIFEST, digest, 7), DIGESTS)


@given(st.lists(DESCRIPTORS, max_size=5), st.dictionaries(st.text(max_size=3), JSON, max_size=2), NEW, TAGS)
def test_index(manifests, more, manifest, tag):
    """All that an index had it has still, but for who had the tag; the image is there once, and last."""
    before = more | {"manifests": manifests}

    data = add_to_index(json.dumps(before).encode(), "index", manifest, tag)

    after = json.loads(data)
    *others, last = parse_index(data, "index")
    assert {key: value for key, value in after.items() if key != "manifests"} == more
    assert (last.digest, last.tag, last.size) == (manifest.digest, tag, 7)
    assert all(other.tag != tag or (tag is None and other.digest != manifest.digest) for other in others)
    gone = [value for value in manifests if value not in after["manifests"]]
    kept = [value for value in manifests if value in after["manifests"]]
    assert kept == after["manifests"][:-1]
    for descriptor in parse_index(json.dumps({"manifests": gone}).encode(), "gone"):
        assert descriptor.tag == tag
    assert add_to_index(data, "index", manifest, tag) == data


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()), NEW, TAGS)
def test_any_index(data, manifest, tag):
    """What is no index is refused."""
    try:
        index = add_to_index(data, "index", manifest, tag)
    except FormatError:
        return
    assert manifest.digest in [found.digest for found in parse_index(index, "index")]


@given(NEW, TAGS)
def test_new_index(manifest, tag):
    """A new index is that of no image, with one more."""
    empty = json.dumps({**json.loads(new_index(manifest, tag)), "manifests": []}).encode()

    assert add_to_index(empty, "index", manifest, tag) == new_index(manifest, tag)


@pytest.mark.parametrize("encoding", [Gzip(4), Zstd(3)], ids=str)
@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 4))
def test_encoding(encoding, pieces, threads):
    """Any cut of an archive gives the same blob, which others read."""
    data = b"".join(pieces)

    blob = b"".join(bytes(piece) for piece in encoding.encode(pieces, len(data), threads))

    decode = gzip.decompress if isinstance(encoding, Gzip) else zstandard.ZstdDecompressor().decompress
    assert decode(blob) == data
    assert blob == b"".join(bytes(piece) for piece in encoding.encode([data], len(data), 1))
