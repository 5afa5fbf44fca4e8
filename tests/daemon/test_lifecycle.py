"""The daemon as a process: start, signals, and servers that are down at the start."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.daemons import START_GUARD_SECONDS, STOP_GUARD_SECONDS, Running, daemon, target
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.embedded.values import Model


async def test_serves_series_then_readings(tmp_path: Path) -> None:
    """Counters are there from the first scrape, a reading follows, and SIGTERM ends the daemon with 0."""
    async with OllamaServer(FaultyEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        assert await running.value("runs_total", target="t", model="llama3.1") == 0
        await running.wait_until("runs_total", 1)
        rate = await running.value("decode_tokens_per_second", target="t", model="llama3.1", gpu="unknown")
        assert rate is not None
        assert rate > 0
        assert await running.value("up", target="t") == 1
        assert await running.value("success", target="t") == 1
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{running.url}/-/ready")).status_code == 200
        assert await running.end() == 0
    assert any("msg=stopped" in line for line in running.lines)
    assert not [line for line in running.lines if "level=error" in line]


class StuckUnload(FaultyEngine):
    """An engine that never answers an unload request."""

    async def expire(self, model: Model) -> None:  # noqa: ARG002
        """Never return."""
        await asyncio.sleep(1000)


async def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(START_GUARD_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


def generating(server: OllamaServer, number: int = 1) -> bool:
    """Return whether the server has received this many generate requests."""
    return sum(request.path == "/api/generate" for request in server.requests) >= number


SLOW_SHUTDOWN = """
import asyncio, sys
from exporter.__main__ import main
from exporter.web.server import WebServer

async def wait(self):
    await asyncio.sleep(60)

WebServer.stop = wait
sys.exit(main())
"""
"""The program, with a web server that takes a minute to stop."""

STATES: dict[str, tuple[Fault | None, dict[str, Any], Callable[[Running, OllamaServer], Awaitable[None]]]] = {
    "importing": (None, {}, lambda _running, _server: asyncio.sleep(0)),
    "loading": (Fault(FaultKind.LOAD_FOREVER), {}, lambda _, server: wait_for(lambda: generating(server))),
    "before the first token": (
        Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN, path="/api/generate"),
        {"when_unloaded": "load"},
        lambda _, server: wait_for(lambda: generating(server)),
    ),
    "in the middle": (
        Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=5),
        {},
        lambda _, server: wait_for(lambda: generating(server, 2)),
    ),
    "unloading": (None, {}, lambda _, server: wait_for(lambda: generating(server, 3))),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_signal_exits_with_0_in_every_state(state: str, number: signal.Signals, tmp_path: Path) -> None:
    """Connections are closed, and a borrowed model is left to Ollama's own keep-alive timer."""
    fault, changes, reached = STATES[state]
    engine = StuckUnload() if state == "unloading" else FaultyEngine()
    async with OllamaServer(engine) as server:
        if fault:
            engine.inject(Fault(fault.kind, after_tokens=fault.after_tokens, path=fault.path))
        async with daemon(tmp_path, [target(server, **changes)]) as running:
            await reached(running, server)
            assert await running.end(number) == 0
            await wait_for(lambda: server.open_connections == 0)
    unloads = [request for request in server.requests if (request.body or {}).get("keep_alive") == 0]
    assert len(unloads) == (1 if state == "unloading" else 0)


async def test_signal_exits_while_a_probe_waits_for_its_turn(tmp_path: Path) -> None:
    """With max_concurrent_probes 1, the probe that waits does not delay the exit."""
    engine = FaultyEngine()
    engine.inject(Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=5))
    async with OllamaServer(engine) as server:
        targets = [target(server, "one"), target(server, "two")]
        async with daemon(tmp_path, targets, max_concurrent_probes=1) as running:
            await wait_for(lambda: generating(server, 2))
            assert await running.end() == 0


