"""The check of a repository: every kind of damage gives its findings, with what they hurt, and nothing else."""

import dataclasses
import errno
import os

import pytest

from composefs import Algorithm, Repository
from composefs.repository.fsck import Counts, Finding, Kind, check_repository
from composefs.verity import compute_digest
from tests.damage import DAMAGES, HIGH, LOW, SHARED

ALGORITHM = Algorithm.SHA256
CLEAN = Counts(objects_checked=11, streams_checked=4, images_checked=1)
ONE_OBJECT = {"objects_corrupted": 1}
NO_NAME = f"is not 62 hexadecimal digits in lower case, as names of {ALGORITHM.value} are"
NO_STREAM = "offset 0: not a splitstream"


def flipped(data, offset):
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def hex_of(data):
    return compute_digest(data, ALGORITHM).hex


def name_of(path):
    """The digits of the object at *path*."""
    return path.removeprefix("objects/").replace("/", "")


def content(place, link):
    return (place.path / place.object_of(link)).read_bytes()


def mismatch(path, data, *hurts):
    """The finding that the object at *path* holds *data*."""
    name = name_of(path)
    return Finding(Kind.OBJECT_DIGEST_MISMATCH, path, object_id=name, wanted=name, got=hex_of(data), hurts=hurts)


def of_file(place, whole, data, file, layer):
    """The finding that the object of a *file* of a layer, which should be *whole*, holds *data*."""
    return dataclasses.replace(mismatch(place.object(whole), data, *by_file(place, layer)), files=(file,))


def by_file(place, number):
    """What a file of a layer hurts."""
    layer = place.layer_stream(number)
    return (place.ref, place.tag, place.config_stream, layer, place.manifest_stream, place.image_name)


def by_layer(place):
    """What is hurt by a layer that cannot be read, beside it."""
    return (place.tag, place.config_stream, place.manifest_stream)


def of_removed(place):
    layers = sorted(map(place.layer_stream, (0, 1)))
    all_hurt = (place.ref, place.tag, place.config_stream, *layers, place.manifest_stream, place.image_name)
    places = [*((Kind.MISSING_OBJECT_REF, path) for path in layers), (Kind.IMAGE_MISSING_OBJECT, place.image_name)]
    findings = [
        Finding(
            kind,
            path,
            object_id=hex_of(SHARED),
            hurts=tuple(each for each in all_hurt if each != path),
            files=("/usr/also", "/usr/shared"),
        )
        for kind, path in places
    ]
    return findings, {"objects_checked": 10, "missing_objects": 3}


def of_stream_object_gone(place):
    gone = {"object_id": name_of(place.object_of(place.layer_stream(0)))}
    tag, config, manifest = by_layer(place)
    findings = [
        Finding(Kind.BROKEN_SYMLINK, place.layer_stream(0), **gone, hurts=(tag, config, manifest)),
        Finding(Kind.MISSING_NAMED_REF, config, ref=place.layers[0], **gone, hurts=(tag, manifest)),
        Finding(Kind.MISSING_NAMED_REF, manifest, ref=place.layers[0], **gone, hurts=(tag, config)),
    ]
    return findings, {"objects_checked": 10, "streams_corrupted": 1, "broken_links": 1, "missing_objects": 2}


def of_stream(place, offset):
    layer = place.layer_stream(1)
    hurts = (place.tag, place.config_stream, layer, place.manifest_stream)
    return mismatch(place.object_of(layer), flipped(content(place, layer), offset), *hurts)


def of_stream_header(place):
    unreadable = Finding(Kind.STREAM_OPEN_FAILED, place.layer_stream(1), NO_STREAM, hurts=by_layer(place))
    return [of_stream(place, 3), unreadable], {**ONE_OBJECT, "streams_corrupted": 1}


