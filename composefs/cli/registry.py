"""Which commands there are.

To add a command, add a line to `COMMANDS` and a module with two functions: `configure` gives a parser its arguments,
`run` does the work and returns the exit status.  A command that puts objects into a repository says so in `configure`,
by `set_defaults(stores=True)`.  The module is imported when the command is chosen, also for --help and by a shell that
completes.  So at its top stands what `configure` needs and what costs nothing: small modules of the standard library,
`composefs.errors`, `composefs.digest`, and those of this package that follow the same rule.  `run`, and functions that
it calls, import what does the work; types in annotations are imported under `TYPE_CHECKING`.
tests/unit/test_startup.py holds every command to this.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command, and the module of this package that has it."""

    name: str
    module: str | None  # None: it has commands of its own
    help: str
    aliases: tuple[str, ...] = ()
    commands: tuple[Command, ...] = ()


OCI_COMMANDS = (
    Command("pull", "oci_pull", "import an image, as cfsctl does"),
    Command("plan", "oci_plan", "tell what an import would cost"),
    Command("images", "oci_images", "list the tagged images"),
    Command("referrers", "oci_referrers", "list what refers to an image in a registry"),
    Command("inspect", "oci_inspect", "show manifest, config and images of a tag"),
    Command("tag", "oci_tag", "give a manifest a name"),
    Command("untag", "oci_untag", "take a name away"),
    Command("layer", "oci_layer", "write the tar archive of a layer, or tell about it"),
    Command("dump", "oci_dump", "describe the merged layers of an image as a dumpfile"),
    Command("mount", "oci_mount", "show the files of an image in a directory"),
    Command("compute-id", "oci_compute_id", "print the id of the image that the layers make"),
    Command("import-layer", "oci_import_layer", "import one layer from standard input"),
    Command("copy", "oci_copy", "copy an image from another repository"),
    Command("export", "oci_export", "copy an image to a layout, an archive or a registry", ("push",)),
    Command("fsck", "oci_fsck", "check a repository and its OCI images"),
    Command("linked-erofs-images", "oci_linked_images", "list the images that belong to the same OCI image"),
)
COMMANDS = (
    Command("import", "import_", "import an OCI image"),
    Command("init", "init", "make a repository"),
    Command("images", "images", "list the named images", ("list-images",)),
    Command("ls", "ls", "list the files of an image"),
    Command("cat-file", "cat_file", "write the content of files of an image"),
    Command("extract", "extract", "copy the files of an image into a directory"),
    Command("mount", "mount", "show the files of an image in a directory, or list what is mounted"),
    Command("umount", "umount", "end such mounts"),
    Command("diff", "diff", "say why two images are not the same"),
    Command("create-image", "create_image", "store a directory as an image"),
    Command("import-image", "import_image", "store an EROFS image from standard input"),
    Command("compute-id", "compute_id", "print the id that the image of a directory has"),
    Command("compute-karg", "compute_karg", "print the kernel argument for the image of a directory"),
    Command("probe-image", "probe_image", "tell which image the kernel arguments select"),
    Command("create-dumpfile", "create_dumpfile", "describe a directory as a dumpfile"),
    Command("dump-files", "dump_files", "describe files of an image as a dumpfile does"),
    Command("image-objects", "image_objects", "list the objects that an image refers to"),
    Command("cat", "cat", "write the content of a stream"),
    Command("fsck", "fsck", "check a repository"),
    Command("gc", "gc", "remove what no reference keeps"),
    Command("digest", "digest", "print the fs-verity digest of files"),
    Command("bench", "bench", "measure this machine, and say what bounds an import"),
    Command("doctor", "doctor", "say whether images can be imported and mounted here"),
    Command("mkcomposefs", "mkcomposefs", "make an image file, as the tool of that name"),
    Command("info", "info", "look at an image file, as composefs-info does", ("composefs-info",)),
    Command("mount.composefs", "mount_composefs", "mount an image file, as the helper of mount(8)"),
    Command("completion", "completion", "print the completion script of a shell"),
    Command("oci", None, "OCI images: pull, list, tag, look at", commands=OCI_COMMANDS),
)
# Programs that are one command, and its module; composefs is each but the first if it is called so.
PROGRAMS = {
    "composefs-import": "import_",
    "mkcomposefs": "mkcomposefs",
    "composefs-info": "info",
    "mount.composefs": "mount_composefs",
}