STARTS = {
    "first import": """
import builtins, time
imports = builtins.__import__
def slow(name, *arguments, **options):
    if name == "exporter" and arguments and "cli" in (arguments[2] or ()):
        print("importing", file=sys.stderr, flush=True)
        time.sleep(60)
    return imports(name, *arguments, **options)
import sys
builtins.__import__ = slow
""",
    "loading the configuration": """
import sys, time
import exporter.settings.loading as loading
def slow(*arguments, **options):
    print("importing", file=sys.stderr, flush=True)
    time.sleep(60)
loading.Settings = slow
""",
}
"""What makes a phase of the start take a minute, after `importing` on standard error."""


@pytest.mark.parametrize("phase", STARTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_signal_during_the_start_exits_with_0(phase: str, number: signal.Signals) -> None:
    """SIGHUP is ignored until the daemon handles it; SIGTERM and SIGINT end the process without a traceback."""
    program = f"{STARTS[phase]}\nfrom exporter.__main__ import main\nsys.exit(main())"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "--url", "http://127.0.0.1:9"), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(START_GUARD_SECONDS):
        assert await process.stderr.readline() == b"importing\n"
        process.send_signal(signal.SIGHUP)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.3)
        process.send_signal(number)
        assert await process.wait() == 0
        assert await process.stderr.read() == b""


async def test_interrupted_command_exits_with_130() -> None:
    """Ctrl-C while a command is still imported leaves no traceback."""
    program = f"{STARTS['first import']}\nfrom exporter.__main__ import main\nsys.exit(main())"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "probe", "--url", "http://127.0.0.1:9"), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(START_GUARD_SECONDS):
        assert await process.stderr.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert await process.stderr.read() == b""


async def test_second_signal_exits_at_once(tmp_path: Path) -> None:
    """While the first signal's shutdown still waits, a second one exits with 1 instead of the graceful 0."""
    async with (
        OllamaServer(FaultyEngine()) as server,
        daemon(tmp_path, [target(server)], program=SLOW_SHUTDOWN) as running,
    ):
        running.process.send_signal(signal.SIGINT)
        await running.wait_for_line("msg=stopping")
        running.process.send_signal(signal.SIGTERM)

        assert await asyncio.wait_for(running.process.wait(), STOP_GUARD_SECONDS) == 1
    assert not any("msg=stopped" in line for line in running.lines)


async def test_address_in_use_exits_with_1(tmp_path: Path) -> None:
    """The message names the flag to change."""
    async with OllamaServer(FaultyEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "exporter", "run", "--web.listen-address", running.url.removeprefix("http://")),
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await asyncio.wait_for(process.communicate(), START_GUARD_SECONDS)

    assert process.returncode == 1
    assert "--web.listen-address" in stderr.decode()


async def test_target_that_is_down_at_start_recovers(tmp_path: Path) -> None:
    """While it is down: `up` 0, failures by reason, no reading. Afterwards the next probe gives a reading."""
    server = OllamaServer(FaultyEngine([ScriptedModel(tokens_per_second=500)]))
    url = await server.start()
    await server.stop()
    async with daemon(tmp_path, [target(server, url=url, interval="1s")]) as running:
        await running.wait_until("up", 0, target="t")
        await running.wait_until("success", 0, target="t")
        assert (await running.value("failures_total", reason="connect") or 0) > 0
        assert await running.value("decode_tokens_per_second") is None
        line = await running.wait_for_line("probe failed")
        assert all(word in line for word in ("target=t", "model=llama3.1", "reason=connect", "remedy="))
        back = OllamaServer(FaultyEngine([ScriptedModel(tokens_per_second=500)]))
        await back.start(port=int(url.rpartition(":")[2]))
        await running.wait_until("success", 1, target="t")
        await running.wait_until("up", 1, target="t")
        assert await running.value("decode_tokens_per_second") is not None
        assert await running.end() == 0
        await back.stop()
