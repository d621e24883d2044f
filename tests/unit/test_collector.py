"""The pause of the collector: nested, in several threads, and over in the end as it was before."""

import gc
import threading

import pytest

from composefs.collector import paused_collector


@pytest.fixture(autouse=True, params=[True, False])
def enabled(request):
    """Whether the collector is on when a test begins."""
    (gc.enable if request.param else gc.disable)()
    yield request.param
    gc.enable()


def test_nested(enabled):
    """Only the outermost end turns it on again, if it was on."""
    with paused_collector():
        assert not gc.isenabled()
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() is enabled


def test_failure(enabled):
    """An error ends the pause, too."""
    with pytest.raises(ZeroDivisionError), paused_collector():
        raise ZeroDivisionError
    assert gc.isenabled() is enabled


def test_threads(enabled):
    """Pauses that overlap in threads end with the last one."""
    begun, first_may_end = threading.Event(), threading.Event()

    def first():
        with paused_collector():
            begun.set()
            first_may_end.wait()

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    with paused_collector():
        first_may_end.set()
        thread.join()
        assert not gc.isenabled()
    assert gc.isenabled() is enabled
