"""The local container storage of podman, buildah, CRI-O and skopeo, read where it lies, without any of them.

    DRIVER-images/images.json     what images there are, and what they are called; their manifests and configs beside it
    DRIVER-layers/layers.json     what layers there are; beside it of each the parts of its archive that are no contents
    DRIVER/...                    the files of each layer, which are the other parts of its archive

So an archive can be put together again, or taken over file by file: its diff_id proves both.

Source: containers-storage(5), containers-storage.conf(5), and what podman 4.3 and skopeo 1.9 write.
"""

from composefs.oci.sources.storage.source import StorageSource, open_storage

__all__ = ["StorageSource", "open_storage"]
