"""Signals reach the event loop, also where a platform lacks a signal or the loop cannot handle any."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from exporter.signals import handle_signals


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def received(name: str) -> None:
    """Install a handler, send the signal to this process, and wait for the handler's call."""
    called = asyncio.Event()
    handle_signals({name: called.set})
    os.kill(os.getpid(), getattr(signal, name))
    await asyncio.wait_for(called.wait(), 10)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
async def test_handler_is_called_on_the_loop(name: str) -> None:
    """Each signal calls its function."""
    await received(name)


async def test_works_where_the_loop_has_no_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows `add_signal_handler` raises NotImplementedError: Python's own signal handlers are used."""

    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", refuse)
    await received("SIGTERM")


async def test_missing_signal_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no SIGHUP: the other signals are still handled."""
    monkeypatch.delattr(signal, "SIGHUP")
    called = asyncio.Event()
    handle_signals({"SIGHUP": called.set, "SIGTERM": called.set})
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(called.wait(), 10)
