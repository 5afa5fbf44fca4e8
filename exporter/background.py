"""Calls of slow, blocking functions (imports, name resolution, files) that do not block the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(function: Callable[[], T], name: str) -> T:
    """Call a function in its own thread and return its result or raise its exception.

    Unlike the threads of `asyncio.to_thread`, a daemon thread does not delay the end of the program.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(set_result: Callable[[], None]) -> None:
        if not result.done():  # the caller was cancelled
            set_result()

    def work() -> None:
        try:
            value = function()
        except Exception as error:  # noqa: BLE001 - raised again where the result is awaited
            exception = error
            set_result: Callable[[], None] = lambda: result.set_exception(exception)  # noqa: E731
        else:
            set_result = lambda: result.set_result(value)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending
            loop.call_soon_threadsafe(settle, set_result)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await result


class KeyedThreads:
    """Calls blocking functions in daemon threads, at most one per key at a time.

    A call whose key is running waits for that result. A function that hangs therefore occupies one thread, however
    often it is called again.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, key: Hashable, function: Callable[[], T], name: str) -> T:
        """Return the function's result or raise its exception. Cancelling the caller does not stop the function."""
        task: asyncio.Task[T] | None = self._running.get(key)
        if task is None:
            task = asyncio.create_task(run_in_daemon_thread(function, name), name=name)
            self._running[key] = task

            def forget(task: asyncio.Task[T]) -> None:
                del self._running[key]
                if not task.cancelled():
                    task.exception()  # otherwise asyncio logs an exception for which no caller waits any longer

            task.add_done_callback(forget)
        return await asyncio.shield(task)
