"""The `fsverity` command of fsverity-utils as a second opinion."""

import subprocess

import pytest

from composefs import _native
from composefs.digest import Algorithm
from tests.tools import require_tool


@pytest.mark.parametrize(("block_size", "salt"), [(4096, b""), (4096, b"\x01"), (1024, bytes(range(32))), (65536, b"")])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 64 * 4096, 128 * 4096, 128 * 4096 + 1, 3_000_000])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_digests_are_those_of_fsverity_utils(tmp_path, algorithm, size, block_size, salt):
    fsverity = require_tool("fsverity")
    data = bytes(range(251)) * (size // 251) + bytes(size % 251)
    path = tmp_path / "file"
    path.write_bytes(data)

    command = [fsverity, "digest", "--compact", f"--hash-alg={algorithm.hash_name}"]
    command += [f"--block-size={block_size}", *([f"--salt={salt.hex()}"] if salt else []), str(path)]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    ours = _native.verity_digest(algorithm.kernel_id, data, algorithm.digest_size, block_size, salt)

    assert ours.hex() == theirs