def of_image_object_gone(place):
    gone = {"object_id": place.image}
    config, hurt = place.config_stream, by_layer(place)
    key = "composefs.image.v1"
    findings = [
        Finding(Kind.MISSING_NAMED_REF, config, ref=key, **gone, hurts=(place.tag, place.manifest_stream)),
        Finding(Kind.BROKEN_SYMLINK, place.image_name, **gone, hurts=(place.ref, *hurt)),
        Finding(Kind.BROKEN_SYMLINK, place.ref, wanted=place.image),
    ]
    return findings, {"objects_checked": 10, "images_corrupted": 1, "broken_links": 2, "missing_objects": 1}


def of_image_flipped(place):
    data = flipped(content(place, place.image_name), 1024)
    what = "offset 1024: magic 0xe0f5e1e3 instead of 0xe0f5e1e2: no EROFS"
    hurts = (place.ref, *by_layer(place))
    findings = [
        mismatch(place.object_of(place.image_name), data, *hurts, place.image_name),
        Finding(Kind.IMAGE_INVALID, place.image_name, what, hurts=hurts),
    ]
    return findings, {**ONE_OBJECT, "images_corrupted": 1}


def of_no_image(place):
    what = f"offset 0: magic {int.from_bytes(LOW[:4], 'little'):#x} instead of 0xd078629a: no composefs image"
    return [Finding(Kind.IMAGE_INVALID, f"images/{hex_of(LOW)}", what)], {"images_checked": 2, "images_corrupted": 1}


def of_image_called_otherwise(place):
    other = "0" * 64
    finding = Finding(Kind.IMAGE_NAME_MISMATCH, f"images/{other}", wanted=other, got=place.image)
    return [finding], {"images_checked": 2, "images_corrupted": 1}


def of_meta_other(place):
    size = f"is not 126 hexadecimal digits in lower case, as names of {Algorithm.SHA512.value} are"
    links = [place.config_stream, *sorted(map(place.layer_stream, (0, 1))), place.manifest_stream, place.image_name]
    objects = sorted(str(path.relative_to(place.path)) for path in place.path.glob("objects/*/*"))
    findings = [
        *(Finding(Kind.OBJECT_INVALID_NAME, path, size) for path in objects),
        *(
            Finding(
                Kind.LINK_INVALID,
                path,
                f"link to {os.readlink(place.path / path)!r} is none to an object",
                hurts={place.manifest_stream: (place.tag,), place.image_name: (place.ref,)}.get(path, ()),
            )
            for path in links
        ),
    ]
    return findings, {"objects_corrupted": 11, "streams_corrupted": 4, "images_corrupted": 1}


def of_directory_as_image(place):
    gone = place.object_of(place.image_name)
    hurts = (place.ref, *by_layer(place))
    findings = [
        Finding(Kind.OBJECT_OPEN_FAILED, gone, "is no regular file", name_of(gone), hurts=(*hurts, place.image_name)),
        Finding(Kind.IMAGE_OPEN_FAILED, place.image_name, "is no regular file", hurts=hurts),
    ]
    return findings, {**ONE_OBJECT, "images_corrupted": 1}


def of_socket_as_stream(place):
    what = os.strerror(errno.ENXIO)
    layer = place.layer_stream(0)
    gone = place.object_of(layer)
    hurts = (place.tag, place.config_stream, layer, place.manifest_stream)
    findings = [
        Finding(Kind.OBJECT_OPEN_FAILED, gone, what, object_id=name_of(gone), hurts=hurts),
        Finding(Kind.STREAM_OPEN_FAILED, layer, what, hurts=by_layer(place)),
    ]
    return findings, {**ONE_OBJECT, "streams_corrupted": 1}


def of_stream_cut(place):
    layer = place.layer_stream(0)
    hurts = (place.tag, place.config_stream, layer, place.manifest_stream)
    what = "offset 112: object references at 112 to 176 of 120 bytes"
    findings = [
        mismatch(place.object_of(layer), content(place, layer)[:120], *hurts),
        Finding(Kind.STREAM_OPEN_FAILED, layer, what, hurts=by_layer(place)),
    ]
    return findings, {**ONE_OBJECT, "streams_corrupted": 1}


