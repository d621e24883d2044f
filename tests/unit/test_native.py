"""The C extension's hashes and sums, by every implementation that this CPU can run."""

import errno
import hashlib
import json
import os
import platform
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from composefs import _native
from composefs._cfs import lib  # noqa: TID251  the names are compared with the stub
from composefs.digest import Algorithm
from tests import reference

ROOT = Path(__file__).parents[2]
VECTORS = json.loads((ROOT / "tests/golden/cfsctl/fsverity/digests.json").read_text())

HASHES_PER_BLOCK = {Algorithm.SHA256: 128, Algorithm.SHA512: 64}
SIZES = [0, 1, 63, 64, 127, 128, 129, 4095, 4096, 4097, *(n * 4096 + d for n in range(2, 20) for d in (0, -1))]
SALTS = [b"", b"s", bytes(range(1, 33))]


def content(size: int) -> bytes:
    """Bytes whose blocks all differ."""
    return hashlib.shake_128(b"content").digest(size)


def digest(algorithm: Algorithm, data: _native.Buffer, block_size: int = 4096, salt: bytes = b"") -> bytes:
    return _native.verity_digest(algorithm.kernel_id, data, algorithm.digest_size, block_size, salt)


@pytest.mark.parametrize("size", SIZES)
def test_small_trees_agree_with_the_reference(implementation, size):
    """One block, and every count of blocks that lanes share out among each other."""
    data = content(size)

    assert digest(implementation, data) == reference.verity_digest(data, implementation.hash_name)


@pytest.mark.parametrize("change", [-4096, -1, 0, 1, 4097])
@pytest.mark.parametrize("full_blocks", [1, 2, 7, 8, 9, 16, 64, 65])
def test_borders_of_tree_blocks_agree_with_the_reference(implementation, full_blocks, change):
    """Where a block of hashes, a group of them, or a whole level is just full."""
    data = content(full_blocks * HASHES_PER_BLOCK[implementation] * 4096 + change)

    assert digest(implementation, data) == reference.verity_digest(data, implementation.hash_name)


def test_three_levels_agree_with_the_reference(implementation):
    """More blocks than two levels of hashes have place for; they are small because 4096 bytes would need 64 MiB."""
    block_size = 1024
    per_block = block_size // implementation.digest_size
    data = content(min(per_block**3 * block_size + 1, 12 << 20))

    assert digest(implementation, data, block_size) == reference.verity_digest(
        data, implementation.hash_name, block_size
    )


@pytest.mark.parametrize("salt", SALTS, ids=len)
@pytest.mark.parametrize("block_size", [1024, 4096, 65536])
@pytest.mark.parametrize("blocks", [0, 0.5, 1, 1.5, 3, 16, 17])
def test_salts_and_block_sizes_agree_with_the_reference(implementation, blocks, block_size, salt):
    data = content(int(blocks * block_size))

    assert digest(implementation, data, block_size, salt) == reference.verity_digest(
        data, implementation.hash_name, block_size, salt
    )


