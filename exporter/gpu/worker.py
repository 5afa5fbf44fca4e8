"""The thread that calls the GPU libraries: one call at a time, and never from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from exporter.logs import get_logger

T = TypeVar("T")

ANSWER_SECONDS = 1.0
"""How long a probe waits for a GPU library, at its start and at its end."""

log = get_logger(__name__)


class Worker:
    """Runs functions one after another in its own thread, which starts with the first call.

    It is a daemon thread, so that a library that hangs does not delay the exit.
    """

    def __init__(self, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._answer_seconds = answer_seconds
        self._hung: Future[None] | None = None
        """Done when a library that hung responds again."""
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` on the thread after everything submitted before, and return its future."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - passed on to the caller
                future.set_exception(error)

        self._calls.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="gpu", daemon=True)
            self._thread.start()
        return future

    async def ask(self, function: Callable[[], T]) -> T | None:
        """Run `function` on the thread and return its result; None if it fails or hangs.

        While a call hangs, return None at once.
        """
        if self._hung is not None and not self._hung.done():
            return None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.submit(function)), self._answer_seconds)
        except TimeoutError:
            log.warning("GPU library does not answer, continuing without it", timeout_seconds=self._answer_seconds)
            self._hung = self.submit(lambda: None)
        except Exception:
            log.exception("GPU library failed, continuing without it")
        return None

    def post(self, function: Callable[[], object]) -> None:
        """Run `function` on the thread as soon as it is free, without waiting for it."""

        def call() -> None:
            try:
                function()
            except Exception:
                log.exception("GPU library failed, continuing without it")

        self.submit(call)

    def close(self) -> None:
        """End the thread after what has been submitted, without waiting for it."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
