"""composefs.verity: digests of values, and what the kernel's answers mean."""

import errno
import os

import pytest

from composefs import _native, verity
from composefs.digest import Algorithm
from composefs.errors import IntegrityError
from tests import reference


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 300_000])
def test_the_three_ways_agree_with_the_reference(tmp_path, algorithm, size):
    data = bytes(i * 31 & 0xFF for i in range(size))
    path = tmp_path / "file"
    path.write_bytes(data)
    want = reference.verity_digest(data, algorithm.hash_name)

    builder = verity.DigestBuilder(algorithm)
    builder.update(data[: size // 3])
    builder.update(data[size // 3 :])
    with path.open("rb") as file:
        digests = [
            verity.compute_digest(data, algorithm),
            verity.compute_file_digest(file.fileno(), algorithm),
            builder.finish(),
        ]

    assert [(digest.algorithm, digest.raw) for digest in digests] == [(algorithm, want)] * 3


def test_a_builder_finishes_once():
    builder = verity.DigestBuilder(Algorithm.SHA512)
    builder.finish()

    with pytest.raises(ValueError, match="already taken"):
        builder.finish()


class Kernel:
    """Answers in the place of the ioctls, in their order, and counts."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, *_args):
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer


@pytest.fixture
def kernel(monkeypatch):
    def answers(*answers):
        fake = Kernel(*answers)
        monkeypatch.setattr(_native, "measure_verity", fake)
        monkeypatch.setattr(_native, "enable_verity", fake)
        monkeypatch.setattr(_native, "seal", fake)
        return fake

    return answers


def test_measure_returns_what_the_kernel_enforces(kernel):
    kernel((2, bytes(64)))

    assert verity.measure(3, Algorithm.SHA512) == (Algorithm.SHA512, bytes(64))


@pytest.mark.parametrize("error", [errno.ENODATA, errno.ENOTTY, errno.EOPNOTSUPP])
def test_measure_knows_files_without_verity(kernel, error):
    kernel(error)

    assert verity.measure(3, Algorithm.SHA256) is None


@pytest.mark.parametrize("error", [errno.EIO, errno.EOVERFLOW])
def test_measure_passes_other_errors_on(kernel, error):
    kernel(error)

    with pytest.raises(OSError, match=os.strerror(error)):
        verity.measure(3, Algorithm.SHA256)


@pytest.mark.parametrize(
    ("answer", "got"),
    [((2, bytes(64)), "sha512, 64 bytes"), ((1, bytes(20)), "sha256, 20 bytes"), ((9, bytes(32)), "hash 9, 32 bytes")],
)
def test_measure_refuses_another_algorithm_or_size_and_names_both(kernel, answer, got):
    kernel(answer)

    with pytest.raises(IntegrityError) as caught:
        verity.measure(3, Algorithm.SHA256)

    assert str(caught.value) == f"fs-verity of file descriptor 3: wanted sha256, 32 bytes, got {got}"


@pytest.mark.parametrize(
    ("answers", "enabled"),
    [
        ([None], True),
        ([errno.EEXIST], True),
        ([errno.ENOTTY], False),
        ([errno.EOPNOTSUPP], False),
        ([errno.EINVAL], False),
        ([errno.ENOPKG], False),
    ],
)
def test_enable_says_whether_the_file_is_protected(kernel, answers, enabled):
    fake = kernel(*answers)

    assert verity.enable(3, Algorithm.SHA512) is enabled
    assert fake.answers == []


@pytest.mark.parametrize("error", [errno.ETXTBSY, errno.EACCES, errno.ENOSPC])
def test_enable_passes_other_errors_on(kernel, error):
    kernel(error)

    with pytest.raises(OSError, match=os.strerror(error)):
        verity.enable(3, Algorithm.SHA512)


WANTED = verity.compute_digest(b"", Algorithm.SHA512)


@pytest.mark.parametrize(
    ("answer", "sealed"),
    [(None, True)] + [(error, False) for error in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOPKG)],
)
def test_seal_says_whether_the_file_is_protected(kernel, answer, sealed):
    kernel(answer)

    assert verity.seal(3, WANTED, "a/file") is sealed


@pytest.mark.parametrize("error", [errno.ETXTBSY, errno.EACCES, errno.EIO])
def test_seal_passes_other_errors_on_and_names_the_file(kernel, error):
    kernel(error)

    with pytest.raises(OSError, match=os.strerror(error)) as caught:
        verity.seal(3, WANTED, "a/file", 4)
    assert (caught.value.errno, caught.value.filename) == (error, "a/file")


@pytest.mark.parametrize(
    ("measured", "got"), [((2, bytes(64)), bytes(64).hex()), (errno.ENODATA, "no fs-verity")], ids=["other", "none"]
)
def test_seal_refuses_other_contents(kernel, measured, got):
    kernel(errno.EBADMSG, measured)

    with pytest.raises(IntegrityError) as caught:
        verity.seal(3, WANTED, "a/file")
    assert (caught.value.subject, caught.value.wanted, caught.value.got) == ("a/file", WANTED.hex, got)


def test_seal_refuses_another_hash(kernel):
    kernel(errno.EBADMSG, (1, bytes(32)))

    with pytest.raises(IntegrityError, match="wanted sha512, 64 bytes, got sha256, 32 bytes"):
        verity.seal(3, WANTED, "a/file")


@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_real_kernel_enables_and_measures_or_does_neither(tmp_path, algorithm):
    """On a file system with fs-verity the kernel's digest is ours; on another both functions say so."""
    data = os.urandom(70_000)
    path = tmp_path / "file"
    path.write_bytes(data)

    fd = os.open(path, os.O_RDONLY)
    try:
        assert verity.measure(fd, algorithm) is None
        if verity.enable(fd, algorithm):
            assert verity.measure(fd, algorithm) == verity.compute_digest(data, algorithm)
            assert verity.enable(fd, algorithm)
            assert verity.seal(fd, verity.compute_digest(data, algorithm), "file")
        else:
            assert verity.measure(fd, algorithm) is None
            assert not verity.seal(fd, verity.compute_digest(data, algorithm), "file")
    finally:
        os.close(fd)
