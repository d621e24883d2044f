"""The unavoidable work of an import and nothing else: how fast this machine could be, with the libraries that we use.

    python bench/limit.py locate IMAGE                            where the files are in each layer, once, untimed
    python bench/limit.py run IMAGE OBJECTS --algorithm ALGORITHM

IMAGE is a directory as bench/images.py makes them.  `run` reads every blob, inflates it, computes the digests of blob
and archive and the fs-verity digest of every file over 64 bytes, creates, writes and links each one that is not there,
and calls syncfs once.  There are no headers to read, no splitstream, no index, no image, no repository.  Layers go to
one process for each CPU; where there are fewer layers than CPUs, three threads of each overlap.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import errno
import gzip
import hashlib
import json
import multiprocessing
import os
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import BinaryIO, NamedTuple, TypeVar

import zstandard
from isal import igzip_lib

from composefs import _native

_INLINE_MAX = 64  # bytes; larger files are objects
_READ_SIZE = 1 << 18  # bytes
_SLOT_SIZE = 1 << 19  # bytes of an archive at a time; the best size for ISA-L, see composefs/oci/blobs.py
_GATHER_MAX = 1 << 23  # bytes of a file that is put together in memory
_QUEUE_SIZE = 8  # slots between two threads
_ALGORITHMS = {"fsverity-sha256-12": (_native.SHA256, 32), "fsverity-sha512-12": (_native.SHA512, 64)}

Slots = Iterator[bytes | memoryview]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer and what it must turn out to be."""

    blob: str  # path
    places: str  # path of the list of its files
    compression: str  # suffix of the media type: gzip, zstd, or empty
    digest: str  # of the blob
    diff_id: str
    size: int  # bytes, of the blob


@dataclass(frozen=True, slots=True)
class Target:
    """Where objects go."""

    objects: str  # path
    algorithm: str


def read_layers(image: Path) -> list[Layer]:
    """Return the layers of *image*, lowest first."""
    blobs = image / "layout" / "blobs" / "sha256"

    def blob(digest: str) -> Path:
        return blobs / digest.removeprefix("sha256:")

    index = json.loads((image / "layout" / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_bytes())
    config = json.loads(blob(manifest["config"]["digest"]).read_bytes())
    return [
        Layer(
            blob=str(blob(layer["digest"])),
            places=str(image / "places" / blob(layer["digest"]).name),
            compression=layer["mediaType"].rpartition(".tar")[2].removeprefix("+"),
            digest=layer["digest"],
            diff_id=diff_id,
            size=layer["size"],
        )
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
    ]


def locate(image: Path) -> None:
    """Write offset and size, in bytes, of every file that becomes an object, a list for each layer, once."""
    for layer in read_layers(image):
        places = Path(layer.places)
        if places.exists():
            continue
        places.parent.mkdir(exist_ok=True)
        found = array.array("q")
        with _open_archive(layer) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for info in tar:
                if info.isreg() and info.size > _INLINE_MAX:
                    found.extend((info.offset_data, info.size))
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        partial = places.with_suffix(".partial")
        partial.write_bytes(found.tobytes())
        partial.rename(places)


def _open_archive(layer: Layer) -> BinaryIO:
    if layer.compression == "gzip":
        return gzip.open(layer.blob)  # type: ignore[return-value]
    if layer.compression == "zstd":
        return zstandard.open(layer.blob)  # type: ignore[no-any-return]
    return open(layer.blob, "rb")


def run(image: Path, target: Target) -> int:
    """Do the work, each layer in three threads where there are fewer than CPUs; return the number of new objects."""
    layers = sorted(read_layers(image), key=lambda layer: layer.size, reverse=True)
    for number in range(256):
        Path(target.objects, f"{number:02x}").mkdir(parents=True, exist_ok=True)
    workers = len(os.sched_getaffinity(0))
    overlap = len(layers) < workers
    if len(layers) == 1:
        made = store_layer(layers[0], target, overlap)
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
            made = sum(pool.map(store_layer, layers, [target] * len(layers), [overlap] * len(layers)))
    fd = os.open(target.objects, os.O_RDONLY | os.O_DIRECTORY)
    _native.syncfs(fd)
    os.close(fd)
    return made


def store_layer(layer: Layer, target: Target, overlap: bool) -> int:  # noqa: FBT001 - map() knows no keywords
    """Do the work of one layer, if *overlap* in three threads; return the number of new objects."""
    places = array.array("q")
    places.frombytes(Path(layer.places).read_bytes())
    blob_hash, archive_hash = hashlib.sha256(), _native.StreamHash(_ALGORITHMS[target.algorithm][0])
    with open(layer.blob, "rb", buffering=0) as file, contextlib.closing(Objects(target)) as objects:
        slots = _inflate(file, layer.compression, blob_hash.update, reuse=not overlap)
        batches = cut(_ahead(slots) if overlap else slots, places, objects, archive_hash)
        for batch in _ahead(batches) if overlap else batches:
            objects.store(batch)
        made = objects.made
    diff_id = f"sha256:{archive_hash.hexdigest()}"
    digest = f"sha256:{blob_hash.hexdigest()}" if layer.compression else diff_id
    for what, got, wanted in (("blob", digest, layer.digest), ("diff_id", diff_id, layer.diff_id)):
        if got != wanted:
            raise ValueError(f"{what}: {got} and not {wanted}")
    return made


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """Yield *items*, which a thread gets ahead of time."""
    queue: Queue[tuple[_T | None, BaseException | None]] = Queue(_QUEUE_SIZE)

    def run() -> None:
        try:
            for item in items:
                queue.put((item, None))
            queue.put((None, None))
        except BaseException as error:
            queue.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        item, error = queue.get()
        if error is not None:
            raise error
        if item is None:
            return
        yield item


def _inflate(file: BinaryIO, compression: str, hash_blob: Callable[[bytes], object], *, reuse: bool) -> Slots:
    """Yield the archive in slots, which the next one may overwrite if *reuse*; a plain one is not hashed here."""
    if compression == "gzip":
        decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not decoder.eof:
            data = b""
            if decoder.needs_input:
                data = file.read(_READ_SIZE)
                hash_blob(data)
            if slot := decoder.decompress(data, _SLOT_SIZE):
                yield slot
    elif compression == "zstd":
        reader = zstandard.ZstdDecompressor().stream_reader(_Hashed(file, hash_blob), read_size=_READ_SIZE)
        slot = bytearray(_SLOT_SIZE)
        while size := reader.readinto(slot):
            yield memoryview(slot)[:size]
            if not reuse:
                slot = bytearray(_SLOT_SIZE)
    else:
        buffer = bytearray(_SLOT_SIZE)
        while size := file.readinto(buffer):  # type: ignore[attr-defined]  # it is no text
            yield memoryview(buffer)[:size]
            if not reuse:
                buffer = bytearray(_SLOT_SIZE)


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO, update: Callable[[bytes], object]) -> None:
        self._file, self._update = file, update

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._update(data)
        return data


