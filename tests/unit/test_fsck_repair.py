"""Repair: what is broken or missing comes back bit for bit, from another repository or from the image, and no more."""

import errno
import os
import shutil

import pytest

from composefs import Algorithm, Repository, _native
from composefs.errors import BusyError, ComposefsError, RepositoryError
from composefs.oci.fsck import check_images
from composefs.oci.importer import import_image
from composefs.oci.names import config_name, layer_name, manifest_name
from composefs.oci.repair import ImageSource
from composefs.repository.fsck import Kind, check_repository
from composefs.repository.fsck.other import OtherRepository
from composefs.repository.fsck.repair import heal
from composefs.repository.gc import collect_garbage
from composefs.repository.objects import ObjectStore
from composefs.repository.staging import Staging, StagingArea
from composefs.repository.streams import StreamStore
from composefs.splitstream import ContentType
from tests import damage, layouts
from tests.damage import DAMAGES, HIGH, LOW, SHARED
from tests.layouts import files_layer, image_layout, noise
from tests.oci_checking import rewrite, store_layer
from tests.sources import opened

# Of the damages: what nothing can be fetched for, since it is not missing but too much, or in the way.
STRAYS = {"stray-object", "capital-object", "file-as-ref", "ref-to-object", "socket-as-ref", "ref-outside"}
FOREIGN = {"no-image", "image-called-otherwise", "refs-in-disorder", "object-twice", "nested-ref-dangles"}
IN_THE_WAY = {"directory-as-object", "file-as-stream", "directory-as-stream", "file-as-image", "directory-as-image"}
MENDED = DAMAGES.keys() - STRAYS - FOREIGN - IN_THE_WAY - {name for name in DAMAGES if DAMAGES[name].refused}
MENDED -= {"meta-other", "none"}
OF_UNUSED = {"emptied", "link-as-object"}  # damages of the object that no image needs


def tree(path):
    """Return what every file and link below *path* holds."""
    return {
        str(each.relative_to(path)): os.readlink(each) if each.is_symlink() else each.read_bytes()
        for each in sorted(path.rglob("*"))
        if each.is_symlink() or each.is_file()
    }


def layout_of(place):
    """Return the reference of the image that *place* has."""
    return f"oci:{place.path.parent / 'layout'}"


@pytest.fixture
def sources(original):
    """Make a source, by name, for a repository that is open."""
    other = Repository.open(original.path)
    yield {
        "other": lambda repository: OtherRepository(other, repository),
        "image": lambda repository: ImageSource(opened(layout_of(original)), repository),
    }
    other.close()


def mended(place, source, **options):
    """Check, mend, and return what came of it."""
    with Repository.open(place.path) as repository:
        return heal(repository, check_repository(repository), source=source(repository), **options)


@pytest.mark.parametrize("name", sorted(MENDED))
@pytest.mark.parametrize("source", ["other", "image"])
def test_all_is_as_it_was(name, source, sources, original, place):
    """What was damaged is again what it was, bit for bit, and a check finds nothing."""
    DAMAGES[name].do(place)

    healing = mended(place, sources[source])

    if source == "image" and name in OF_UNUSED:
        assert healing.repair.failed == {place.unused: f"{layout_of(original)} has nothing of it"}
        return
    assert (healing.after.findings, healing.repair.failed) == ([], {})
    assert healing.repair.mended
    assert tree(place.path).items() >= tree(original.path).items()


@pytest.mark.parametrize("name", sorted(IN_THE_WAY))
@pytest.mark.parametrize("source", ["other", "image"])
def test_what_is_in_the_way_is_moved(name, source, sources, original, place):
    """What stands in the place of something else is not overwritten; set aside, it lets that come back."""
    DAMAGES[name].do(place)

    healing = mended(place, sources[source])

    assert len(healing.repair.failed) == 1
    assert not healing.after.ok
    healing = mended(place, sources[source], quarantine=True)
    assert (healing.after.findings, healing.repair.failed) == ([], {})
    wanted = tree(original.path)
    if name == "directory-as-object":  # which nothing needs, so that nobody has missed it
        del wanted[original.unused]
    assert tree(place.path).items() >= wanted.items()