def of_odd_stream(kind, what):
    path = f"streams/oci-{kind}-sha256:{'1' * 64}"
    finding = Finding(Kind.STREAM_REFS_INVALID, path, what)
    return [finding], {"objects_checked": 12, "streams_checked": 5, "streams_corrupted": 1}


def no_file(place, what):
    return [Finding(Kind.OBJECT_OPEN_FAILED, place.unused, what, object_id=name_of(place.unused))], ONE_OBJECT


def no_name(directory, name, **counts):
    return [Finding(Kind.OBJECT_INVALID_NAME, f"{directory}/{name}", NO_NAME)], {**ONE_OBJECT, **counts}


def one_stream(kind, path, detail="", **more):
    return [Finding(kind, path, detail, **more)], {"streams_corrupted": 1}


# Of the damage that is made to the place: what is found, and what is counted otherwise than in CLEAN.
EXPECTED = {
    "flipped": lambda place: ([of_file(place, HIGH, flipped(HIGH, 50_000), "/usr/high", 1)], ONE_OBJECT),
    "grown": lambda place: ([of_file(place, LOW, LOW + b"x", "/usr/low", 0)], ONE_OBJECT),
    "cut": lambda place: ([of_file(place, HIGH, HIGH[:4096], "/usr/high", 1)], ONE_OBJECT),
    "emptied": lambda place: ([mismatch(place.unused, b"")], ONE_OBJECT),
    "swapped": lambda place: ([of_file(place, LOW, SHARED, "/usr/low", 0)], ONE_OBJECT),
    "removed": of_removed,
    "directory-as-object": lambda place: no_file(place, "is no regular file"),
    "link-as-object": lambda place: no_file(place, "is a symbolic link"),
    "stray-object": lambda place: no_name(os.path.dirname(place.object(LOW)), "stray", objects_checked=12),
    "capital-object": lambda place: no_name(os.path.dirname(place.unused), os.path.basename(place.unused).upper()),
    "stream-object-gone": of_stream_object_gone,
    "stream-flipped": lambda place: ([of_stream(place, 200)], ONE_OBJECT),
    "stream-header": of_stream_header,
    "file-as-stream": lambda place: one_stream(Kind.ENTRY_NOT_SYMLINK, place.layer_stream(0)),
    "loop-as-stream": lambda place: (
        [Finding(Kind.STAT_FAILED, place.layer_stream(0), os.strerror(errno.ELOOP))],
        {},
    ),
    "no-stream": lambda place: one_stream(Kind.STREAM_OPEN_FAILED, place.layer_stream(0), NO_STREAM),
    "other-stream": lambda place: one_stream(
        Kind.STREAM_TYPE_MISMATCH, place.config_stream, wanted="ociconfg", got="ocimanif"
    ),
    "stream-outside": lambda place: one_stream(
        Kind.LINK_INVALID, place.layer_stream(0), "link to '../copy' is none to an object"
    ),
    "tag-dangles": lambda place: (
        [Finding(Kind.BROKEN_SYMLINK, place.tag, wanted=os.path.basename(place.manifest_stream))],
        {"streams_checked": 3, "broken_links": 1},
    ),
    "file-as-ref": lambda _: ([Finding(Kind.UNEXPECTED_FILE_TYPE, "streams/refs/note", "is a regular file")], {}),
    "ref-to-object": lambda place: (
        [
            Finding(
                Kind.REF_INVALID,
                place.ref,
                f"link to '../../../{place.object_of(place.image_name)}' is none to an entry of images/",
            )
        ],
        {},
    ),
    "image-object-gone": of_image_object_gone,
    "file-as-image": lambda place: (
        [Finding(Kind.ENTRY_NOT_SYMLINK, place.image_name, hurts=(place.ref,))],
        {"images_corrupted": 1},
    ),
    "no-image": of_no_image,
    "image-flipped": of_image_flipped,
    "image-called-otherwise": of_image_called_otherwise,
    "meta-other": of_meta_other,
    "loop-as-object": lambda place: (
        [
            Finding(
                Kind.OBJECT_OPEN_FAILED,
                place.object(LOW),
                "is a symbolic link",
                object_id=hex_of(LOW),
                hurts=by_file(place, 0),
                files=("/usr/low",),
            )
        ],
        ONE_OBJECT,
    ),
    "directory-as-image": of_directory_as_image,
    "socket-as-stream": of_socket_as_stream,
    "stream-cut": of_stream_cut,
    "directory-as-stream": lambda place: one_stream(Kind.ENTRY_NOT_SYMLINK, place.layer_stream(0)),
    "socket-as-ref": lambda _: ([Finding(Kind.UNEXPECTED_FILE_TYPE, "images/refs/socket", "is a socket")], {}),
    "ref-outside": lambda _: (
        [
            Finding(
                Kind.REF_INVALID,
                "streams/refs/oci/outside",
                "link to '../../../meta.json' is none to an entry of streams/",
            )
        ],
        {},
    ),
    "nested-ref-dangles": lambda _: (
        [Finding(Kind.BROKEN_SYMLINK, "images/refs/a/b/c", wanted="0" * 64)],
        {"broken_links": 1},
    ),
    "refs-in-disorder": lambda _: of_odd_stream("config", "the names of references are not in order"),
    "object-twice": lambda _: of_odd_stream("layer", "the table of object references has one twice"),
}


