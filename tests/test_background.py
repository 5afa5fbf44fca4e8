"""`run_in_daemon_thread`: results, exceptions, cancellation, and a program that ends while it works."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from typing import Any

import pytest

from exporter.background import KeyedThreads, run_in_daemon_thread


async def test_returns_the_result() -> None:
    """The function runs in a daemon thread of the given name, and its result is returned."""
    thread = await run_in_daemon_thread(threading.current_thread, "import")

    assert (thread.name, thread.daemon) == ("import", True)


async def test_raises_the_exception() -> None:
    """An exception is raised where the result is awaited."""
    with pytest.raises(ZeroDivisionError):
        await run_in_daemon_thread(lambda: 1 // 0, "division")


async def test_result_after_cancellation_is_dropped() -> None:
    """A function that ends after its caller was cancelled has no effect, and causes no error on the loop."""
    release, ended = threading.Event(), threading.Event()
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    def work() -> None:
        release.wait(10)
        ended.set()

    task = asyncio.create_task(run_in_daemon_thread(work, "slow"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert await asyncio.to_thread(ended.wait, 10)
    await asyncio.sleep(0.01)
    assert errors == []


def test_does_not_delay_the_end_of_the_program() -> None:
    """A program whose main coroutine ends while the thread works exits at once, without an error."""
    program = (
        "import asyncio, time\n"
        "from exporter.background import KeyedThreads, run_in_daemon_thread\n"
        "async def main():\n"
        "    asyncio.create_task(run_in_daemon_thread(lambda: time.sleep(60), 'slow'))\n"
        "    await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)

    assert done.stderr == ""


async def test_one_thread_per_key_and_one_result_for_all_that_wait() -> None:
    """A function that hangs occupies one thread. Another key has its own, and a result is not kept."""
    threads, release, called = KeyedThreads(), threading.Event(), []

    def work() -> int:
        called.append(1)
        release.wait(10)
        return len(called)

    cancelled = asyncio.create_task(threads.run("a", work, "work"))
    waiting = [asyncio.create_task(threads.run("a", work, "work")) for _ in range(3)]
    await asyncio.sleep(0.05)
    cancelled.cancel()
    assert await threads.run("b", lambda: "b", "work") == "b"
    release.set()

    assert await asyncio.gather(*waiting) == [1, 1, 1]
    assert await threads.run("a", work, "work") == 2


async def test_an_exception_for_which_nobody_waits_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The caller has given up; the next one calls again."""
    threads = KeyedThreads()
    task = asyncio.create_task(threads.run("a", lambda: 1 // 0, "division"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.1)
    gc.collect()

    with pytest.raises(ZeroDivisionError):
        await threads.run("a", lambda: 1 // 0, "division")
    assert caplog.records == []