@pytest.mark.parametrize("name", sorted(STRAYS | FOREIGN))
@pytest.mark.parametrize("source", ["other", "image"])
def test_what_is_nowhere_stays(name, source, sources, place):
    """Nothing is made of what there is nothing of, and nothing is removed."""
    DAMAGES[name].do(place)
    before = tree(place.path)

    healing = mended(place, sources[source])

    assert not healing.after.ok
    assert healing.repair.mended == []
    assert tree(place.path) == before


@pytest.mark.parametrize("source", ["other", "image"])
@pytest.mark.parametrize("how", ["emptied", "removed", "wrong"])
def test_all_objects_at_once(source, how, sources, original, place):
    """A repository whose every object is broken or missing is whole again, but for what no image has."""
    for path in place.path.glob("objects/*/*"):
        if how == "removed":
            path.unlink()
        elif how == "emptied":
            os.truncate(path, 0)
        else:
            damage.flip(path)

    healing = mended(place, sources[source])

    wanted = tree(original.path)
    if source == "image" or how == "removed":
        wanted[original.unused] = tree(place.path).get(original.unused)
    assert {name: tree(place.path).get(name) for name in wanted} == wanted
    failed = {} if source == "other" or how == "removed" else {original.unused}
    assert healing.repair.failed.keys() == set(failed)
    assert healing.after.ok == (not failed)


@pytest.mark.parametrize("source", ["other", "image"])
def test_all_names_at_once(source, sources, original, place):
    """A tag whose image has lost every name gets them back."""
    for path in (place.path / "streams").glob("oci-*"):
        path.unlink()

    healing = mended(place, sources[source])

    assert healing.after.ok
    with Repository.open(place.path) as repository:
        report = check_images(repository)
        healing = heal(
            repository, report.repository, source=sources[source](repository), wrong=report.wrong, stale=report.stale
        )
        assert check_images(repository).ok
    assert tree(place.path) == tree(original.path)


@pytest.mark.parametrize("source", ["other", "image"])
def test_nothing_else_is_touched(source, sources, place):
    """Objects that are whole stay the files that they were."""
    DAMAGES["flipped"].do(place)
    before = {path: path.stat() for path in place.path.glob("objects/*/*")}

    mended(place, sources[source])

    changed = {str(path.relative_to(place.path)) for path, info in before.items() if path.stat().st_ino != info.st_ino}
    assert changed == {place.object(HIGH)}
    assert set(place.path.glob("objects/*/*")) == before.keys()


@pytest.mark.parametrize("source", ["other", "image"])
@pytest.mark.parametrize("name", ["flipped", "removed", "stream-object-gone", "image-object-gone"])
def test_contents_are_on_disk_before_they_have_names(source, name, sources, place, monkeypatch):
    """Names are relied on: an object that should be there is flushed before it is."""
    calls = []

    def noted(what, real):
        def call(staging, *arguments, **options):
            calls.append((what, staging.fd))
            return real(staging, *arguments, **options)

        return call

    monkeypatch.setattr(Staging, "_sync", noted("sync", Staging._sync))
    monkeypatch.setattr(Staging, "_link", noted("link", Staging._link))
    DAMAGES[name].do(place)

    mended(place, sources[source])

    assert [what for what, _ in calls] == ["sync", "link"]
    assert len({fd for _, fd in calls}) == 1


@pytest.mark.parametrize("source", ["other", "image"])
@pytest.mark.parametrize("name", ["flipped", "removed", "stream-flipped", "image-object-gone"])
def test_what_is_mended_is_sealed(source, name, sources, original, place, monkeypatch):
    """Where the kernel watches over objects, new ones are sealed before they have names."""
    sealed = []

    def seal(staging, digest, path):
        assert not (place.path / "objects" / path).exists() or name in ("flipped", "stream-flipped")
        sealed.append(path)

    monkeypatch.setattr(StagingArea, "seals", True)
    monkeypatch.setattr(Staging, "_seal", seal)
    monkeypatch.setattr(ObjectStore, "_is_sealed", lambda *_: True)  # which the broken one is, too
    DAMAGES[name].do(place)

    healing = mended(place, sources[source])

    assert healing.after.ok
    assert [f"objects/{path}" for path in sealed] == healing.repair.mended


