"""Work that is shared by callers who want the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from exporter.web.shared_work import BusyError, SharedWork

GUARD_SECONDS = 10


class Counted:
    """A function that counts its calls and waits until it is released."""

    def __init__(self) -> None:
        self.calls = 0
        self.release = threading.Event()

    def __call__(self) -> bytes:
        """Wait, and return how many calls there have been."""
        self.calls += 1
        assert self.release.wait(GUARD_SECONDS)
        return b"result %d" % self.calls


@pytest.fixture
def work() -> Iterator[SharedWork]:
    """Yield work of which two kinds may wait."""
    work = SharedWork("test", 2)
    yield work
    work.close()


async def test_equal_keys_share_one_run(work: SharedWork) -> None:
    """Callers at the same time get the same object; a later one gets a new run."""
    function = Counted()
    callers = [asyncio.create_task(work.run("a", function)) for _ in range(5)]
    await asyncio.sleep(0.02)
    function.release.set()
    results = await asyncio.gather(*callers)

    assert function.calls == 1
    assert len({id(result) for result in results}) == 1
    assert await work.run("a", function) == b"result 2"


async def test_too_many_different_keys_are_refused(work: SharedWork) -> None:
    """The queue is bounded; what waits already is done, and then there is room again."""
    function = Counted()
    waiting = [asyncio.create_task(work.run(key, function)) for key in "ab"]
    await asyncio.sleep(0.02)

    with pytest.raises(BusyError):
        await work.run("c", function)
    function.release.set()
    await asyncio.gather(*waiting)
    assert await work.run("c", function) == b"result 3"


async def test_cancelled_caller_does_not_cancel_the_others(work: SharedWork) -> None:
    """A client that disconnects does not take the result from another."""
    function = Counted()
    leaving, staying = [asyncio.create_task(work.run("a", function)) for _ in range(2)]
    await asyncio.sleep(0.02)
    leaving.cancel()
    await asyncio.sleep(0.02)
    function.release.set()

    assert await staying == b"result 1"


async def test_failure_reaches_every_caller(work: SharedWork) -> None:
    """An exception is raised where the result is awaited, and does not stay."""

    def fail() -> bytes:
        raise ValueError("broken")

    for result in await asyncio.gather(*(work.run("a", fail) for _ in range(2)), return_exceptions=True):
        assert isinstance(result, ValueError)
    assert await work.run("a", lambda: b"good") == b"good"
