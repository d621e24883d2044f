"""A process that checks inputs of one target; `tests.fuzz` starts it, and learns from its board where it died.

python -m tests.fuzz.worker seeded TARGET SEED FIRST COUNT BOARD FINDINGS
python -m tests.fuzz.worker guided TARGET SEED FIRST COUNT BOARD FINDINGS CACHE
"""

from __future__ import annotations

import faulthandler
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.board import Board
from tests.fuzz.target import CORPUS, MEMORY_MAX, SECONDS_MAX, Target, limit_memory

_STUCK = 120  # seconds; then C does not come back, which no signal handler of Python can see
_ARM = 10  # seconds between two times of saying that all is well


def main(arguments: list[str]) -> int:
    """Run, and return the exit status: 1 if something was found."""
    engine, name, seed, first, count, board, findings, *rest = arguments
    if engine == "guided":
        return _guided(name, int(seed), int(count), board, Path(findings), rest[0])
    from tests.fuzz import registry  # noqa: PLC0415  # after atheris, in the other engine

    target = registry.load(name)
    assert target.seeds
    limit_memory()
    with Board(board) as shared:
        return _seeded(target, int(seed), int(first), int(count), shared, Path(findings))


def _seeded(target: Target, seed: int, first: int, count: int, board: Board, findings: Path) -> int:
    taken = failures = 0
    armed = 0.0
    for done, number in enumerate(range(first, first + count)):
        board.write(done, taken, failures, number)
        now = time.monotonic()
        if now > armed + _ARM:
            faulthandler.dump_traceback_later(_STUCK, exit=True, file=sys.__stderr__)
            armed = now
        data = target.input(seed, number)
        try:
            taken += target.run(data)
        except Exception:
            failures += 1
            _save(findings / f"{target.name}-{seed}-{number}", data)
    faulthandler.cancel_dump_traceback_later()
    board.write(count, taken, failures, first + count)
    return 1 if failures else 0


def _save(path: Path, data: bytes) -> None:
    """Save an input, and say of what it was the cause, which is the exception that is being handled."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    print(f"{path}:\n{traceback.format_exc()}", file=sys.stderr)


def _guided(name: str, seed: int, count: int, board: str, findings: Path, cache: str) -> int:
    """Let libFuzzer choose and mutate, by what the code of the package reaches; it exits by itself."""
    import atheris  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415  # not everywhere

    with atheris.instrument_imports(include=["composefs"]):
        from tests.fuzz import registry  # noqa: PLC0415

        target = registry.load(name)
    shared = Board(board)
    inputs = taken = 0

    def test_one_input(data: bytes) -> None:
        nonlocal inputs, taken
        inputs += 1
        try:
            taken += target.run(data)
        except Exception:
            _save(findings / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}", data)
            raise
        finally:
            shared.write(inputs, taken, 0, inputs)

    def mutate(data: bytes, size_max: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.randrange(4) == 0:
            return bytes(atheris.Mutate(data, size_max))
        return target.mutate(chance, data)[:size_max]

    findings.mkdir(exist_ok=True)
    options = {
        "runs": count,
        "seed": seed,
        "max_len": target.size_max,
        "timeout": 4 * SECONDS_MAX,
        "rss_limit_mb": MEMORY_MAX >> 20,
        "artifact_prefix": f"{findings}/{name}-",
        "print_final_stats": 1,
    }
    new, elsewhere = (Path(cache) / place / name for place in ("corpus", "seeds"))
    for directory in (new, elsewhere):
        directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(dict.fromkeys(target.more_seeds())):
        (elsewhere / str(number)).write_bytes(data)
    directories = [str(directory) for directory in (new, CORPUS / name, elsewhere)]
    argv = [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), *directories]
    atheris.Setup(argv, test_one_input, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
