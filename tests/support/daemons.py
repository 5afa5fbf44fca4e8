"""The daemon in its own process, and how a test reads its metrics and log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from exporter.embedded.protocol import OllamaServer

START_GUARD_SECONDS = 60
STOP_GUARD_SECONDS = 10
"""Only to end a test that hangs. `make bench` measures how long it really takes."""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Running:
    """A running daemon."""

    process: asyncio.subprocess.Process
    config_file: Path
    url: str = ""
    lines: list[str] = field(default_factory=list)

    async def wait_for_line(self, text: str) -> str:
        """Return the first log line that contains a text."""
        async with asyncio.timeout(START_GUARD_SECONDS):
            while not (found := [line for line in self.lines if text in line]):
                await asyncio.sleep(0.02)
        return found[0]

    async def scrape(self) -> Samples:
        """Return the samples of `/metrics` now."""
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:  # saves the time to load certificates
            text = (await client.get(f"{self.url}/metrics")).text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric's samples with these labels; None if there is none."""
        found = [
            value
            for (sample, its_labels), value in (await self.scrape()).items()
            if sample == f"ollama_probe_{name}" and labels.items() <= dict(its_labels).items()
        ]
        return sum(found) if found else None

    async def wait_until(self, name: str, wanted: float | None, **labels: str) -> None:
        """Wait until a metric has a value."""
        async with asyncio.timeout(START_GUARD_SECONDS):
            while await self.value(name, **labels) != wanted:
                await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), STOP_GUARD_SECONDS)


@contextlib.asynccontextmanager
async def daemon(
    folder: Path, targets: list[dict[str, Any]], *, program: str = "", **settings: Any
) -> AsyncIterator[Running]:
    """Run the daemon in its own process, or `program` in its place; killed at the end if it still runs."""
    config_file = folder / "config.yml"
    config = {"web": {"listen_address": ["127.0.0.1:0"]}, "targets": targets, **settings}
    config_file.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(("-c", program) if program else ("-m", "exporter")),
        *("--config.file", str(config_file), "--log.level", "debug"),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    )
    running = Running(process, config_file)

    async def read_log() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            running.lines.append(line.decode().rstrip())

    reading = asyncio.create_task(read_log())
    try:
        found = re.search(r"http://[0-9.:]+", await running.wait_for_line("listening"))  # in either format
        assert found
        running.url = found[0]
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


def target(server: OllamaServer, name: str = "t", **changes: Any) -> dict[str, Any]:
    """Return a target's settings."""
    return {"name": name, "url": server.url, "models": ["llama3.1"], "num_predict": 32} | changes
