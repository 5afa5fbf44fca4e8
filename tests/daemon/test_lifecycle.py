"""The daemon as a process: it serves, probes, reloads, and ends when told, whatever it is doing."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.daemons import START_GUARD_SECONDS, STOP_GUARD_SECONDS, Running, daemon, target
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.embedded.values import Model


async def test_a_person_sees_a_number_within_seconds(tmp_path: Path) -> None:
    """The series stand at once, the reading follows, runs add up, and SIGTERM ends it with 0."""
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
    """An engine that never answers an unload."""

    async def expire(self, model: Model) -> None:  # noqa: ARG002
        """Wait for ever."""
        self.inject(Fault(FaultKind.SLOW, factor=1))  # a mark that the test can see
        await asyncio.sleep(1000)


async def seen(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(START_GUARD_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


def generating(server: OllamaServer, number: int = 1) -> bool:
    """Return whether the server has got so many generate requests."""
    return sum(request.path == "/api/generate" for request in server.requests) >= number


STATES: dict[str, tuple[Fault | None, dict[str, Any], Callable[[Running, OllamaServer], Awaitable[None]]]] = {
    "importing": (None, {}, lambda _running, _server: asyncio.sleep(0)),
    "loading": (Fault(FaultKind.LOAD_FOREVER), {}, lambda _, server: seen(lambda: generating(server))),
    "before the first token": (
        Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN, path="/api/generate"),
        {"when_unloaded": "load"},
        lambda _, server: seen(lambda: generating(server)),
    ),
    "in the middle": (
        Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=5),
        {},
        lambda _, server: seen(lambda: generating(server, 2)),
    ),
    "giving back": (None, {}, lambda _, server: seen(lambda: generating(server, 3))),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_ends_it_with_0_in_every_state(state: str, number: signal.Signals, tmp_path: Path) -> None:
    """Connections are closed, and a borrowed model is left to Ollama's own timer."""
    fault, changes, reached = STATES[state]
    engine = StuckUnload() if state == "giving back" else FaultyEngine()
    async with OllamaServer(engine) as server:
        if fault:
            engine.inject(Fault(fault.kind, after_tokens=fault.after_tokens, path=fault.path))
        async with daemon(tmp_path, [target(server, **changes)]) as running:
            await reached(running, server)
            assert await running.end(number) == 0
            await seen(lambda: server.open_connections == 0)
    unloads = [request for request in server.requests if (request.body or {}).get("keep_alive") == 0]
    assert len(unloads) == (1 if state == "giving back" else 0)


async def test_a_signal_ends_it_while_others_wait_for_their_turn(tmp_path: Path) -> None:
    """With one turn for two targets, the one that waits has not run: it is not counted, and it holds nothing up."""
    engine = FaultyEngine()
    engine.inject(Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=5))
    async with OllamaServer(engine) as server:
        targets = [target(server, "one"), target(server, "two")]
        async with daemon(tmp_path, targets, max_concurrent_probes=1) as running:
            await seen(lambda: generating(server, 2))
            assert await running.end() == 0


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Whoever presses Ctrl-C twice does not want to wait."""
    async with OllamaServer(FaultyEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGTERM)

        assert await asyncio.wait_for(running.process.wait(), STOP_GUARD_SECONDS) in {0, 1}


async def test_an_address_in_use_is_told_with_its_remedy(tmp_path: Path) -> None:
    """Exit 1, and the message says which setting to change."""
    async with OllamaServer(FaultyEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "exporter", "run", "--web.listen-address", running.url.removeprefix("http://")),
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await asyncio.wait_for(process.communicate(), START_GUARD_SECONDS)

    assert process.returncode == 1
    assert "--web.listen-address" in stderr.decode()


async def test_a_reload_follows_the_file_and_keeps_the_counters(tmp_path: Path) -> None:
    """A pair that stays keeps its counters, one that leaves loses its series, a new one is probed."""
    models = [ScriptedModel("llama3.1", tokens_per_second=500), ScriptedModel("b", tokens_per_second=500)]
    async with OllamaServer(FaultyEngine(models)) as server:
        targets = [target(server), target(server, "gone")]
        async with daemon(tmp_path, targets) as running:
            await running.wait_until("successes_total", 1, target="t")
            config = yaml.safe_load(running.config_file.read_text())
            config["targets"] = [target(server, models=["llama3.1", "b"], interval="10m")]
            running.config_file.write_text(yaml.safe_dump(config))
            running.process.send_signal(signal.SIGHUP)
            await running.wait_until("successes_total", 2, target="t", model="llama3.1")
            await running.wait_until("interval_seconds", 600, target="t", model="b")
            assert await running.value("runs_total", target="gone") is None
            assert await running.value("up", target="gone") is None
            assert await running.end() == 0


async def test_a_bad_reload_is_refused_and_the_former_settings_stay(tmp_path: Path) -> None:
    """The log names the mistake, and probing goes on."""
    async with OllamaServer(FaultyEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        await running.wait_until("successes_total", 1)
        running.config_file.write_text("intervall: 5m\n")
        running.process.send_signal(signal.SIGHUP)
        line = await running.wait_for_line("reload refused")

        assert "intervall" in line
        assert await running.value("decode_tokens_per_second") is not None


async def test_a_target_that_is_down_at_start_comes_back_by_itself(tmp_path: Path) -> None:
    """Down: `up` 0, failures by reason, no reading. Back: the next probe brings the reading."""
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
