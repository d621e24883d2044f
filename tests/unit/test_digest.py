"""Algorithms and digests as values."""

import pickle

import pytest

from composefs.digest import Algorithm, Digest, object_path


@pytest.mark.parametrize(
    ("text", "hash_name", "kernel_id", "digest_size"),
    [("fsverity-sha256-12", "sha256", 1, 32), ("fsverity-sha512-12", "sha512", 2, 64)],
)
def test_an_algorithm_knows_its_names_and_sizes(text, hash_name, kernel_id, digest_size):
    algorithm = Algorithm.parse(text)

    assert algorithm.value == text
    assert (algorithm.hash_name, algorithm.kernel_id, algorithm.digest_size) == (hash_name, kernel_id, digest_size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with"),
        ("sha256-12", "does not begin with"),
        ("FSVERITY-sha256-12", "does not begin with"),
        ("fsverity-sha256", "names no block size"),
        ("fsverity-", "names no block size"),
        ("fsverity-sha256-16", "block size 16"),
        ("fsverity-sha256-x", "block size x"),
        ("fsverity-md5-16", "block size 16"),  # the block size is looked at first, as in composefs-rs
        ("fsverity-md5-12", "unknown hash 'md5'"),
        ("fsverity-SHA256-12", "unknown hash 'SHA256'"),
        ("fsverity-sha256-x-12", "unknown hash 'sha256-x'"),
        ("fsverity--12", "unknown hash ''"),
    ],
)
def test_what_is_no_algorithm_says_which_part_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        Algorithm.parse(text)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_digest_has_its_textual_forms(algorithm):
    raw = bytes(range(algorithm.digest_size))
    digest = Digest(algorithm, raw)

    assert digest.hex == raw.hex()
    assert str(digest) == f"{algorithm.hash_name}:{raw.hex()}"
    assert digest.object_path == object_path(raw) == f"00/{raw.hex()[2:]}"
    assert Digest.from_hex(algorithm, digest.hex.upper()) == digest
    assert pickle.loads(pickle.dumps(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00" * 31,
        "00" * 33,
        "0" * 63,
        "g" * 64,
        " " * 64,
        "00 " * 21 + "0",
        "\N{ARABIC-INDIC DIGIT ZERO}" * 64,
        "0x" + "0" * 62,
    ],
)
def test_what_is_no_digest_is_refused(text):
    with pytest.raises(ValueError, match="no sha256 digest in hexadecimal"):
        Digest.from_hex(Algorithm.SHA256, text)
