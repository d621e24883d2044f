"""The streams of an image, and their names.

    streams/oci-layer-<diff_id>          -> the splitstream of a layer
    streams/oci-config-<digest>          -> the config's bytes, and references to the layers
    streams/oci-manifest-<digest>        -> the manifest's bytes, and references to the config and the layers
    images/<hex>                         -> an EROFS image, to which the config refers, too
    streams/refs/oci/<tag>               -> ../../oci-manifest-<digest>

Names appear after one flush of the file system, the tag when they are on disk: a name stands for something whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from composefs.digest import Digest
from composefs.errors import ComposefsError
from composefs.oci import slots
from composefs.oci.manifest import Image
from composefs.oci.slots import ErofsImage
from composefs.repository import Repository
from composefs.repository.refs import OCI_TAGS, encode_tag
from composefs.splitstream import ContentType, DigestTable


def layer_name(diff_id: str) -> str:
    """Return the name of a layer's stream."""
    return f"oci-layer-{diff_id}"


def config_name(digest: str) -> str:
    """Return the name of a config's stream."""
    return f"oci-config-{digest}"


def manifest_name(digest: str) -> str:
    """Return the name of a manifest's stream."""
    return f"oci-manifest-{digest}"


def find_layers(repository: Repository, content_types: Mapping[str, bytes]) -> dict[str, Digest]:
    """Return the streams by diff_id of those layers that are there whole: proved, and every object existing.

    What a named stream refers to was flushed before the name was made, so contents need no second look; but a garbage
    collection that was cut short may have left a name without all of its objects.
    """
    streams: dict[str, Digest] = {}
    objects: dict[str, DigestTable] = {}
    for diff_id, content_type in content_types.items():
        name = layer_name(diff_id)
        try:
            digest = repository.streams.find(name)
            if digest is None:
                continue
            with repository.streams.open_object(digest, name, content_type) as stream:
                objects[diff_id] = stream.reader.object_refs
            streams[diff_id] = digest
        except ComposefsError:
            continue  # broken: it is imported again, and replaced
    missing = repository.objects.missing(table.data for table in objects.values())
    if not missing:
        return streams
    return {diff_id: digest for diff_id, digest in streams.items() if missing.isdisjoint(objects[diff_id].raw())}


def find_layer(repository: Repository, diff_id: str, content_type: bytes) -> Digest | None:
    """Return the stream of one layer, as `find_layers` does, or None."""
    return find_layers(repository, {diff_id: content_type}).get(diff_id)


def name_image(
    repository: Repository,
    image: Image,
    layers: Mapping[str, Digest],
    imported: Collection[str],
    *,
    images: Sequence[ErofsImage] = (),
    tag: str | None,
    before_sync: Callable[[], None],
) -> Digest:
    """Store config and manifest of *image*, flush, and make the names; what stands there already, and right, stays.

    Args:
        repository: that holds the layers.
        image: the image.
        layers: the stored streams of its layers by diff_id.
        imported: the diff_ids of those that are new, and get their names here.
        images: the EROFS images that it has now, stored, for the config to record.
        tag: the name of the image; None: it gets none.
        before_sync: called before the flush, which may take a while.

    Returns:
        The manifest's stream.
    """
    with repository.naming():  # so that what another import adds meanwhile is not lost
        streams = repository.streams
        refs = {diff_id: layers[diff_id] for diff_id in image.diff_ids}
        names = {layer_name(diff_id): digest for diff_id, digest in refs.items() if diff_id in imported}
        unnamed = [made.digest for made in images if not repository.images.find(made.digest)]

        config_key = config_name(image.manifest.config.digest)
        recorded = slots.recorded(images)
        config, old_refs = _find_json(repository, config_key, ContentType.CONFIG, refs | recorded, image.config_bytes)
        others = {key: digest for key, digest in old_refs.items() if key not in refs and key not in recorded}
        kept = {key: digest for key, digest in others.items() if repository.objects.exists(digest)}
        if config is None or kept != others:
            # Images of earlier imports stay referred to: they are made of the same layers.
            recorded |= kept
            refs_of_config = refs | {key: recorded[key] for key in sorted(recorded, key=slots.key_order)}
            names[config_key] = config = store_json(repository, ContentType.CONFIG, image.config_bytes, refs_of_config)

        refs = {f"config:{image.manifest.config.digest}": config} | refs
        manifest_key = manifest_name(image.descriptor.digest)
        manifest, _ = _find_json(repository, manifest_key, ContentType.MANIFEST, refs, image.manifest_bytes)
        if manifest is None:
            names[manifest_key] = manifest = store_json(repository, ContentType.MANIFEST, image.manifest_bytes, refs)

        if names or unnamed:
            before_sync()
            repository.name(names, unnamed)
        if tag is not None:
            streams.set_ref(f"{OCI_TAGS}/{encode_tag(tag)}", manifest_key)
        return manifest


def store_json(repository: Repository, content_type: bytes, data: bytes, refs: dict[str, Digest]) -> Digest:
    """Store a stream whose body is one object, however small, and which refers to *refs*, in this order."""
    writer = repository.streams.writer(content_type)
    for name, digest in refs.items():
        writer.name(name, digest.raw)
    body, _ = repository.objects.ensure(data)
    writer.external(body, len(data))
    return repository.streams.store(writer)


def _find_json(
    repository: Repository, name: str, content_type: bytes, refs: dict[str, Digest], data: bytes
) -> tuple[Digest | None, dict[str, Digest]]:
    """Return the stream *name* if it holds *data* and refers to *refs*, or else None; and what it refers to."""
    try:
        digest = repository.streams.find(name)
        if digest is None:
            return None, {}
        with repository.streams.open_object(digest, name, content_type) as stream:
            found = stream.reader.named_refs
            if stream.read_body() != data:
                return None, {}
    except ComposefsError:
        return None, {}  # broken: it is written again, and replaced
    return (digest if refs.items() <= found.items() else None), found
