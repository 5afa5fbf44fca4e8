"""Reload by SIGHUP: what changes, what is kept, and what is refused."""

from __future__ import annotations

import signal
from pathlib import Path

import yaml
from support.daemons import daemon, target

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel


async def test_reload_applies_the_file_and_keeps_counters(tmp_path: Path) -> None:
    """A model that stays keeps its counters, one that leaves loses its series, a new one is probed."""
    models = [ScriptedModel("llama3.1", tokens_per_second=500), ScriptedModel("b", tokens_per_second=500)]
    async with OllamaServer(ScriptedEngine(models)) as server:
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


async def test_bad_reload_keeps_the_previous_configuration(tmp_path: Path) -> None:
    """The log names the mistake, and probing continues."""
    async with OllamaServer(ScriptedEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        await running.wait_until("successes_total", 1)
        running.config_file.write_text("intervall: 5m\n")
        running.process.send_signal(signal.SIGHUP)
        line = await running.wait_for_line("failed to reload configuration")

        assert "intervall" in line
        assert await running.value("decode_tokens_per_second") is not None
