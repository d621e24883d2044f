"""Stages that overlap: order, room, errors and ends are the same with a thread, without one, and from the middle on."""

import itertools
import threading
import time

import pytest

from composefs.oci.stages import Ahead, Behind

DEPTH = 3
WAIT = 10  # seconds; only what is broken takes them


def begins(number):
    """Return a may_begin that is true from the call *number* on; None: never."""
    calls = itertools.count()
    return lambda: number is not None and next(calls) >= number


BEGINS = pytest.mark.parametrize("begin", [None, 0, 1, 2, 5])


@pytest.fixture(autouse=True)
def no_threads_are_left():
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


class Source:
    """Numbers, counted and with the threads that asked for them; at *error* it fails."""

    def __init__(self, count, error=None):
        self.made, self.threads, self.is_closed = 0, [], False
        self.has_made = threading.Semaphore(0)
        self._count, self._error = count, error

    def items(self):
        try:
            for number in range(self._count):
                if number == self._error:
                    raise ValueError(number)
                self.made += 1
                self.threads.append(threading.current_thread().name)
                self.has_made.release()
                yield number
        finally:
            self.is_closed = True


def wait_for(source, count):
    """Wait until so many more items were made."""
    for _ in range(count):
        assert source.has_made.acquire(timeout=WAIT)


@BEGINS
@pytest.mark.parametrize("count", [0, 1, 3, 4, 50])
def test_ahead(begin, count):
    """All items come in order, from a thread only once there is one."""
    source = Source(count)
    ahead = Ahead(source.items(), DEPTH, begins(begin))

    assert list(ahead) == list(range(count))
    ahead.close()

    inline = count if begin is None else min(begin, count)
    assert source.threads == ["MainThread"] * inline + ["composefs-ahead"] * (count - inline)
    assert source.is_closed


def test_ahead_of_itself():
    """The thread fills the room that there is, and takes no more until an item is done with."""
    source = Source(50)
    ahead = Ahead(source.items(), DEPTH, begins(0))

    taken = []
    for number in ahead:
        wait_for(source, DEPTH if number == 0 else 1 if number <= 50 - DEPTH else 0)
        assert source.made == min(number + DEPTH, 50)
        assert not source.has_made.acquire(timeout=0.001 if number % 10 == 0 else 0)
        taken.append(number)
    ahead.close()

    assert taken == list(range(50))


def test_ahead_is_waited_for():
    """It is while there is no thread, and whenever that has nothing ready."""
    source = Source(50)
    ahead = Ahead(source.items(), DEPTH, begins(1))
    assert ahead.is_waited_for

    items = iter(ahead)
    next(items)
    assert ahead.is_waited_for
    next(items)
    wait_for(source, 2 + DEPTH - 1)
    while ahead.is_waited_for:  # until what was made is in the queue
        time.sleep(0.001)
    for _ in range(2):
        next(items)
    ahead.close()


@BEGINS
@pytest.mark.parametrize("place", [0, 1, 4])
def test_ahead_fails(begin, place):
    """What the source raises comes behind what it gave before, once."""
    source, found = Source(9, place), []
    ahead = Ahead(source.items(), DEPTH, begins(begin))

    with pytest.raises(ValueError, match=f"^{place}$"):
        found.extend(ahead)  # which keeps what came before the error
    ahead.close()

    assert found == list(range(place))


@BEGINS
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_ahead_is_left(begin, taken):
    """Who stops early closes the source and ends the thread, whatever that is about."""
    source = Source(50)
    ahead = Ahead(source.items(), DEPTH, begins(begin))

    assert list(itertools.islice(ahead, taken)) == list(range(taken))
    ahead.close()
    ahead.close()

    assert source.made <= taken + DEPTH
    assert source.is_closed or source.made == 0  # one that was never begun has nothing to close


def test_ahead_stops_at_once():
    """A thread that is to end makes no more than the item that it is about, however much room there is."""
    may_go_on, is_asked = threading.Event(), threading.Event()

    def items():
        for number in range(50):
            made.append(number)
            is_asked.set()
            assert may_go_on.wait(WAIT)
            yield number

    made = []
    ahead = Ahead(items(), DEPTH, begins(0))
    taker = threading.Thread(target=lambda: next(iter(ahead), None))
    taker.start()
    assert is_asked.wait(WAIT)
    closer = threading.Thread(target=ahead.close)
    closer.start()
    while ahead._room.qsize() < DEPTH:  # one was taken for the item, and close puts one back
        closer.join(0.001)
    may_go_on.set()
    closer.join(WAIT)
    taker.join(WAIT)

    assert made == [0]


class Work:
    """Tasks that write down their numbers; the thread waits where it is told to; at *error* one fails."""

    def __init__(self, error=None):
        self.done, self.threads = [], []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._error = error

    def task(self, number):
        def run():
            assert self.may_go_on.wait(WAIT)
            self.threads.append(threading.current_thread().name)
            if number == self._error:
                raise ValueError(number)
            self.done.append(number)

        return run


@BEGINS
@pytest.mark.parametrize("count", [0, 1, 3, 4, 50])
def test_behind(begin, count):
    """All is done in order, by a thread only once there is one; later tasks are done at once."""
    work = Work()
    behind = Behind(DEPTH, begins(begin))

    for number in range(count):
        behind.do(work.task(number))
    behind.finish()
    assert work.done == list(range(count))
    behind.do(work.task(count))
    assert work.done == list(range(count + 1))
    behind.close()

    inline = count if begin is None else min(begin, count)
    assert work.threads == ["MainThread"] * inline + ["composefs-behind"] * (count - inline) + ["MainThread"]