def test_garbage_is_not_collected_by_the_handle_that_mends(sources, place, monkeypatch):
    """What is stored and not yet named is safe, as that of an import is."""
    DAMAGES["no-stream"].do(place)
    link, refused = StreamStore.link, []

    def collect_first(self, name, digest):
        with pytest.raises(BusyError):
            collect_garbage(repository)
        refused.append(name)
        link(self, name, digest)

    monkeypatch.setattr(StreamStore, "link", collect_first)
    with Repository.open(place.path) as repository:
        report = check_repository(repository)
        assert heal(repository, report, source=sources["other"](repository), quarantine=True).after.ok

    assert refused == [os.path.basename(place.layer_stream(0))]


def test_progress(original, place):
    """Blobs are told as they are read, beside what the checks tell."""
    DAMAGES["flipped"].do(place)
    told = []

    mended(
        place,
        lambda repository: ImageSource(
            opened(layout_of(original)), repository, on_progress=lambda *came: told.append(came)
        ),
    )

    assert told == [("blobs", 1, 1)]


def test_a_source_that_is_broken_itself(original, place, tmp_path):
    """What is broken there, too, is not taken, and that is told; the rest is."""
    source = original.copy(tmp_path / "source")
    DAMAGES["flipped"].do(source)
    DAMAGES["flipped"].do(place)
    DAMAGES["removed"].do(place)

    with Repository.open(source.path) as other:
        healing = mended(place, lambda repository: OtherRepository(other, repository))

    assert healing.repair.mended == [place.object(SHARED)]
    ((path, why),) = healing.repair.failed.items()
    assert path == place.object(HIGH)
    assert why.startswith(f"{source.path}/{path}: wanted {path.removeprefix('objects/').replace('/', '')}, got ")
    assert [finding.kind for finding in healing.after.findings] == [Kind.OBJECT_DIGEST_MISMATCH]


def test_a_source_without_it(place, tmp_path):
    """What is not there is told with its path there."""
    Repository.init(tmp_path / "source", Algorithm.SHA256, require_verity=False)
    DAMAGES["flipped"].do(place)

    with Repository.open(tmp_path / "source") as other:
        healing = mended(place, lambda repository: OtherRepository(other, repository))

    where = f"{tmp_path / 'source'}/{place.object(HIGH)}"
    assert healing.repair.failed == {place.object(HIGH): f"{where}: {os.strerror(2)}"}


def test_sources_that_cannot_be(place, tmp_path):
    """Another algorithm has no object of that name, and a repository does not mend itself."""
    Repository.init(tmp_path / "source", Algorithm.SHA512, require_verity=False)

    with Repository.open(tmp_path / "source") as other, Repository.open(place.path) as repository:
        with pytest.raises(RepositoryError, match="has objects of fsverity-sha512-12, and none of fsverity-sha256-12"):
            OtherRepository(other, repository)
        with pytest.raises(RepositoryError, match="is the repository that is to be mended"):
            OtherRepository(repository, repository)


def test_a_repository_whose_metadata_is_broken(place, sources):
    """Where nobody knows what a repository is, it is not touched."""
    with Repository.open(place.path) as repository:
        DAMAGES["meta"].do(place)
        report = check_repository(repository)

        with pytest.raises(RepositoryError, match="cannot be mended while its meta.json is broken"):
            heal(repository, report, source=sources["other"](repository), quarantine=True)


def test_a_repository_that_cannot_be_written(place, sources, monkeypatch):
    """What cannot be mended is refused before anything is read."""
    DAMAGES["flipped"].do(place)

    def refuse(_):
        raise RepositoryError("here", "is not writable")

    monkeypatch.setattr(Repository, "check_writable", refuse)

    with pytest.raises(RepositoryError, match="not writable"):
        mended(place, sources["other"])


def test_a_blob_that_is_broken_itself(original, place, tmp_path):
    """A layer whose blob is broken is passed over, and told; the other one is mended."""
    shutil.copytree(original.path.parent / "layout", tmp_path / "layout")
    for path in (tmp_path / "layout/blobs/sha256").iterdir():
        if path.stat().st_size > 50_000:
            damage.flip(path, 40_000)
    DAMAGES["flipped"].do(place)
    DAMAGES["swapped"].do(place)

    healing = mended(place, lambda repository: ImageSource(opened(f"oci:{tmp_path / 'layout'}"), repository))

    assert healing.repair.mended == [place.object(LOW)]
    ((path, why),) = healing.repair.failed.items()
    assert (path, "blob: wanted sha256:" in why) == (place.object(HIGH), True)


