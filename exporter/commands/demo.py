"""`demo`: the daemon against built-in servers: a simulated GPU whose rate drops, and a real small model."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.live import Live
from rich.text import Text

from exporter.commands.console import open_console, readings_table, share_of_expected
from exporter.daemon import Daemon
from exporter.durations import Duration
from exporter.embedded.llamacpp import LlamaCppEngine
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import OffloadingEngine, ScriptedModel
from exporter.errors import ExporterError, SettingsError
from exporter.logs import configure_logging
from exporter.settings import load_settings
from exporter.signals import handle_signals
from exporter.state.model_state import ModelStatus

RATE = 120.0
"""Tokens per second of the simulated GPU before its drop."""
GPU_SHARE_AFTER_DROP = 0.938
"""Share of the model that stays on the GPU. The rest runs at 3 % of the rate, so a third of it remains:
1 / (share + (1 - share) / 0.03)."""
GPU_NAME = "Simulated GPU"
REAL_MODEL = "smollm2:135m"
REFRESH_SECONDS = 1.0
RULES_FILE = "deploy/prometheus/rules.yml"
ALERT_DELAY = "about 5 minutes"
"""From the drop to the alert, with the shipped rules and a probe every 15 s (4 min 57 s in one run)."""


def demonstrate(options: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT and return 0."""
    asyncio.run(_demonstrate(options, options.drop_after))
    return 0


async def _demonstrate(options: argparse.Namespace, drop_after: Duration) -> None:
    console = open_console()
    async with contextlib.AsyncExitStack() as stack:
        models = [ScriptedModel("llama3.1", tokens_per_second=RATE)]
        simulated = OffloadingEngine(models, gpu_share=GPU_SHARE_AFTER_DROP, after_seconds=drop_after)
        targets = [_simulated_target((await stack.enter_async_context(OllamaServer(simulated))).url)]
        if not options.no_real_model:
            targets += await _real_target(console, stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ollama-throughput-exporter-")))
        config_file = folder / "demo.yml"
        config_file.write_text(yaml.safe_dump({"interval": "15s", "targets": targets}))
        configure_logging(options.log_level or "warn", options.log_format or "logfmt")
        daemon = Daemon(lambda: load_settings(config_file=config_file, flags=vars(options)), CollectorRegistry())
        showing: list[asyncio.Task[None]] = []

        def show(urls: list[str]) -> None:
            print_introduction(console, urls, daemon.settings.web.telemetry_path, targets, drop_after)
            showing.append(asyncio.create_task(_show_readings(console, daemon)))
            showing.append(asyncio.create_task(_announce_drop(console, drop_after)))
            handle_signals({"SIGHUP": daemon.stop})  # the terminal is gone

        try:
            await daemon.run(show)
        except SettingsError as error:
            raise SettingsError(f'{error} With make: make demo ARGS="--web.listen-address :10435".') from error
        finally:
            for task in showing:
                task.cancel()
            await asyncio.gather(*showing, return_exceptions=True)


def _simulated_target(url: str) -> dict[str, Any]:
    model = {"name": "llama3.1", "expected_decode_tokens_per_second": RATE}
    return {"name": "demo-gpu", "url": url, "gpu": GPU_NAME, "local": False, "models": [model]}


async def _real_target(console: Console, stack: contextlib.AsyncExitStack) -> list[dict[str, Any]]:
    """Return the target with the real model. If it cannot run here, print why and return no target."""
    try:
        engine = LlamaCppEngine()
        url = (await stack.enter_async_context(OllamaServer(engine))).url
    except ExporterError as error:
        console.print(Text(f"The demo runs without its real model. {error}", style="yellow"))
        return []
    return [{"name": "demo-cpu", "url": url, "num_predict": 64, "models": [REAL_MODEL]}]


def print_introduction(
    console: Console, urls: Sequence[str], telemetry_path: str, targets: Sequence[dict[str, Any]], drop_after: Duration
) -> None:
    """Print the addresses, what will happen, and a configuration for Prometheus."""
    address = urls[0].removeprefix("http://").replace("[::]", "localhost").replace("0.0.0.0", "localhost")  # noqa: S104
    servers = [f"  {target['name']}  {target['url']}" for target in targets]
    lines = (
        f"Status page  http://{address}/",
        f"Metrics      http://{address}{telemetry_path}",
        "",
        f"demo-gpu is simulated. After {drop_after}, part of its model leaves the GPU and its rate drops to a third.",
        "demo-cpu, if listed, is a real small model under llama.cpp on this machine's CPU.",
        "",
        "Ollama servers, for example for `ollama-throughput-exporter probe --url URL`:",
        *servers,
        "",
        "For prometheus.yml, in a checkout:",
        f"  rule_files: [{RULES_FILE}]",
        "  scrape_configs:",
        "    - job_name: ollama-throughput",
        "      scrape_interval: 15s",
        "      static_configs:",
        f'        - targets: ["{address}"]',
        "",
        "Press Ctrl-C to stop.",
    )
    console.print(Text("\n".join(lines)))


async def _announce_drop(console: Console, drop_after: Duration) -> None:
    await asyncio.sleep(drop_after)
    text = f"The rate of demo-gpu drops now. With the alert rules loaded, the alert fires {ALERT_DELAY} later."
    console.print(Text(text, style="bold red"))


async def _show_readings(console: Console, daemon: Daemon) -> None:
    """Keep a table of the current readings up to date on a terminal; elsewhere print a line for each new reading."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(readings_table(daemon.state.statuses()), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)
    shown: dict[object, float] = {}
    while True:
        for status in daemon.state.statuses():
            if status.reading is not None and shown.get(status.state.key) != status.reading.finished_at:
                shown[status.state.key] = status.reading.finished_at
                console.print(Text(reading_line(status)))
        await asyncio.sleep(REFRESH_SECONDS)


def reading_line(status: ModelStatus) -> str:
    """Return one line about a model's exposed reading."""
    assert status.reading is not None  # noqa: S101 - the caller has looked
    key, share = status.state.key, share_of_expected(status)
    rate = f"{status.reading.figures.decode_tokens_per_second:.1f} tokens/s"
    note = "" if share is None else f" ({share:.0%} of expected)"
    return f"{key.target} {key.model} on {status.reading.gpu.label}: {rate}{note}"
