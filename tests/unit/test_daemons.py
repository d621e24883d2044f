"""Calls in threads that nobody waits for."""

import threading

import pytest

from composefs.oci.daemons import Daemons


def test_results_and_errors():
    """Each call gives what it returns, or raises."""
    daemons = Daemons(2, "test")

    begun = [daemons.begin(lambda number=number: 6 // number) for number in (1, 0, 3)]

    assert (begun[0].result(10), begun[2].result(10)) == (6, 2)
    with pytest.raises(ZeroDivisionError):
        begun[1].result(10)


def test_no_more_at_a_time():
    """All others wait, and have no threads meanwhile."""
    daemons, go_on = Daemons(3, "test-most"), threading.Event()

    begun = [daemons.begin(go_on.wait) for _ in range(50)]
    most = sum(thread.name == "test-most" for thread in threading.enumerate())
    go_on.set()

    assert [each.result(10) for each in begun] == [True] * 50
    assert most == 3


def test_nobody_waits():
    """They end with the process, or when there is nothing to do."""
    daemons, go_on = Daemons(1, "test-end"), threading.Event()

    begun = daemons.begin(go_on.wait)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "test-end")
    assert thread.daemon
    go_on.set()
    begun.result(10)
    thread.join(10)

    assert not thread.is_alive()
    assert daemons.begin(lambda: 1).result(10) == 1