def test_another_image(place, tmp_path):
    """An image that the repository does not have mends what they share, and leaves no names."""
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/other": HIGH})])
    DAMAGES["flipped"].do(place)
    names = sorted(path.name for path in (place.path / "streams").iterdir())

    healing = mended(place, lambda repository: ImageSource(opened(str(layout)), repository))

    assert healing.repair.failed == {place.object(HIGH): f"{layout} has nothing of it"}
    assert sorted(path.name for path in (place.path / "streams").iterdir()) == names


# What only the digests of images tell


def forge(place, number):
    """Let a layer be another one, and all that refers to it."""
    diff_id = place.layers[number]
    with Repository.open(place.path) as repository:
        digest = store_layer(repository, layouts.tar({"usr/evil": noise(10)}), layer_name(diff_id))
    for name, kind in (
        (config_name(place.config), ContentType.CONFIG),
        (manifest_name(place.manifest), ContentType.MANIFEST),
    ):
        rewrite(place, name, kind, lambda data, refs: (data, refs | {diff_id: digest}))


@pytest.mark.parametrize("source", ["other", "image"])
def test_a_forged_layer(source, sources, original, place):
    """A layer that is not what it is called is made again, and with it what refers to it."""
    forge(place, 0)

    with Repository.open(place.path) as repository:
        report = check_images(repository)
        heal(repository, report.repository, source=sources[source](repository), wrong=report.wrong, stale=report.stale)

        assert check_images(repository).findings == []
    assert tree(place.path).items() >= tree(original.path).items()


def test_a_source_that_is_forged(original, place, tmp_path):
    """What another repository calls a layer is proved before it gets that name here."""
    source = original.copy(tmp_path / "source")
    forge(source, 0)
    (place.path / place.config_stream).unlink()
    damage.replace_link(place.path / place.layer_stream(0), "../objects")

    with Repository.open(source.path) as other:
        healing = mended(place, lambda repository: OtherRepository(other, repository))

    assert healing.repair.failed.keys() >= {place.layer_stream(0)}
    assert f"wanted {place.layers[0]}, got sha256:" in healing.repair.failed[place.layer_stream(0)]


# Images for booting, other formats, artifacts


