"""Garbage is collected in a loop while images are imported, by us and by cfsctl: nothing is lost."""

import os
import subprocess
import threading

import pytest

from composefs import Repository, import_image
from composefs.errors import BusyError
from composefs.oci.fsck import check_images
from composefs.repository.gc import collect_garbage
from composefs.repository.holders import find_holders
from tests import commands
from tests.garbage import ALGORITHM, objects_in
from tests.layouts import files_layer, image_layout, noise
from tests.threads import meanwhile
from tests.tools import require_tool

IMAGES = 3


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """Images that share a layer, each with two of its own."""
    directory = tmp_path_factory.mktemp("layouts")
    shared = files_layer({f"usr/shared{number}": noise(2000, number) for number in range(100)}, "gzip")
    for image in range(IMAGES):
        own = [
            files_layer(
                {f"usr/own{layer}-{number}": noise(2000, 1000 * image + 300 * layer + number) for number in range(80)}
            )
            for layer in range(2)
        ]
        image_layout(directory / str(image), [shared, *own])
    return directory


@pytest.fixture
def path(tmp_path):
    """An empty repository."""
    path = tmp_path / "repository"
    Repository.init(path, ALGORITHM, require_verity=False)
    return path


def check_all(path):
    """All images are there and whole, and nothing of them is garbage."""
    with Repository.open(path) as repository:
        report = check_images(repository)
        assert report.ok, report
        assert report.images_checked == IMAGES
        before = objects_in(path)
        collect_garbage(repository)
        assert check_images(repository).ok
        assert objects_in(path) <= before


def test_an_import_is_in_the_way_from_its_first_to_its_last_step(path, layouts):
    """At each event of an import, no garbage can be collected, and who is in the way is told."""
    refused, holders = [], set()
    fd = os.open(path, os.O_RDONLY)

    def collect(_):
        with Repository.open(path) as other, pytest.raises(BusyError) as caught:
            collect_garbage(other)
        refused.append(caught.value.holders)

    def look(ended):
        while not ended.is_set():
            holders.update(holder.pid for holder in find_holders(fd))

    with meanwhile(look), Repository.open(path) as repository:
        for image in range(IMAGES):
            import_image(repository, f"oci:{layouts / str(image)}", name=str(image), workers=2, progress=collect)
    os.close(fd)

    assert len(refused) > 3 * IMAGES
    assert all(f"process {os.getpid()} (" in str(each) for each in refused)
    assert len(holders) > 1  # workers have it open for themselves: it is so, too, if their parent dies
    check_all(path)


@pytest.mark.parametrize("tool", ["composefs", "cfsctl"])
def test_collecting_in_a_loop(tool, path, layouts, tmp_path):
    """Imports one after the other, by another process, and a collection at each moment."""
    if tool == "cfsctl":
        program = require_tool("cfsctl")

        def start(image):
            command = [program, "--repo", path, "oci", "pull", f"oci:{layouts / str(image)}", str(image)]
            return subprocess.Popen(command, stdout=subprocess.PIPE)
    else:

        def start(image):
            words = ["--repo", path, "import", f"oci:{layouts / str(image)}", "--name", image, "--quiet"]
            return commands.start(tmp_path, "composefs", *words, stdout=subprocess.PIPE)

    counts = {"collected": 0, "busy": 0, "dry": 0}
    ended, errors = threading.Event(), []

    def collect():
        try:
            while not ended.is_set():
                with Repository.open(path) as repository:
                    counts["dry"] += collect_garbage(repository, dry_run=True).dry_run
                    try:
                        collect_garbage(repository)
                        counts["collected"] += 1
                    except BusyError:
                        counts["busy"] += 1
                ended.wait(0.01)  # others want the lock, too
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for image in range(IMAGES):
            with start(image) as process:
                assert process.wait(commands.TIMEOUT) == 0
    finally:
        ended.set()
        thread.join()

    assert errors == []
    assert counts["busy"] > 0
    assert counts["collected"] > 0
    check_all(path)


def test_two_collections_do_not_wait_for_each_other(path):
    """Both have it open, and want it alone: one gives way."""
    results = []

    def collect():
        with Repository.open(path) as repository:
            barrier.wait()
            try:
                collect_garbage(repository, wait=20)
                results.append(True)
            except BusyError:
                results.append(False)

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True, True]
