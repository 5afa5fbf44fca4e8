"""The room's one thread: a driver is not asked from two sides at once, and never from the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

ANSWER_SECONDS = 1.0
"""How long a probe waits for the driver, at its beginning and at its end."""


FAILED = "the GPU's driver failed; going on without it"


class Worker:
    """Runs calls one after the other. Its thread is a daemon, so that a driver that hangs cannot hold up the exit."""

    def __init__(self, log: logging.Logger, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._log = log
        self._answer_seconds = answer_seconds
        self._hung: Future[None] | None = None
        """Done as soon as a driver that hung goes on."""
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="gpu", daemon=True).start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Have `function` called on the thread, after all that was submitted before."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                future.set_exception(error)

        self._calls.put(call)
        return future

    async def ask(self, function: Callable[[], T]) -> T | None:
        """Return what `function` answers on the thread; None if the driver fails or hangs, at once while it does."""
        if self._hung is not None and not self._hung.done():
            return None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.submit(function)), self._answer_seconds)
        except TimeoutError:
            self._log.warning("the GPU's driver did not answer within %g s; going on without it", self._answer_seconds)
            self._hung = self.submit(lambda: None)
        except Exception:  # noqa: BLE001 - a probe goes on, whatever a driver does
            self._log.exception(FAILED)
        return None

    def tell(self, function: Callable[[], object]) -> None:
        """Have `function` called as soon as the thread is free, and do not wait for it."""

        def call() -> None:
            try:
                function()
            except Exception:  # noqa: BLE001 - likewise
                self._log.exception(FAILED)

        self.submit(call)

    def close(self) -> None:
        """Let the thread end after what has been submitted; it is not waited for."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
