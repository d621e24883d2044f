"""Make the seeds in `tests/corpus` anew; what was found by fuzzing, `found-...`, stays.

python -m tests.fuzz.corpus
"""

from collections.abc import Mapping

from tests.fuzz import native, registry
from tests.fuzz.target import CORPUS, corpus_files

FOUND = "found-"  # begins the names of inputs that once broke something


def made() -> dict[str, Mapping[str, bytes]]:
    """Return all that is made: by target, inputs by file name."""
    found = {name: registry.load(name).make_seeds() for name in registry.NAMES}
    return found | {name: seeds for name in native.NAMES if (seeds := native.make_seeds(name))}


def write() -> None:
    """Write the seeds of all targets, and remove those that are no longer made."""
    for name, seeds in made().items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for path in corpus_files(name):
            if path.name not in seeds and not path.name.startswith(FOUND):
                path.unlink()
        for file_name, data in seeds.items():
            (CORPUS / name / file_name).write_bytes(data)


if __name__ == "__main__":
    write()
