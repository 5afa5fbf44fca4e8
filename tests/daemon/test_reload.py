"""Reload by SIGHUP: what changes, what is kept, and what is refused."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from support.daemons import daemon, target

from exporter.daemon import Daemon
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.logs import configure_logging
from exporter.settings import Settings, load_settings


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
            await running.wait_until("successes_total", 1, target="t", model="b")
            await running.wait_until("interval_seconds", 600, target="t", model="llama3.1")
            assert await running.value("successes_total", target="t", model="llama3.1") == 1
            assert await running.value("runs_total", target="gone") is None
            assert await running.value("up", target="gone") is None
            assert await running.end() == 0


@pytest.mark.parametrize(
    ("content", "keyword"),
    [
        ("intervall: 5m\n", "intervall"),
        ("", "no settings"),
        ("# targets:\n", "no settings"),
        ("interval: 5m\n", "targets"),
        (None, "FIFO"),
    ],
    ids=["unknown key", "empty", "only comments", "no targets", "FIFO"],
)
async def test_refused_reload_keeps_the_previous_configuration(
    tmp_path: Path, content: str | None, keyword: str
) -> None:
    """The log names the mistake, the metrics show it, and targets and counters stay. The next reload can succeed."""
    async with OllamaServer(ScriptedEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        await running.wait_until("successes_total", 1)
        assert await running.value("config_last_reload_successful") == 1
        loaded_at = await running.value("config_last_reload_success_timestamp_seconds") or 0
        good = running.config_file.read_text()
        if content is None:
            running.config_file.unlink()
            os.mkfifo(running.config_file)
        else:
            running.config_file.write_text(content)
        running.process.send_signal(signal.SIGHUP)
        line = await running.wait_for_line("failed to reload configuration")

        assert keyword in line
        assert await running.value("config_last_reload_successful") == 0
        assert await running.value("config_last_reload_success_timestamp_seconds") == loaded_at
        assert await running.value("successes_total", target="t") == 1
        assert await running.value("decode_tokens_per_second") is not None

        running.config_file.unlink()
        running.config_file.write_text(good)
        running.process.send_signal(signal.SIGHUP)
        await running.wait_until("config_last_reload_successful", 1)
        assert (await running.value("config_last_reload_success_timestamp_seconds") or 0) > loaded_at


async def test_log_settings_apply_at_reload_and_others_are_named(tmp_path: Path) -> None:
    """The log says what was loaded, and which changed settings need a restart: only those, until it happens."""
    async with OllamaServer(ScriptedEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        loaded = await running.wait_for_line("configuration loaded")
        assert all(
            text in loaded for text in (f"file={running.config_file}", "targets=1", "listed_models=1", "interval=15m")
        )
        config = yaml.safe_load(running.config_file.read_text())
        for changes in ({"max_concurrent_probes": 7}, {"interval": "10m"}):
            config |= changes
            running.config_file.write_text(yaml.safe_dump(config))
            running.process.send_signal(signal.SIGHUP)
            line = await running.wait_for_line("restart required")
            running.lines.remove(line)  # so that the next one is waited for
            assert "max_concurrent_probes" in line
            assert "web" not in line
        assert await running.wait_for_line("interval=10m")


def load_after(changes: dict[str, Any]) -> Callable[[], Settings]:
    """Return a function that loads the same settings as before, with these changes from the second call on."""
    texts = iter(({}, changes))

    def load() -> Settings:
        return load_settings(config_file=None, flags={"url": "http://127.0.0.1:9", **next(texts, changes)})

    return load


async def test_loading_does_not_run_on_the_event_loop() -> None:
    """A large configuration takes more than 0.1 s to load, for which scrapes and probes must not wait."""
    threads: list[threading.Thread] = []
    load = load_after({})

    def load_and_record() -> Settings:
        threads.append(threading.current_thread())
        return load()

    reloaded = Daemon(load_and_record, CollectorRegistry())
    await reloaded.reload()

    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


async def test_unexpected_errors_do_not_end_the_daemon(caplog: pytest.LogCaptureFixture) -> None:
    """A reload that fails with any error keeps the previous configuration, and the log has the traceback."""
    results = iter([load_after({})()])

    def load() -> Settings:
        for settings in results:
            return settings
        raise MemoryError

    reloaded = Daemon(load, CollectorRegistry())
    before = reloaded.settings
    reloaded.state.config_loaded()
    await reloaded.reload()

    assert reloaded.settings is before
    config = reloaded.state.config()
    assert config is not None
    assert not config.successful
    assert any(record.exc_info for record in caplog.records)
    assert "failed to reload" in caplog.text


@pytest.mark.usefixtures("logging_restored")
async def test_log_level_and_format_apply_at_reload(capsys: pytest.CaptureFixture[str]) -> None:
    """They need no restart; a reload that does not change them leaves the logging as it is."""
    reloaded = Daemon(load_after({"log_level": "warn", "log_format": "json"}), CollectorRegistry())
    configure_logging("info", "logfmt")
    await reloaded.reload()
    assert logging.getLogger("exporter").level == logging.WARNING
    logging.getLogger("exporter").warning("after")
    assert '"msg": "after"' in capsys.readouterr().err

    configure_logging("info", "logfmt")
    await reloaded.reload()
    assert logging.getLogger("exporter").level == logging.INFO
