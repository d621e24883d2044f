"""Write the quotes of docs/errors.md anew, or print some."""

import sys
import tempfile
from pathlib import Path

from tests import damage
from tests.errors_doc.cases import CASES
from tests.errors_doc.page import PAGE, rewritten, say


def main(names: list[str]) -> None:
    """Write all quotes anew, or print those of *names*; `all` are all."""
    with tempfile.TemporaryDirectory() as directory:
        place = damage.make(Path(directory))
        if names:
            for name in CASES if names == ["all"] else names:
                sys.stdout.write(f"<!-- {name} -->\n```\n{say(name, place)}\n```\n")
        else:
            PAGE.write_text(rewritten(PAGE.read_text(), lambda name: say(name, place)))


if __name__ == "__main__":
    main(sys.argv[1:])
