"""The parts of the benchmarks that compute something: fits, ratios, plots, and the document they go into."""

import importlib
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

from composefs.oci.blobs import decompress

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def load(monkeypatch):
    """Return what imports a module of bench/, which are programs beside each other and no package."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def make_usage(load, wall: float):
    return load("measure").Usage(wall, wall, 1.0, 1.0, 10, 5, 20)


def test_forms_of_a_layer_hold_its_archive(load):
    inflation, images = load("inflation"), load("images")
    entries = [entry for plan in images.KINDS["one-gzip"].layers("small")[0] for entry in plan()][:300]
    archive = b"".join(images.tar_parts(entries))

    for form in inflation.FORMS:
        blob = inflation.pack(archive, form)
        assert b"".join(decompress(inflation.Bytes(blob), form.compression)) == archive, form.name


def test_a_fit_finds_the_line_that_the_points_are_on(load):
    xs = [1.0, 10.0, 1000.0]

    start, slope = load("scaling").fit(xs, [2 + 0.5 * x for x in xs])

    assert (start, slope) == pytest.approx((2, 0.5))


def test_a_fit_minds_relative_distances(load):
    """One second off matters at the short end and not at the long one."""
    start, slope = load("scaling").fit([1, 2, 1000], [1, 2, 1001])

    assert start + slope == pytest.approx(1, abs=0.01)


def test_ratios_are_of_runs_next_to_each_other(load):
    """A machine that becomes ten times slower does not change them."""
    runs = {
        tool: [make_usage(load, wall) for wall in walls]
        for tool, walls in (("cfsctl", (3, 30)), ("composefs", (1, 10)))
    }

    summary = load("report").summarize(runs)

    assert summary["over_ours"]["wall"] == {"median": 3, "min": 3, "max": 3}
    assert summary["over_limit"]["wall"] == {}


def test_verdicts_say_what_is_reached_and_what_is_missed(load):
    report = load("report")
    works = {
        name: report.summarize({"cfsctl": [make_usage(load, theirs)], "composefs": [make_usage(load, ours)]})
        for name, theirs, ours in (("many-gzip", 30, 10), ("one-gzip", 30, 20))
    }

    lines = list(report.verdicts(works))

    assert "many-gzip: cfsctl takes 3.00 times our time, wanted 3.00: reached" in lines
    assert "one-gzip: cfsctl takes 1.50 times our time, wanted 3.00: MISSED" in lines
    assert "one-gzip: 0.50 of the rate of many-gzip, wanted 0.85: MISSED" in lines


def test_a_series_begins_with_the_import_that_the_others_need(load):
    works = load("works")

    series = [[work.name for work in chosen] for chosen in works.chosen_series(["update", "one-gzip"])]

    assert series == [["many-gzip", "update"], ["one-gzip"]]


def test_a_plot_is_xml_with_a_point_for_each_value(load):
    plot = load("plot")
    points = [(1, 2), (10, 20), (100, 150)]

    svg = plot.chart("<a & b>", plot.Axis("x", logarithmic=True), plot.Axis("y"), [plot.Line("one", points)])

    root = ET.fromstring(svg)
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("circle") == len(points)
    assert "<a & b>" in [element.text for element in root.iter()]


def test_an_axis_reaches_as_far_as_its_values(load):
    plot = load("plot")

    ticks, scale = plot._scale(plot.Axis("y"), [1, 43], 0, 100)

    assert list(ticks) == [0, 10, 20, 30, 40, 50]
    assert scale(50) == pytest.approx(100)


def test_only_blocks_with_results_change_in_the_document(load):
    text = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\nold\n<!-- end -->\n"

    filled = load("document").fill(text, {"one": ["new", "er"]})

    assert filled == "a\n<!-- one -->\n\nnew\ner\n\n<!-- end -->\nb\n<!-- two -->\nold\n<!-- end -->\n"
    assert load("document").fill(filled, {"one": ["new", "er"]}) == filled


def test_the_document_has_a_place_for_every_block(load):
    """Those that make tables and the page that has them are not to part."""
    text = (BENCH.parent / "docs/performance.md").read_text()
    places = {match[2] for match in load("document")._BLOCK.finditer(text)}
    sweeps = set(load("scaling").sweeps("small"))
    tables = {f"sha{bits}-{what}" for bits in (256, 512) for what in ("speed", "cost", "rest")}

    assert places == {"machine", "slow", "kernels", "lab", "pull", *tables, *sweeps}


def test_lab_figures(load):
    """Ratios are of runs next to each other; where a tool is missing there are none."""
    works = load("kernel").summarize({"both": {"composefs": [1, 2, 4], "cfsctl": [2, 6, 8]}, "one": {"composefs": [3]}})

    assert works["both"]["ratio"] == {"median": 2, "min": 2, "max": 3}
    assert works["both"]["cfsctl"] == {"median": 6, "min": 2, "max": 8}
    assert works["one"] == {"composefs": {"median": 3, "min": 3, "max": 3}}
    assert [row[1:] for row in load("kernel").table(works).rows] == [
        ["2.00", "6.00", "2.00 (2.00 to 3.00)"],
        ["3.00", "-", "-"],
    ]


def test_the_limit_stores_the_objects_of_a_layer(load, tmp_path, monkeypatch):
    """Files within a slot, across slots, and too large for memory; in one thread and in three."""
    pytest.importorskip("isal")
    limit = load("limit")
    contents = [bytes([number]) * size for number, size in enumerate((65, 300, 5_000, 70_000, 0, 40))]
    archive, places = b"", []
    for content in contents:
        archive += bytes(512)
        if len(content) > 64:
            places += [len(archive), len(content)]
        archive += content + bytes(-len(content) % 512)
    monkeypatch.setattr(limit, "_SLOT_SIZE", 4096)
    monkeypatch.setattr(limit, "_GATHER_MAX", 10_000)
    (tmp_path / "blob").write_bytes(archive)
    (tmp_path / "places").write_bytes(limit.array.array("q", places).tobytes())
    digest = "sha256:" + limit.hashlib.sha256(archive).hexdigest()
    layer = limit.Layer(str(tmp_path / "blob"), str(tmp_path / "places"), "", digest, digest, len(archive))
    for threads in (False, True):
        objects = tmp_path / f"objects-{threads}"
        for number in range(256):
            (objects / f"{number:02x}").mkdir(parents=True)
        target = limit.Target(str(objects), "fsverity-sha256-12")

        assert limit.store_layer(layer, target, threads) == 4
        assert limit.store_layer(layer, target, threads) == 0
        assert sorted(path.read_bytes() for path in objects.glob("*/*")) == sorted(contents[:4])


def test_table_of_pulls(load):
    """Each tool is compared with ours, run by run; of an archive the layout is what it is compared with."""
    pull = load("pull")
    taken = {
        "one-gzip": {"cfsctl": [make_usage(load, 3), make_usage(load, 8)], "composefs": [make_usage(load, 1)] * 2},
        "archive": {"oci:": [make_usage(load, 2)] * 2, "archive": [make_usage(load, 1)] * 2},
    }

    rows = pull.table(taken).rows

    assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [
        ("one-gzip", "cfsctl", "5.50", "5.50 (3.00-8.00)"),
        ("one-gzip", "composefs", "1.00", "1.00 (1.00-1.00)"),
        ("archive", "oci:", "2.00", "1.00 (1.00-1.00)"),
        ("archive", "archive", "1.00", "0.50 (0.50-0.50)"),
    ]