def cut(slots: Slots, places: array.array[int], objects: Objects, archive_hash: _native.StreamHash) -> Iterator[Batch]:
    """Yield the files of an archive, in batches, and hash it beside them.

    Args:
        slots: the archive.
        places: offset and size of each file, in order.
        objects: that take files which are too large for memory.
        archive_hash: of the whole archive.

    Raises:
        ValueError: there should have been more files.
    """
    index = start = 0  # of the next file in places; of the slot in the archive
    gathered = bytearray()  # of a file that began in an earlier slot
    writer: Writer | None = None  # of such a file, if it is too large for that
    for slot in slots:
        view, whole = memoryview(slot), array.array("Q")  # offset and size of the files that lie in this slot
        archive_hash.begin(view)
        while index < len(places) and places[index] < start + len(view):
            offset, size = places[index] - start, places[index + 1]
            if offset >= 0 and offset + size <= len(view):
                whole.extend((offset, size))
                index += 2
                continue
            piece = view[max(0, offset) : offset + size]
            if size > _GATHER_MAX:
                writer = writer or Writer(objects)
                writer.write(piece)
            else:
                gathered += piece
            if offset + size > len(view):
                break
            index += 2
            if writer is not None:
                writer.finish()
                writer = None
            else:
                yield objects.digest(gathered, array.array("Q", (0, size)), archive_hash)
                gathered = bytearray()
        if whole:
            yield objects.digest(view, whole, archive_hash)
        archive_hash.finish()
        start += len(view)
    if index != len(places):
        raise ValueError("the archive ends before the last file")


class Batch(NamedTuple):
    """Files that lie in one buffer."""

    data: bytearray | memoryview
    spans: memoryview  # offset and size of each
    digests: bytes  # back to back


class Objects:
    """A directory of objects."""

    def __init__(self, target: Target) -> None:
        self.kernel_id, self.digest_size = _ALGORITHMS[target.algorithm]
        self.fd = os.open(target.objects, os.O_RDONLY | os.O_DIRECTORY)
        self.made = 0

    def close(self) -> None:
        """Close the directory."""
        os.close(self.fd)

    def digest(self, data: bytearray | memoryview, spans: array.array[int], beside: _native.StreamHash) -> Batch:
        """Hash the files that lie in *data*, at the offsets and of the sizes in *spans*, and the stream *beside*."""
        where = memoryview(spans)
        return Batch(data, where, _native.verity_digests(self.kernel_id, data, where, self.digest_size, beside))

    def store(self, batch: Batch) -> None:
        """Write what is not there.

        Raises:
            OSError: one could not be written.
        """
        for result in _native.store_objects(self.fd, 0, batch.data, batch.spans, batch.digests):
            if result >= 0:
                self.made += result
            elif result != -errno.EEXIST:  # then another process was faster
                raise OSError(-result, os.strerror(-result))


class Writer:
    """Write a large object piece by piece."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._state = _native.VerityState(objects.kernel_id, objects.digest_size)
        self._fd = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o644, dir_fd=objects.fd)
        self.size = 0  # bytes so far

    def write(self, data: memoryview) -> None:
        """Append *data*."""
        self._state.update(data)
        self.size += len(data)
        while len(data := data[os.write(self._fd, data) :]):
            pass

    def finish(self) -> None:
        """Give the object its name, unless there is one."""
        name = self._state.digest().hex()
        with contextlib.suppress(FileExistsError):
            _native.link_fd(self._fd, self._objects.fd, f"{name[:2]}/{name[2:]}")
            self._objects.made += 1
        os.close(self._fd)


def main(argv: Sequence[str] | None = None) -> int:
    """Locate, or work and print what was made."""
    parser = argparse.ArgumentParser(description="Do the unavoidable work of an import, and nothing else.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("locate", "run"):
        command = commands.add_parser(name)
        command.add_argument("image", type=Path, metavar="IMAGE")
        if name == "run":
            command.add_argument("objects", metavar="OBJECTS")
            command.add_argument("--algorithm", choices=_ALGORITHMS, required=True)
    args = parser.parse_args(argv)
    if args.command == "locate":
        locate(args.image)
    else:
        print(f"{run(args.image, Target(args.objects, args.algorithm))} objects")
    return 0


if __name__ == "__main__":
    sys.exit(main())