def check(place, **options):
    with Repository.open(place.path, upgrade=False) as repository:
        return check_repository(repository, **options)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_kind_of_damage_is_found(name, original, place):
    """Each damage gives exactly its findings, and its counts."""
    findings, counts = EXPECTED[name](original)
    DAMAGES[name].do(place)

    report = check(place)

    in_order = sorted(report.findings, key=lambda finding: findings.index(finding) if finding in findings else -1)
    assert in_order == findings
    assert report.counts == dataclasses.replace(CLEAN, **counts)
    assert not report.ok


def test_every_kind_of_damage_is_expected():
    """The table has all damages after which there is a report."""
    assert EXPECTED.keys() == {name for name, each in DAMAGES.items() if not each.refused} - {"none"}


def test_nothing_is_found_where_nothing_is_wrong(place):
    """A repository without damage is clean, and is not changed."""
    before = {path: path.lstat() for path in sorted(place.path.rglob("*"))}

    report = check(place)

    assert (report.ok, report.has_metadata, report.findings, report.counts) == (True, True, [], CLEAN)
    after = {path: path.lstat() for path in sorted(place.path.rglob("*"))}
    assert {path: (info.st_mtime_ns, info.st_ctime_ns) for path, info in before.items()} == {
        path: (info.st_mtime_ns, info.st_ctime_ns) for path, info in after.items()
    }


@pytest.mark.parametrize("name", ["flipped", "cut", "emptied", "directory-as-object"])
def test_fast_does_not_look_into_objects(name, place):
    """Without contents, only names of objects are looked at."""
    DAMAGES[name].do(place)

    report = check(place, contents=False)

    assert (report.findings, report.counts, report.contents) == ([], CLEAN, False)


@pytest.mark.parametrize("name", ["removed", "stray-object", "stream-header", "image-flipped", "tag-dangles"])
def test_fast_finds_what_is_not_in_objects(name, original, place):
    """Without contents, everything else is found."""
    findings, _ = EXPECTED[name](original)
    DAMAGES[name].do(place)

    report = check(place, contents=False)

    assert report.findings == [each for each in findings if each.kind is not Kind.OBJECT_DIGEST_MISMATCH]
