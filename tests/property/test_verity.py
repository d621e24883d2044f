"""Streaming: the cuts of the input never show."""

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
