"""Unusual names of targets, models and GPUs are exposed unchanged, from the configuration to the scrape."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import programs
from support.daemons import START_GUARD_SECONDS, Running, daemon

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel

NAMES = (
    'quo"ted',
    "back\\slash\\",
    "back\\nslash and\nnewline\r\n",
    '{brace="d"} 1',
    "# HELP x",
    "größe-模型-🦙",
    "x" * 190,
    "<b>bold</b> & co",
    ",comma=,",
    "a\tb\x00\x1bc",
)
FORMATS: dict[str, Callable[[str], Iterable[Metric]]] = {
    "text/plain": parse_text,
    "application/openmetrics-text": parse_openmetrics,
}


def model_of(name: str) -> str:
    """Return the name of an installed model; the name without this tag is not installed."""
    return f"{name}:8b"


async def exposition(running: Running, accept: str) -> str:
    """Return the metrics in a format, with the line ends that were sent."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        answer = await client.get(f"{running.url}/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(accept)
    return answer.content.decode()


async def results(running: Running) -> set[tuple[str, str, float]]:
    """Return target, model and value of `ollama_probe_success`."""
    samples = [(name, dict(labels), value) for (name, labels), value in (await running.scrape()).items()]
    return {(at["target"], at["model"], value) for name, at, value in samples if name == "ollama_probe_success"}


class Words(HTMLParser):
    """The text of an HTML page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(page)

    def handle_data(self, data: str) -> None:
        """Append the text."""
        self.text += data


async def test_names_are_exposed_unchanged(tmp_path: Path, newest_release: programs.Release) -> None:
    """Names with quotes, newlines, braces, markup, non-ASCII characters, or 190 characters.

    Both parsers of prometheus_client read every label back as configured, for successful and failed probes; promtool
    accepts the exposition; each log message is one line; the status page shows the names as text.
    """
    models = [ScriptedModel(model_of(name), tokens_per_second=5000, load_seconds=0.01) for name in NAMES]
    async with OllamaServer(ScriptedEngine(models)) as server:
        targets: list[dict[str, Any]] = [
            {
                "name": name,
                "url": server.url,
                "gpu": name,
                "num_predict": 32,
                "models": [model_of(name)],
                "when_unloaded": "load",
            }
            for name in NAMES
        ]
        targets.append({"name": "missing", "url": server.url, "models": [*NAMES], "when_unloaded": "load"})
        async with daemon(tmp_path, targets, max_concurrent_probes=2) as running:
            wanted = {(name, model_of(name), 1.0) for name in NAMES} | {("missing", NAMES[0], 0.0)}
            async with asyncio.timeout(START_GUARD_SECONDS):
                while not wanted <= await results(running):
                    await asyncio.sleep(0.2)
            expositions = {accept: await exposition(running, accept) for accept in FORMATS}
            async with httpx.AsyncClient(trust_env=False, verify=False) as client:
                page = Words((await client.get(running.url)).text)
            assert await running.end() == 0

    for accept, parse in FORMATS.items():
        samples = [sample for family in parse(expositions[accept]) for sample in family.samples]
        measured = {
            (sample.labels["target"], sample.labels["model"], sample.labels["gpu"])
            for sample in samples
            if sample.name == "ollama_probe_decode_tokens_per_second"
        }
        assert measured == {(name, model_of(name), name) for name in NAMES}
        infos = {s.labels["model"]: s.labels["model_name"] for s in samples if s.name == "ollama_probe_model_info"}
        assert infos == {model_of(name): model_of(name) for name in NAMES}
        counted = {s.labels["model"] for s in samples if s.name == "ollama_probe_runs_total"}
        assert counted == {*NAMES, *map(model_of, NAMES)}
    command = [newest_release.promtool, "check", "metrics"]
    run: Any = subprocess.run
    checked = await asyncio.to_thread(
        run,
        command,
        input=expositions["text/plain"],
        encoding="utf-8",
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert [
        line for line in (checked.stdout + checked.stderr).splitlines() if "ollama_probe_token_count" not in line
    ] == []
    assert all(line.startswith("ts=") for line in running.lines), "a name was split over log lines"
    assert all(name.split()[0] in page.text for name in NAMES)
