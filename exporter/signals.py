"""Signal handlers on the event loop, on every platform that has the signals."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping


def handle_signals(handlers: Mapping[str, Callable[[], None]]) -> None:
    """Call each function on the running event loop when the process receives the signal of that name.

    Signals that the platform does not have are ignored: Windows has no SIGHUP. Where the event loop cannot handle
    signals, as on Windows, Python's own signal handlers schedule the call on the loop.
    """
    loop = asyncio.get_running_loop()
    for name, handler in handlers.items():
        number: signal.Signals | None = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:
            signal.signal(number, _scheduling(loop, handler))


def _scheduling(loop: asyncio.AbstractEventLoop, handler: Callable[[], None]) -> Callable[[int, object], None]:
    def schedule(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(handler)

    return schedule
