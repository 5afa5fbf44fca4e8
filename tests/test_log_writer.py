"""The thread that writes log lines: order, bounds, and descriptors that do not take them."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator

import pytest

from exporter.log_writer import CLOSE_SECONDS, LogWriter

GUARD_SECONDS = 10


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield a pipe of 4 KiB that is not read."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def _line(number: int, length: int = 100) -> bytes:
    return b"%0*d\n" % (length - 1, number)


def _read_all(descriptor: int) -> bytes:
    """Return what can be read until nothing comes for a moment."""
    os.set_blocking(descriptor, False)
    data, quiet = b"", 0
    while quiet < 20:
        try:
            data += os.read(descriptor, 2**20)
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
    return data


def test_lines_are_whole_and_in_order(pipe: tuple[int, int]) -> None:
    """A reader that lags behind gets every line, and none in pieces."""
    writer = LogWriter(pipe[1])
    for number in range(2000):
        writer.put(_line(number))

    assert _read_all(pipe[0]) == b"".join(_line(number) for number in range(2000))
    assert writer.dropped == 0
    writer.close()


@pytest.mark.parametrize(("lines_max", "bytes_max"), [(50, 10**9), (10**9, 5000)])
def test_queue_is_bounded(pipe: tuple[int, int], lines_max: int, bytes_max: int) -> None:
    """Beyond either bound, the newest lines are dropped and counted; once the pipe is read, lines are taken again."""
    writer = LogWriter(pipe[1], lines_max=lines_max, bytes_max=bytes_max)
    began = time.monotonic()
    for number in range(1000):
        writer.put(_line(number))
    assert time.monotonic() - began < 1
    assert 850 < writer.dropped < 951  # the pipe holds 40 lines, the queue 50

    written = _read_all(pipe[0]).splitlines(keepends=True)
    assert written == [_line(number) for number in range(1000 - writer.dropped)]
    writer.put(_line(7))
    assert _read_all(pipe[0]) == _line(7)
    writer.close()


def test_close_does_not_wait_for_a_blocked_pipe(pipe: tuple[int, int]) -> None:
    """It waits half a second, and not at all for what has been written."""
    writer = LogWriter(pipe[1])
    for number in range(100):
        writer.put(_line(number))
    began = time.monotonic()
    writer.flush(0.1)
    writer.close()
    assert CLOSE_SECONDS <= time.monotonic() - began < CLOSE_SECONDS + 1
    _read_all(pipe[0])

    other = LogWriter(pipe[1])
    other.put(_line(1))
    began = time.monotonic()
    other.close()
    assert time.monotonic() - began < CLOSE_SECONDS
    assert _read_all(pipe[0]).endswith(_line(1))


def test_pipe_without_reader(pipe: tuple[int, int]) -> None:
    """Every line is dropped and counted, and the thread goes on."""
    writer = LogWriter(pipe[1])
    os.close(pipe[0])
    for number in range(10):
        writer.put(_line(number))
    writer.flush()
    assert writer.dropped == 10
    writer.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110 - a device
def test_full_disk() -> None:
    """Every line is dropped and counted."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = LogWriter(descriptor)
    writer.put(_line(1))
    writer.flush()
    os.close(descriptor)
    assert writer.dropped == 1
    writer.close()


def test_closed_descriptor() -> None:
    """Without a descriptor every line is dropped and counted."""
    writer = LogWriter(None)
    writer.put(_line(1))
    assert writer.dropped == 1
    writer.close()


def test_non_blocking_descriptor(pipe: tuple[int, int]) -> None:
    """Lines are written where another process has made a shared pipe non-blocking."""
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1])
    for number in range(200):
        writer.put(_line(number))

    assert _read_all(pipe[0]) == b"".join(_line(number) for number in range(200))
    assert writer.dropped == 0
    writer.close()


def test_a_line_after_one_that_was_cut_begins_on_a_new_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of a line spoils that line only."""
    written: list[bytes] = []
    results: Iterator[int | OSError] = iter([3, OSError(28, "full"), 100])

    def write(_: int, data: bytes) -> int:
        result = next(results)
        if isinstance(result, OSError):
            raise result
        written.append(bytes(data[:result]))
        return len(written[-1])

    monkeypatch.setattr(os, "write", write)
    writer = LogWriter(2)
    writer.put(b"first\n")
    writer.put(b"second\n")
    writer.flush()

    assert written == [b"fir", b"\nsecond\n"]
    assert writer.dropped == 1
    writer.close()


def test_the_thread_does_not_keep_the_program_alive(pipe: tuple[int, int]) -> None:
    """It is a daemon thread."""
    writer = LogWriter(pipe[1])
    [thread] = [thread for thread in threading.enumerate() if thread.name == "log"]
    assert thread.daemon
    writer.close()
    thread.join(GUARD_SECONDS)
    assert not thread.is_alive()
