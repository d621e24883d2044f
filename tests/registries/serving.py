"""Start servers of others on free ports of the loopback interface, and end them."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HOST = "127.0.0.1"
_START = 20.0  # seconds within which a server must listen
_END = 10.0  # seconds within which it must end
_TRIES = 3  # another process may have taken a port that was free


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def serving(command: Callable[[Sequence[int]], Sequence[str]], log: Path, count: int = 1) -> Iterator[tuple[int, ...]]:
    """Run a server while the context lasts, and give its ports.

    Args:
        command: makes the arguments that start it, and writes its configuration, for the ports it is called with.
        log: gets what it prints.
        count: of ports.
    """
    for tries_left in reversed(range(_TRIES)):
        ports = tuple(free_port() for _ in range(count))
        process = _start(command(ports), log)
        try:
            if _listens(process, ports):
                yield ports
                return
        finally:
            _end(process)
        if not tries_left:
            raise AssertionError(f"the server did not start:\n{log.read_text()}")


def _start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def _listens(process: subprocess.Popen[bytes], ports: Sequence[int]) -> bool:
    """Wait until *process* listens at all *ports*; tell whether it does, rather than has ended."""
    deadline = time.monotonic() + _START
    for port in ports:
        while not _answers(port):
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"nobody listens at port {port} after {_START} s"
            time.sleep(0.02)
    return process.poll() is None


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
