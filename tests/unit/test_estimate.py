"""What an import takes, from speeds that are made up so that one thing is the slowest."""

import gzip
from dataclasses import replace

import pytest

from composefs.benchmark.entries import EntrySpeed
from composefs.benchmark.estimate import Bound, Speeds, estimate, recommend
from composefs.benchmark.storing import FileSpeed
from composefs.benchmark.workload import LayerSize, Workload, given_image, typical_image
from composefs.oci.layout import open_layout
from composefs.oci.manifest import Compression
from composefs.oci.sizes import ARCHIVE_SIZE
from tests.layouts import image_layout, layer, noise, rooted, tar

GB = 10**9
FILES = FileSpeed(
    mean_size=25_000,
    writers=2,
    one=1e-6,
    several=5e-7,
    cpu=1e-6,
    flush=0,
    seal=None,
    write_rate=100 * GB,
    flush_rate=1000 * GB,
)
SPEEDS = Speeds(
    decoders={Compression.GZIP: GB, Compression.ZSTD: 2 * GB},
    digest=2 * GB,
    leaves=4 * GB,
    small_file=1e-6,
    entries=EntrySpeed(layer=1e-6, image=1e-6),
    files=FILES,
    dirty_max=0,
)


def layers(*sizes, compression=Compression.GZIP, entries=0, objects=0):
    """Return an image of layers of so many GB of archive, which compress to a quarter."""
    share = 1 if compression is Compression.NONE else 4
    sizes = tuple(LayerSize(size * GB // share, size * GB, compression) for size in sizes)
    return Workload(sizes, entries, objects)


def test_stages_are_sums_over_layers():
    """CPU seconds follow from sizes and rates."""
    found = estimate(layers(4, 4, entries=10**6, objects=10**5), SPEEDS, workers=2, cpus=2)

    contents = 8 * GB - 768 * 10**6
    assert found.stages == pytest.approx(
        {
            "gzip": 8.0,
            "blob digest": 1.0,
            "diff_id": 4.0,
            "leaves": 0.1 + (contents - 4096 * 10**5) / (4 * GB),
            "entries": 1.0,
            "files": 0.1 + (contents - 25_000 * 10**5) / (100 * GB),
        }
    )
    assert found.image == pytest.approx(1.0)
    assert found.by_bound[Bound.CPU] == pytest.approx(sum(found.stages.values()) / 2)
    assert found.seconds == pytest.approx(found.layers + found.image + found.by_bound[Bound.FLUSH])


def test_plain_layers_are_hashed_once():
    """The digest of a blob that is not compressed is its diff_id, and there is nothing to decompress."""
    found = estimate(layers(4, compression=Compression.NONE), SPEEDS, workers=1, cpus=1)

    assert found.stages.keys() == {"diff_id", "leaves", "entries", "files"}


def test_mixed_layers():
    """Each layer counts with its own decoder."""
    mixed = Workload(layers(4).layers + layers(4, compression=Compression.ZSTD).layers, 0, 0)

    found = estimate(mixed, SPEEDS, workers=2, cpus=2)

    assert found.stages["gzip"] == 4.0
    assert found.stages["zstd"] == 2.0


@pytest.mark.parametrize(
    ("workload", "speeds", "cpus", "wanted"),
    [
        (layers(1, 1, 1, 1), SPEEDS, 2, Bound.CPU),
        (layers(8, 1, 1), replace(SPEEDS, digest=20 * GB), 16, Bound.STREAM),
        (layers(8, 1, 1, compression=Compression.NONE), replace(SPEEDS, leaves=100 * GB), 16, Bound.STREAM),
        (layers(1, objects=10**6), replace(SPEEDS, files=replace(FILES, one=1e-4, several=1e-4)), 2, Bound.FILES),
        (layers(1, objects=10**6), replace(SPEEDS, files=replace(FILES, seal=1e-3)), 2, Bound.FILES),
        (layers(4, 4), replace(SPEEDS, files=replace(FILES, flush_rate=GB / 10)), 2, Bound.FLUSH),
        (layers(1, objects=10**6), replace(SPEEDS, files=replace(FILES, flush=1e-4)), 2, Bound.FLUSH),
        (layers(1), replace(SPEEDS, files=None, entries=None), 1, Bound.CPU),
    ],
)
def test_bound(workload, speeds, cpus, wanted):
    """The bound is what takes the longest."""
    assert recommend(workload, speeds, cpus).bound is wanted


def test_largest_stage():
    """The stage that takes the most CPU is found."""
    assert estimate(layers(1), SPEEDS, workers=1, cpus=1).largest_stage == "gzip"
    slow = replace(SPEEDS, leaves=GB / 10)
    assert estimate(layers(1), slow, workers=1, cpus=1).largest_stage == "leaves"


def test_one_core_inflates_a_layer():
    """More CPUs do not make one large layer faster than its stream; several layers they do."""
    one = [estimate(layers(8), SPEEDS, workers=8, cpus=cpus).layers for cpus in (8, 64)]
    many = [estimate(layers(*[1] * 64), SPEEDS, workers=64, cpus=cpus).layers for cpus in (8, 64)]

    assert one[0] == one[1] >= 8.0
    assert many[1] < many[0] / 7


def test_part_of_a_cpu():
    """A quota of half a CPU doubles what one takes."""
    whole, half = (estimate(layers(1), SPEEDS, workers=1, cpus=cpus).layers for cpus in (1, 0.5))

    assert half == pytest.approx(2 * whole)
    assert recommend(layers(1, 1), SPEEDS, 0.5).workers == 1


def test_flush_of_what_is_left():
    """What the kernel writes meanwhile needs no flush, but for what it keeps in memory."""
    disk = replace(FILES, flush_rate=GB)
    quick = estimate(layers(4), replace(SPEEDS, files=disk), workers=1, cpus=1)
    kept = estimate(layers(4), replace(SPEEDS, files=disk, dirty_max=GB), workers=1, cpus=1)
    slow = estimate(layers(4), replace(SPEEDS, files=replace(disk, flush_rate=GB / 10)), workers=1, cpus=1)

    assert quick.by_bound[Bound.FLUSH] == 0
    assert kept.by_bound[Bound.FLUSH] == 1
    assert slow.by_bound[Bound.FLUSH] == pytest.approx(40 - slow.layers)


def test_files_are_left_out():
    """Without files and entries the rest is estimated."""
    found = estimate(layers(1, entries=10, objects=10), replace(SPEEDS, files=None, entries=None), workers=1, cpus=1)

    assert found.stages.keys() == {"gzip", "blob digest", "diff_id", "leaves"}
    assert found.image == found.by_bound[Bound.FILES] == found.by_bound[Bound.FLUSH] == 0


@pytest.mark.parametrize(("count", "cpus", "wanted"), [(20, 2, 2), (1, 8, 1), (20, 1, 1), (20, 2.5, 3), (3, 64, 3)])
def test_recommended_workers(count, cpus, wanted):
    """As many as there are CPUs, but not more than layers."""
    assert recommend(layers(*[1] * count), SPEEDS, cpus).workers == wanted


@pytest.mark.parametrize(("several", "wanted"), [(0.9e-3, 2), (1.05e-3, 2), (2e-3, 1)])
def test_no_more_workers_than_the_disk_likes(several, wanted):
    """Where several writers are slower than one, one worker is recommended; what may be chance does not count."""
    disk = replace(SPEEDS, files=replace(FILES, one=1e-3, several=several))

    assert recommend(layers(1, 1, 1, 1, objects=10**5), disk, 2).workers == wanted


def test_nothing():
    """An image without layers takes no time."""
    found = recommend(Workload((), 0, 0), SPEEDS, 2)

    assert found.seconds == 0
    assert found.workers == 1


def test_typical_image():
    """Layers add up to what is asked for, the largest first; entries and objects follow the size."""
    whole, half = typical_image(), typical_image(layers=1, archive_size=ARCHIVE_SIZE // 2)

    assert len(whole.layers) == 20
    assert whole.archive_size == pytest.approx(ARCHIVE_SIZE, abs=20)
    assert whole.layers[0].archive / whole.archive_size == pytest.approx(0.25, abs=0.01)
    assert (half.entries, half.objects) == (whole.entries // 2, whole.objects // 2)
    plain = typical_image(compression=Compression.NONE, entries=7, objects=6)
    assert (plain.blob_size, plain.entries, plain.objects) == (plain.archive_size, 7, 6)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_given_image(tmp_path, compression):
    """A gzip blob says how large its archive is, of zstd the usual ratio is taken; a layer counts once."""
    archive = tar(rooted({"usr/lib/a": noise(50_000), "usr/lib/b": bytes(50_000)}))
    stored = layer(archive, compression)
    image_layout(tmp_path, [stored, stored])

    source = open_layout(str(tmp_path))
    found = given_image(source, source.image())

    assert found.blob_size == len(stored.blob)
    assert found.archive_size == (round(3.5 * len(stored.blob)) if compression == "zstd" else len(archive))


@pytest.mark.parametrize("blob", [gzip.compress(noise(9000)) + gzip.compress(b""), b"tiny", bytes(range(1, 13))])
def test_given_image_of_no_plain_size(tmp_path, blob):
    """A blob whose end tells no likely size has a usual one; what it is worth, the import says."""
    image_layout(tmp_path, [layer(tar({"usr/": b""}), "gzip", blob=blob)])

    source = open_layout(str(tmp_path))
    found = given_image(source, source.image())

    assert found.archive_size == round(3.16 * len(blob))


def test_given_image_without_a_blob(tmp_path):
    """A blob that is not there has the usual size."""
    stored = layer(tar({"usr/": b""}), "gzip")
    layout = image_layout(tmp_path, [stored])
    layout.blob_path(stored.digest).unlink()

    source = open_layout(str(tmp_path))

    assert given_image(source, source.image()).archive_size == round(3.16 * len(stored.blob))
