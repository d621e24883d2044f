"""Read an image without mounting it: `python docs/reading_example.py REPOSITORY IMAGE TARGET`."""

import stat
import sys

import composefs
from composefs.image import Image, extract


def main(path: str, name: str, target: str) -> None:
    """List the files of the image *name*, show the first that is not empty, and extract all to *target*."""
    with composefs.Repository.open(path) as repository, Image.open(repository, name) as image:
        print(f"{image.id} has in its root {', '.join(image.listdir('/'))}")
        shown = False
        for directory, _, names in image.walk("/"):
            for file_name in names:
                file_path = f"{directory.rstrip('/')}/{file_name}"
                info = image.lstat(file_path)
                print(f"{stat.filemode(info.st_mode)} {info.st_size:10} {file_path}")
                if stat.S_ISREG(info.st_mode) and info.st_size and not shown:
                    shown = True
                    with image.open(file_path) as file:
                        print(f"{file_path} begins with {file.read(16)!r}")
        result = extract(image, target)
        print(f"{target} has {result.files} files, {result.hard_links} hard links")
        for shortfall in result.shortfalls:
            print(f"not restored: {shortfall}")


if __name__ == "__main__":
    main(*sys.argv[1:])