def test_behind_waits():
    """No more tasks wait than there is room for: who has one more waits, too."""
    work, given = Work(), []
    work.may_go_on.clear()
    behind = Behind(DEPTH, begins(0))

    def give():
        for number in range(DEPTH + 1):
            behind.do(work.task(number))
            given.append(number)

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.05)
    assert len(given) <= DEPTH
    work.may_go_on.set()
    giver.join(WAIT)
    behind.finish()

    assert work.done == given == list(range(DEPTH + 1))


@pytest.mark.parametrize("begin", [0, 1, 2, 5])
def test_behind_fails(begin):
    """What a task raises in the thread comes out of the next one, or of finish; none is done behind it."""
    work = Work(error=5)
    behind = Behind(DEPTH, begins(begin))

    def give_all():
        for number in range(50):
            behind.do(work.task(number))

    with pytest.raises(ValueError, match="^5$"):
        give_all()
    behind.close()

    assert work.done == list(range(5))


def test_behind_fails_at_once():
    """Without a thread it comes out of the task itself."""
    work = Work(error=0)
    behind = Behind(DEPTH, begins(None))

    with pytest.raises(ValueError, match="^0$"):
        behind.do(work.task(0))
    behind.do(work.task(1))
    behind.finish()

    assert work.done == [1]


@pytest.mark.parametrize("error", [0, 1, 2])
def test_behind_fails_in_the_end(error):
    """Finish raises what the last tasks have raised, even if those before it were not noticed."""
    work = Work(error)
    work.may_go_on.clear()
    behind = Behind(DEPTH, begins(0))
    for number in range(DEPTH):
        behind.do(work.task(number))
    work.may_go_on.set()

    with pytest.raises(ValueError, match=f"^{error}$"):
        behind.finish()
    behind.close()

    assert work.done == list(range(error))


@pytest.mark.parametrize("more", [0, 1, 2 * DEPTH])
def test_behind_goes_on_failing(more):
    """Who goes on all the same gets the error again, and never waits for a room that nobody makes."""
    work = Work(error=0)
    behind = Behind(DEPTH, begins(0))
    behind.do(work.task(0))

    def insist():
        for number in range(1, DEPTH + more + 1):
            try:
                behind.do(work.task(number))
            except ValueError as error:
                raised.append(error)

    raised = []
    insister = threading.Thread(target=insist, daemon=True)
    insister.start()
    insister.join(WAIT)
    assert not insister.is_alive()
    behind.close()

    assert work.done == []
    assert len(raised) >= more


@BEGINS
@pytest.mark.parametrize("count", [0, 1, DEPTH])
def test_behind_is_closed(begin, count):
    """Close does what was given, however often it is called."""
    work = Work()
    behind = Behind(DEPTH, begins(begin))
    for number in range(count):
        behind.do(work.task(number))

    behind.close()
    behind.close()

    assert work.done == list(range(count))


def test_behind_lets_go():
    """What a task holds is let go of when it is done, not when the next one comes."""
    held = threading.Event()
    behind = Behind(DEPTH, begins(0))

    class Held:
        def __call__(self):
            pass

        def __del__(self):
            held.set()

    behind.do(Held())
    assert held.wait(WAIT)
    behind.close()


def test_behind_many():
    """With several threads tasks are done at the same time, as many as there is room for."""
    count, met, done = 4, threading.Barrier(4), []
    behind = Behind(count, begins(0), threads=count)

    def meet(number):
        met.wait(WAIT)  # for all others: it takes so many threads
        done.append(number)

    for number in range(3 * count):
        behind.do(lambda number=number: meet(number))
    behind.finish()

    assert sorted(done) == list(range(3 * count))


@pytest.mark.parametrize("size", [DEPTH, DEPTH + 1, 100 * DEPTH])
def test_behind_of_large_tasks(size):
    """A task that takes all room, or would take more, is alone, and leaves as much as there was."""
    running, most = [], []
    behind = Behind(DEPTH, begins(0), threads=3)

    def run(number):
        running.append(number)
        most.append(len(running))
        threading.Event().wait(0.002)
        running.remove(number)

    for number in range(10):
        behind.do(lambda number=number: run(number), size)
    behind.finish()

    assert most == [1] * 10


def test_behind_of_several_givers():
    """Several threads give tasks of several sizes, and none waits for ever for what another one has half of."""
    behind, done = Behind(DEPTH, begins(0), threads=2), []

    def give(size):
        for _ in range(50):
            behind.do(lambda: done.append(size), size)

    givers = [threading.Thread(target=give, args=[size], daemon=True) for size in (1, 2, 3)]
    for giver in givers:
        giver.start()
    for giver in givers:
        giver.join(WAIT)
        assert not giver.is_alive()
    behind.finish()

    assert sorted(done) == [1] * 50 + [2] * 50 + [3] * 50


def test_behind_many_fail():
    """What one of several threads has raised keeps all from going on, and comes out."""
    behind, done = Behind(2, begins(0), threads=2), []

    def fail():
        raise ValueError("first")

    def insist():
        for number in range(1000):
            behind.do(lambda number=number: done.append(number))

    behind.do(fail)
    with pytest.raises(ValueError, match="first"):
        insist()
    with pytest.raises(ValueError, match="first"):
        behind.finish()

    assert len(done) <= 3
