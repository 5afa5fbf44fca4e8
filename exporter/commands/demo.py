"""`demo`: the daemon against servers of its own, one with a real small model and one whose rate falls on cue."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.live import Live
from rich.text import Text

from exporter.commands.console import open_console, readings_table
from exporter.daemon import Daemon
from exporter.durations import Duration
from exporter.embedded.llamacpp import LlamaCppEngine
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import OffloadingEngine, ScriptedModel
from exporter.errors import ExporterError
from exporter.logs import configure_logging
from exporter.settings import load_settings

RATE = 120.0
"""Tokens per second of the scripted GPU before its drop."""
DROP_GPU_SHARE = 0.938
"""So much of the model left on the GPU makes a third of the rate, where the CPU does 3 %: 1 / (s + (1 - s) / 0.03)."""
GPU_NAME = "Scripted GPU"


def demonstrate(options: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT and return 0."""
    asyncio.run(_demonstrate(options, options.drop_after))
    return 0


async def _demonstrate(options: argparse.Namespace, drop_after: Duration) -> None:
    console = open_console()
    async with contextlib.AsyncExitStack() as stack:
        models = [ScriptedModel("llama3.1", tokens_per_second=RATE)]
        scripted = OffloadingEngine(models, gpu_share=DROP_GPU_SHARE, after_seconds=drop_after)
        gpu_url = (await stack.enter_async_context(OllamaServer(scripted))).url
        targets = [
            {
                "name": "demo-gpu",
                "url": gpu_url,
                "gpu": GPU_NAME,
                "local": False,
                "models": [{"name": "llama3.1", "expected_decode_tokens_per_second": RATE}],
            }
        ]
        if not options.no_real_model:
            try:
                real = LlamaCppEngine()
            except ExporterError as error:
                console.print(Text(f"The demo runs without its real model. {error}"))
            else:
                real_url = (await stack.enter_async_context(OllamaServer(real))).url
                targets.append({"name": "demo-cpu", "url": real_url, "num_predict": 64, "models": ["smollm2:135m"]})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ollama-throughput-exporter-")))
        config_file = folder / "demo.yml"
        config_file.write_text(yaml.safe_dump({"interval": "15s", "targets": targets}))
        configure_logging(options.log_level or "warn", options.log_format or "logfmt")
        daemon = Daemon(lambda: load_settings(config_file=config_file, flags=vars(options)), CollectorRegistry())
        table = asyncio.create_task(_show_readings(console, daemon))
        try:
            await daemon.run(lambda urls: _introduce(console, urls, daemon.settings.web.telemetry_path, drop_after))
        finally:
            table.cancel()
            await asyncio.gather(table, return_exceptions=True)


def _introduce(console: Console, urls: list[str], telemetry_path: str, drop_after: Duration) -> None:
    """Print where to look, and what to paste into Prometheus."""
    address = urls[0].removeprefix("http://").replace("[::]", "localhost").replace("0.0.0.0", "localhost")  # noqa: S104
    lines = (
        f"Landing page  http://{address}/",
        f"Metrics       http://{address}{telemetry_path}",
        "",
        f"demo-gpu is scripted: after {drop_after} a part of its model leaves the GPU, and its rate falls to a third.",
        "demo-cpu, where present, is a real small model under llama.cpp on this machine's CPU.",
        "",
        "For prometheus.yml:",
        "  scrape_configs:",
        "    - job_name: ollama-throughput",
        "      scrape_interval: 15s",
        "      static_configs:",
        f'        - targets: ["{address}"]',
        "",
        "Ctrl-C ends it.",
    )
    console.print(Text("\n".join(lines)))


async def _show_readings(console: Console, daemon: Daemon) -> None:
    """Keep a table of the present readings up to date on a terminal; elsewhere print a line for each new reading."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(readings_table(daemon.state.statuses()), refresh=True)
                await asyncio.sleep(1)
    shown: dict[object, float] = {}
    while True:
        for row in daemon.state.statuses():
            if row.reading is not None and shown.get(row.state.key) != row.reading.finished_at:
                shown[row.state.key] = row.reading.finished_at
                rate = f"{row.reading.figures.decode_tokens_per_second:.1f} tokens/s"
                console.print(Text(f"{row.state.key.target} {row.state.key.model} on {row.reading.gpu.label}: {rate}"))
        await asyncio.sleep(1)
