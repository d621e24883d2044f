"""What a repository notes of itself, beside what composefs-rs has: the last clean check, and batches of the trash."""

from __future__ import annotations

import hashlib
import random
from array import array

from composefs.digest import Algorithm
from composefs.errors import FormatError
from composefs.repository.fsck.record import Record
from composefs.repository.gc.clock import Clock
from composefs.repository.gc.report import as_date
from composefs.repository.gc.trash import Batch, State
from tests.fuzz.mutations import havoc, json_value
from tests.fuzz.target import Target

_SUM = hashlib.sha256().digest_size
_NOW = Clock(1_700_000_000, "boot", 1000)
_WORDS = ["filling", "kept", "returning", "", 1, 36_500, 36_501, 250_000_000_000, {"wall": 1, "boot": "b", "uptime": 1}]


def check(data: bytes) -> bool:
    """Read as either; what is taken is written as it was, or means the same when it is read again."""
    return _check_batch(data) | _check_record(data)


def _check_batch(data: bytes) -> bool:
    batch = Batch.parse(7, data)
    if batch is None:
        return False
    assert Batch.parse(7, batch.pack()) == batch
    assert 0 < batch.days <= 36_500
    assert batch.expires >= batch.created.wall
    assert not batch.has_expired(batch.created)
    assert batch.has_expired(_NOW) in (True, False)
    assert as_date(batch.expires)[4] == "-", "a year of four digits"
    return True


def _check_record(data: bytes) -> bool:
    taken = 0
    for algorithm in Algorithm:
        try:
            record = Record.parse(data, algorithm)
        except FormatError:
            continue
        taken += 1
        assert len(record.prefixes) == len(record.stamps)
        again = b"".join(record.pack())
        assert Record.parse(again, algorithm) == record
        assert len(again) <= len(data)
    assert taken <= 1, "a record of two algorithms"
    return taken == 1


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Change anything, and mostly make the sum of a record right again."""
    if data.startswith(b"{"):
        return json_value(chance, data, _WORDS)
    body = havoc(chance, data[:-_SUM]) if chance.randrange(4) else havoc(chance, data)
    return body + hashlib.sha256(body).digest() if chance.randrange(5) else body


def _seeds() -> dict[str, bytes]:
    found = {}
    for algorithm in Algorithm:
        prefixes, stamps = array("Q", [1, 2, 1 << 63]), array("Q", [5, 0, (1 << 64) - 1])
        record = Record(algorithm, prefixes, stamps, frozenset([b"layer of sixteen", bytes(16)]))
        found[f"record-{algorithm.hash_name}"] = b"".join(record.pack())
    found["empty-record"] = b"".join(Record(Algorithm.SHA256, array("Q"), array("Q")).pack())
    for state in State:
        found[f"{state.value}.json"] = Batch(7, state, _NOW, 30).pack()
    return found


RECORDS = Target("records", check, mutate, _seeds, share=20, size_max=1 << 13)
