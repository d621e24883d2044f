"""OCI images of a repository, checked, and changed as a program that goes wrong would change them."""

import hashlib

from composefs import Repository
from composefs.oci.fsck import check_images
from composefs.oci.names import manifest_name, store_json
from composefs.splitstream import ContentType


def check(place, tag=None, **options):
    with Repository.open(place.path) as repository:
        return check_images(repository, tag, **options)


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def counts(report):
    return report.images_checked, report.images_corrupted, report.layers_checked, report.layers_corrupted


def relink(repository, name, digest):
    """Let the stream *name* be *digest*."""
    repository.streams.link(name, digest)


def store_layer(repository, archive, name):
    """Store *archive* as one inline chunk, and call it *name*."""
    writer = repository.streams.writer(ContentType.LAYER)
    writer.inline(archive)
    digest = repository.streams.store(writer)
    relink(repository, name, digest)
    return digest


def read(repository, name):
    """Return what a manifest or config is, and what it refers to."""
    with repository.streams.open(name) as stream:
        return stream.read_body(), dict(stream.reader.named_refs)


def rewrite(place, name, content_type, change):
    """Store the stream *name* as *change* makes it of its bytes and references; the manifest follows its config."""
    with Repository.open(place.path) as repository:
        data, refs = change(*read(repository, name))
        digest = store_json(repository, content_type, data, refs)
        relink(repository, name, digest)
        if content_type is ContentType.CONFIG:
            manifest = manifest_name(place.manifest)
            data, refs = read(repository, manifest)
            refs[f"config:{place.config}"] = digest
            relink(repository, manifest, store_json(repository, ContentType.MANIFEST, data, refs))


def without(key):
    def change(data, refs):
        return data, {name: digest for name, digest in refs.items() if name != key}

    return change
