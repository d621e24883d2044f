"""Import an image and look at it again: `python docs/example.py LAYOUT REPOSITORY`."""

import sys
import tarfile

import composefs
from composefs.oci.progress import Event, LayerDone


def show(event: Event) -> None:
    """Print a line for each layer that is done."""
    if isinstance(event, LayerDone):
        print(f"{event.diff_id}: {event.objects_new} new objects")


def main(layout: str, path: str) -> None:
    """Import *layout* into the repository *path*, and list the first layer's archive from there."""
    if not composefs.Repository.exists(path):
        composefs.Repository.init(path, composefs.Algorithm.SHA512)
    with composefs.Repository.open(path) as repository:
        result = composefs.import_image(repository, f"oci:{layout}", name="example", progress=show)
        print(f"{result.name}: {len(result.layers)} layers, {result.stats.objects_new} new objects")

        first = result.layers[0]
        with repository.streams.open(f"oci-layer-{first.diff_id}") as stream:
            print(f"{stream.digest} holds {stream.reader.size} bytes")
            with stream.merged_file() as file, tarfile.open(fileobj=file) as archive:
                for member in archive:
                    print(f"{member.size:10} {member.name}")


if __name__ == "__main__":  # the import starts processes, which import this file
    main(*sys.argv[1:])