@pytest.mark.parametrize("vector", VECTORS["files"], ids=lambda vector: str(vector["size"]))
def test_digests_of_composefs_rs(implementation, vector):
    """The vectors that composefs-rs made."""
    period = bytes((7 * i + i // 256 + 42) % 256 for i in range(1 << 16))  # i // 256 comes round after 256 * 256
    data = (period * (vector["size"] // len(period) + 1))[: vector["size"]]

    assert digest(implementation, data).hex() == vector[implementation.hash_name]


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 65536, 65537, 300_000])
def test_files_agree_with_buffers_and_keep_their_position(implementation, tmp_path, size):
    data = content(size)
    path = tmp_path / "file"
    path.write_bytes(data)

    with path.open("rb", buffering=0) as file:
        file.seek(17)
        got = _native.verity_digest_fd(implementation.kernel_id, file.fileno(), implementation.digest_size)

        assert got == digest(implementation, data)
        assert file.tell() == 17


def digests(algorithm: Algorithm, data: _native.Buffer, spans: list[tuple[int, int]]) -> list[bytes]:
    """Digest the files that lie in *data*, each as its offset and size say, in one call."""
    packed = b"".join(struct.pack("=QQ", *span) for span in spans)
    found = _native.verity_digests(algorithm.kernel_id, data, packed, algorithm.digest_size)
    return [found[start : start + algorithm.digest_size] for start in range(0, len(found), algorithm.digest_size)]


SPAN_SIZES = [*SIZES, *(n * 4096 + d for n in (63, 64, 65, 128, 129) for d in (-1, 0, 1))]


def test_files_in_one_buffer_agree_with_the_reference(implementation):
    """One after the other, then each with itself for its only neighbours."""
    data = content(sum(SPAN_SIZES))
    spans = [(sum(SPAN_SIZES[:i]), size) for i, size in enumerate(SPAN_SIZES)]
    want = [reference.verity_digest(data[start : start + size], implementation.hash_name) for start, size in spans]

    assert digests(implementation, data, spans) == want
    assert digests(implementation, memoryview(data), spans[::-1]) == want[::-1]
    for span, one in zip(spans, want, strict=True):
        assert digests(implementation, data, [span]) == [one]
        assert digests(implementation, data, [span] * 17) == [one] * 17


def test_more_files_than_a_group_has(implementation):
    """Files of one block fill the lanes, and several of more blocks than are gathered at a time lie among them."""
    data = content(600_000)
    spans = [(i * 7, 600 + i) for i in range(200)] + [(i, 250_000 + i) for i in range(3)] + [(0, 600_000), (5, 0)]

    assert digests(implementation, data, spans) == [
        digest(implementation, data[start : start + size]) for start, size in spans
    ]


def test_no_files_in_a_buffer(implementation):
    assert digests(implementation, b"", []) == []


@pytest.mark.parametrize("span", [(0, 11), (10, 1), (11, 0), (2**64 - 1, 1), (1, 2**64 - 1), (2**64 - 1, 2**64 - 1)])
def test_a_span_that_leaves_the_buffer_is_refused(span):
    with pytest.raises(OSError, match="Invalid argument") as caught:
        digests(Algorithm.SHA512, bytes(10), [(0, 10), span])

    assert caught.value.errno == errno.EINVAL


def spans_of(*spans: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("=QQ", *span) for span in spans)


@pytest.mark.parametrize("first", [0, 1, 63, 64, 65, 1000])
@pytest.mark.parametrize("size", [0, 1, 4096, 70_000, 600_000])
def test_a_stream_beside_files_has_the_digest_it_has_alone(implementation, first, size):
    """Wherever it begins in a block, beside nothing, one file, many, and one that comes in pieces."""
    data = content(700_000)
    alg, digest_size = implementation.kernel_id, implementation.digest_size
    several = spans_of((0, 5000), (1, 4096), (100, 300_000), (7, 0), *[(number, 4000) for number in range(40)])
    state = _native.VerityState(alg, digest_size)
    beside, want = _native.StreamHash(alg), hashlib.sha256()

    for work in ("nothing", "one", "many", "state", "all"):
        for start, end in ((0, first), (first, first + size)):
            piece = data[start:end]
            want.update(piece)
            beside.begin(piece)
            if work in ("one", "all"):
                got = _native.verity_digests(alg, data, spans_of((0, 1 + size)), digest_size, beside)
                assert got == digest(implementation, data[: 1 + size])
            if work in ("many", "all"):
                got = _native.verity_digests(alg, data, several, digest_size, beside)
                assert got == _native.verity_digests(alg, data, several, digest_size)
            if work in ("state", "all"):
                state.update(data[: size + 1], beside)
            beside.finish()
        assert beside.hexdigest() == want.hexdigest()  # and more may follow

    assert state.digest() == digest(implementation, data[: size + 1] * 4)


def test_a_stream_is_hashed_beside_files_where_that_costs_less(implementation):
    """Files leave nothing of it for later there; elsewhere they have nothing to do with it."""
    beside = _native.StreamHash(implementation.kernel_id)
    piece = content(1 << 16)
    beside.begin(piece)

    waiting = beside.stream.size
    _native.verity_digests(
        implementation.kernel_id, content(1 << 19), spans_of((0, 1 << 19)), implementation.digest_size, beside
    )

    assert waiting == (len(piece) if lib.cfs_hash_fuses(implementation.kernel_id) else 0)
    assert beside.stream.size <= waiting // 4
    beside.finish()
    assert beside.hexdigest() == hashlib.sha256(piece).hexdigest()


def test_many_files_are_hashed_at_once(implementation, tmp_path):
    """In one call, each as alone; one that cannot be read has its errno where the others have their size."""
    sizes = [0, 1, 4096, 4097, 65535, 65536, 65537, 300_000]
    for size in sizes:
        (tmp_path / str(size)).write_bytes(content(size))
    fds = [os.open(tmp_path / str(size), os.O_RDONLY) for size in sizes]
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        *got, wrong = _native.verity_digest_fds(implementation.kernel_id, [*fds, directory], implementation.digest_size)
        assert [found for found, *_ in got] == [digest(implementation, content(size)) for size in sizes]
        assert [size for _, size, _ in got] == sizes
        assert [ctime for *_, ctime in got] == [os.fstat(fd).st_ctime_ns for fd in fds]
        assert wrong[1] == -errno.EISDIR
        assert _native.verity_digest_fds(implementation.kernel_id, [], implementation.digest_size) == []
        with pytest.raises(OSError, match="Invalid argument"):
            _native.verity_digest_fds(implementation.kernel_id, fds, 31)
    finally:
        for fd in (*fds, directory):
            os.close(fd)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_contiguous_buffer_is_hashed(kind):
    data = content(5000)

    assert digest(Algorithm.SHA256, kind(data)) == reference.verity_digest(data, "sha256")


def test_a_memoryview_of_wide_items_is_hashed_by_bytes():
    data = content(8192)

    assert digest(Algorithm.SHA256, memoryview(data).cast("Q")) == reference.verity_digest(data, "sha256")


@pytest.mark.parametrize("offset", [1, 2, 3, 7, 8, 31, 33])
def test_unaligned_buffers_are_hashed(implementation, offset):
    data = content(20 * 4096 + offset)

    got = digest(implementation, memoryview(data)[offset:])

    assert got == reference.verity_digest(data[offset:], implementation.hash_name)


@pytest.mark.parametrize(
    ("alg", "digest_size", "block_size", "salt"),
    [
        (0, 32, 4096, b""),
        (3, 32, 4096, b""),
        (-1, 32, 4096, b""),
        (1, 31, 4096, b""),
        (1, 64, 4096, b""),
        (2, 32, 4096, b""),
        (1, 32, 0, b""),
        (1, 32, 512, b""),
        (1, 32, 4095, b""),
        (1, 32, 131072, b""),
        (1, 32, 4096, bytes(33)),
    ],
)
def test_parameters_that_fs_verity_does_not_have_are_refused(alg, digest_size, block_size, salt, tmp_path):
    def streamed():
        state = _native.VerityState(alg, digest_size, block_size, salt)
        state.update(b"data")
        state.digest()

    path = tmp_path / "file"
    path.write_bytes(b"data")
    with path.open("rb") as file:
        for call in (
            lambda: _native.verity_digest(alg, b"data", digest_size, block_size, salt),
            lambda: _native.verity_digest_fd(alg, file.fileno(), digest_size, block_size, salt),
            streamed,
        ):
            with pytest.raises(OSError, match="Invalid argument"):
                call()


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            _native.verity_digest_fd(_native.SHA256, fd, 32)
    finally:
        os.close(fd)


def test_a_state_ends_with_its_digest():
    state = _native.VerityState(_native.SHA256, 32)
    state.digest()

    with pytest.raises(ValueError, match="already taken"):
        state.digest()
    with pytest.raises(ValueError, match="already taken"):
        state.update(b"")


def test_a_state_refuses_a_second_thread():
    """The other thread gets EBUSY or waits its turn, but never breaks the tree."""
    state = _native.VerityState(_native.SHA256, 32)
    data = bytes(64 << 20)
    refused: list[int | None] = []

    def update() -> None:
        try:
            state.update(data)
        except OSError as error:
            refused.append(error.errno)

    threads = [threading.Thread(target=update) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    whole = _native.VerityState(_native.SHA256, 32)
    for _ in range(2 - len(refused)):
        whole.update(data)
    assert state.digest() == whole.digest()


@pytest.mark.parametrize("size", [0, 1, 7, 512, 100_001])
def test_sum_bytes(size):
    data = content(size)

    assert _native.sum_bytes(data) == sum(data)


def test_the_stub_names_what_the_library_has():
    stub = (ROOT / "composefs/_cfs.pyi").read_text()

    assert set(re.findall(r"def (\w+)\(", stub)) == set(dir(lib))


# Which implementation


def flags() -> set[str]:
    """What Linux says of this CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):  # x86, Arm
            return set(line.split())
    return set()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are flags of x86")
def test_the_implementations_are_those_that_linux_says_the_cpu_has():
    has = flags()
    avx512 = {"avx512f", "avx512bw", "avx512vl", "bmi2"} <= has
    avx2 = {"avx2", "bmi2"} <= has
    shani = {"sha_ni", "sse4_1"} <= has

    both = ("avx512-shani", avx512 and shani)
    sha256 = [both, ("shani", shani), ("avx512", avx512), ("avx2", avx2), ("generic", True)]
    sha512 = [both, ("avx512", avx512), ("avx2", avx2), ("generic", True)]

    assert _native.hash_implementations(_native.SHA256) == [name for name, usable in sha256 if usable]
    assert _native.hash_implementations(_native.SHA512) == [name for name, usable in sha512 if usable]


@pytest.mark.skipif(platform.machine() != "aarch64", reason="these are features of AArch64")
def test_the_implementations_are_those_that_linux_says_an_arm_cpu_has():
    has = flags()

    assert ("arm-sha2" in _native.hash_implementations(_native.SHA256)) == ("sha2" in has)
    assert ("arm-sha512" in _native.hash_implementations(_native.SHA512)) == ("sha512" in has)


def test_an_unknown_hash_has_no_implementations():
    assert _native.hash_implementations(7) == []
    with pytest.raises(ValueError, match="unknown hash 7"):
        _native.hash_implementation(7)
    with pytest.raises(ValueError, match="no implementation 'generic'"):
        _native.select_hash_implementation(7, "generic")


def test_an_unknown_implementation_names_the_usable_ones():
    with pytest.raises(ValueError, match=r"no implementation 'fast'; usable here: .*generic"):
        _native.select_hash_implementation(_native.SHA512, "fast")


def chosen_with(demand: str) -> subprocess.CompletedProcess[str]:
    """Run a Python whose COMPOSEFS_HASH_IMPL is *demand*; it prints what is in use."""
    program = "from composefs import _native as n; print(n.hash_implementation(1), n.hash_implementation(2))"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "COMPOSEFS_HASH_IMPL": demand, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_demand_the_fastest_is_used():
    fastest = [_native.hash_implementations(alg)[0] for alg in (_native.SHA256, _native.SHA512)]

    assert chosen_with("").stdout.split() == fastest


@pytest.mark.parametrize(
    ("demand", "chosen"),
    [
        ("generic", ["generic", "generic"]),
        ("sha256=generic,sha512=generic", ["generic", "generic"]),
        ("sha512=generic", [None, "generic"]),
        ("sha256=generic", ["generic", None]),
    ],
)
def test_a_demand_is_obeyed(demand, chosen):
    fastest = [_native.hash_implementations(alg)[0] for alg in (_native.SHA256, _native.SHA512)]

    assert chosen_with(demand).stdout.split() == [want or best for want, best in zip(chosen, fastest, strict=True)]


def test_a_bare_name_is_for_the_hashes_that_have_it():
    if "shani" not in _native.hash_implementations(_native.SHA256):
        pytest.skip("this CPU has no SHA extensions")

    assert chosen_with("shani").stdout.split() == ["shani", _native.hash_implementations(_native.SHA512)[0]]


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        ("fast", "no implementation 'fast'; usable here: .*generic"),
        ("sha512=fast", "no implementation 'fast'; usable here: .*generic"),
        ("sha256=generic,", "no implementation ''; usable here: .*generic"),
        ("md5=generic", "unknown hash 'md5'; known: sha256, sha512"),
    ],
)
def test_a_demand_that_cannot_be_met_fails_at_import(demand, message):
    result = chosen_with(demand)

    assert result.returncode != 0
    assert re.search(f"ValueError: {message}", result.stderr)
