"""Streaming: the cuts of the input never show."""

import hashlib
import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composefs import _native
from tests import reference

# The fixture holds for all examples of a test, which is what is wanted here.
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

sizes = st.one_of(
    st.integers(0, 40_000),
    st.builds(lambda blocks, change: max(0, blocks * 4096 + change), st.integers(0, 600), st.integers(-2, 2)),
)


def stream(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(size % 251)  # 251 is prime: all blocks differ


@relaxed
@given(size=sizes, data=st.data())
def test_any_cut_gives_the_digest_of_the_whole(implementation, size, data):
    content = memoryview(stream(size))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=8), "cuts"))

    state = _native.VerityState(implementation.kernel_id, implementation.digest_size)
    for start, end in zip([0, *cuts], [*cuts, size], strict=True):
        state.update(content[start:end])

    assert state.digest() == _native.verity_digest(implementation.kernel_id, content, implementation.digest_size)


@relaxed
@given(size=st.integers(0, 300_000), step=st.sampled_from([1000, 4095, 4096, 4097, 65536]))
def test_equal_pieces_give_the_digest_of_the_whole(implementation, size, step):
    content = stream(size)

    state = _native.VerityState(implementation.kernel_id, implementation.digest_size)
    for start in range(0, size, step):
        state.update(content[start : start + step])

    assert state.digest() == _native.verity_digest(implementation.kernel_id, content, implementation.digest_size)


@relaxed
@given(
    content=st.binary(max_size=200),
    repeat=st.integers(1, 200),
    block_size=st.sampled_from([1024, 2048, 4096, 65536]),
    salt=st.binary(max_size=32),
)
def test_any_parameters_agree_with_the_reference(implementation, content, repeat, block_size, salt):
    data = content * repeat

    got = _native.verity_digest(implementation.kernel_id, data, implementation.digest_size, block_size, salt)

    assert got == reference.verity_digest(data, implementation.hash_name, block_size, salt)


@relaxed
@given(data=st.data(), seed=st.integers(0, 250))
def test_files_in_one_buffer_have_the_digests_they_have_alone(implementation, data, seed):
    """However many, of whatever sizes, in any order, and on top of each other; also with a stream beside them."""
    content = stream(seed + 400_000)[seed:]
    spans = st.tuples(st.integers(0, 30_000), sizes.map(lambda size: min(size, 370_000)) | st.integers(0, 5000))
    files = data.draw(st.lists(spans, max_size=40), "files")

    packed = b"".join(struct.pack("=QQ", *span) for span in files)
    beside = _native.StreamHash(implementation.kernel_id)
    first = data.draw(st.integers(0, 200), "first")

    beside.begin(content[:first])
    alone = _native.verity_digests(implementation.kernel_id, content, packed, implementation.digest_size)
    beside.finish()
    beside.begin(content[first:])
    got = _native.verity_digests(implementation.kernel_id, content, packed, implementation.digest_size, beside)
    beside.finish()

    assert beside.hexdigest() == hashlib.sha256(content).hexdigest()
    assert got == alone
    assert got == b"".join(
        _native.verity_digest(implementation.kernel_id, content[start : start + size], implementation.digest_size)
        for start, size in files
    )