@pytest.fixture(params=[(Algorithm.SHA512, 2, 1), (Algorithm.SHA256, 0, None), (Algorithm.SHA256, 1, 2)])
def bootable(request, tmp_path):
    """A repository with an image for booting, and the layout of that."""
    algorithm, version, second = request.param
    layers = [
        files_layer({"boot/": b"", "sysroot/": b"", "etc/": b"", "usr/low": LOW}),
        files_layer({"usr/high": HIGH}, "zstd"),
    ]
    layout = image_layout(tmp_path / "layout", layers)
    Repository.init(tmp_path / "repository", algorithm, erofs_version=version, require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        import_image(repository, str(layout), name="os", bootable=True, workers=1)
        if second is not None:
            import_image(repository, str(layout), name="os", erofs_version=second, workers=1)
    return tmp_path / "repository", str(layout)


def break_objects_of(path, start):
    """Break the objects of the streams that are called so."""
    for link in path.glob(start):
        if link.is_symlink():
            damage.flip(link.parent / os.readlink(link), 40)


@pytest.mark.parametrize("start", ["images/*", "streams/oci-config-*", "streams/oci-manifest-*", "streams/oci-*"])
def test_images_of_every_kind(bootable, start):
    """All EROFS images come back, those for booting, too, also where nothing tells any more which ones there were."""
    path, layout = bootable
    before = tree(path)
    break_objects_of(path, start)

    with Repository.open(path) as repository:
        healing = heal(repository, check_repository(repository), source=ImageSource(opened(layout), repository))

    assert healing.after.findings == []
    assert tree(path) == before


def test_an_artifact(place, tmp_path):
    """The blobs of an artifact come back."""
    layout = layouts.Layout(tmp_path / "artifact")
    blobs = [layouts.layer(b"", blob=noise(1000, 8), media_type="application/x-thing")]
    layout.write(layout.artifact(blobs))
    with Repository.open(place.path) as repository:
        import_image(repository, str(layout), name="artifact", workers=1)
    before = tree(place.path)
    (place.path / place.object(noise(1000, 8))).unlink()
    break_objects_of(place.path, f"streams/oci-layer-{layouts.sha256(noise(1000, 8))}")

    healing = mended(place, lambda repository: ImageSource(opened(str(layout)), repository))

    assert (healing.after.findings, healing.repair.failed) == ([], {})
    assert tree(place.path) == before


def test_no_such_image(place):
    """A reference that leads nowhere is told as an import does."""
    with Repository.open(place.path), pytest.raises(ComposefsError, match="no directory nowhere"):
        opened("oci:nowhere")


def test_names_that_prove_nothing(place, original, tmp_path):
    """A stream of another kind is not made again, since nobody can tell that it is the right one."""
    source = original.copy(tmp_path / "source")
    with Repository.open(source.path) as other, Repository.open(place.path) as repository:
        for each in (other, repository):
            writer = each.streams.writer(b"whatever")
            writer.inline(b"hello")
            each.streams.link("ostree-commit-1", each.streams.store(writer))
        damage.replace_link(place.path / "streams/ostree-commit-1", "nothing")
        (place.path / "images/name").symlink_to("nothing")
        healing = heal(repository, check_repository(repository), source=OtherRepository(other, repository))

    assert healing.repair.failed == {
        "images/name": "no image can be called 'name'",
        "streams/ostree-commit-1": f"{source.path}: what is called ostree-commit-1 cannot be proved by its name",
    }


def test_a_repository_without_images(tmp_path):
    """What has no images, and no directory of them, can be mended, too."""
    layout = layouts.Layout(tmp_path / "artifact")
    layout.write(layout.artifact([layouts.layer(b"", blob=noise(1000, 8), media_type="application/x-thing")]))
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        import_image(repository, str(layout), name="artifact", workers=1)
        before = tree(tmp_path / "repository")
        break_objects_of(tmp_path / "repository", "streams/oci-*")

        assert heal(
            repository, check_repository(repository), source=ImageSource(opened(str(layout)), repository)
        ).after.ok
    assert tree(tmp_path / "repository") == before


@pytest.mark.parametrize("source", ["other", "image"])
def test_what_a_missing_stream_refers_to_is_on_disk_before_it(source, sources, original, place, monkeypatch):
    """A stream that has its name already is there when all that it refers to is flushed, though nobody knew of that."""
    layer = place.layer_stream(0)
    streams = {place.object_of(each) for each in (layer, place.config_stream, place.image_name)}
    gone = {*streams, place.object(LOW), place.object(SHARED)}
    with Repository.open(place.path) as repository:
        for name in (config_name(place.config), manifest_name(place.manifest)):
            with repository.streams.open(name) as stream:
                gone.add(f"objects/{stream.reader.object_refs[0].object_path}")
    for path in gone:
        (place.path / path).unlink()
    linked, flushed, before = [], set(), {}  # before: what was on the disk when an object got its name
    sync, link, flush = Staging._sync, Staging._link, ObjectStore.sync

    def noted_sync(staging, path):
        flushed.add(f"objects/{path}")
        sync(staging, path)

    def noted_link(staging, parent, name, **options):
        link(staging, parent, name, **options)
        (path,) = place.path.glob(f"objects/*/{name}")
        linked.append(str(path.relative_to(place.path)))
        before[str(path.relative_to(place.path))] = {*flushed}  # not of the last one: other threads link, too

    def noted_flush(objects):
        flush(objects)
        flushed.update(linked)

    monkeypatch.setattr(Staging, "_sync", noted_sync)
    monkeypatch.setattr(Staging, "_link", noted_link)
    monkeypatch.setattr(ObjectStore, "sync", noted_flush)
    monkeypatch.setattr(_native, "store_objects", lambda *arguments: [-errno.EOPNOTSUPP] * (len(arguments[3]) // 16))

    assert mended(place, sources[source]).after.ok

    assert before.keys() == gone
    if source == "image":  # which makes a layer as a whole; from elsewhere each object is fetched when it is missed
        assert before[place.object_of(layer)] >= {place.object_of(layer), place.object(LOW), place.object(SHARED)}
    assert all(path in flushed_then for path, flushed_then in before.items() if source == "other" or path in streams)
    assert tree(place.path) == tree(original.path)
