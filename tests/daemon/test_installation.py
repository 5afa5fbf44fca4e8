"""A large installation: 200 targets with 5 models each, and how first probes are spread."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
from support.daemons import START_GUARD_SECONDS, daemon

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel

TARGETS, MODELS = 200, 5
RUNS = re.compile(r'^ollama_probe_runs_total{target="([^"]*)",model="([^"]*)"} (.*)$', re.MULTILINE)
"""Parsing every scrape with its forty thousand series would block the server in this process."""


async def test_first_probes_are_staggered_and_every_scrape_is_complete(tmp_path: Path) -> None:
    """All 1,000 models are in every scrape from the first on; only one model of each target is probed at the start."""
    models = [ScriptedModel(f"m{number}", tokens_per_second=10_000, load_seconds=0) for number in range(MODELS)]
    keys = {(f"gpu-{target}", f"m{model}") for target in range(TARGETS) for model in range(MODELS)}
    runs: dict[tuple[str, str], float] = {}
    scrapes = 0
    async with OllamaServer(ScriptedEngine(models, num_parallel=TARGETS)) as server:
        targets = [
            {"name": f"gpu-{number}", "url": server.url, "models": [model.name for model in models]}
            for number in range(TARGETS)
        ]
        probe = {"num_predict": 16, "when_unloaded": "load"}
        async with (
            daemon(tmp_path, targets, interval="1h", probe=probe, max_concurrent_probes=TARGETS) as running,
            httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client,
            asyncio.timeout(START_GUARD_SECONDS),
        ):
            while sum(runs.values()) < TARGETS / 4:
                answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
                assert answer.status_code == 200
                assert answer.text.endswith("# EOF\n")
                counted = RUNS.findall(answer.text)
                runs = {(target, model): float(count) for target, model, count in counted}
                assert len(counted) == len(runs)
                assert runs.keys() == keys
                scrapes += 1
                await asyncio.sleep(0.2)
            assert await running.end() == 0

    assert scrapes > 3
    assert {model for (_, model), count in runs.items() if count} == {"m0"}
    assert max(runs.values()) == 1
    assert not [line for line in running.lines if "level=error" in line]


async def test_first_probes_of_a_target_are_spread_over_the_interval(tmp_path: Path) -> None:
    """In the first seconds only the first model of each target is probed, though the server is idle."""
    models = [ScriptedModel(f"m{number}", tokens_per_second=10_000, load_seconds=0) for number in range(3)]
    async with OllamaServer(ScriptedEngine(models, num_parallel=4)) as server:
        names = [model.name for model in models]
        targets = [{"name": name, "url": server.url, "models": names} for name in ("gpu-a", "gpu-b")]
        probe = {"num_predict": 16, "when_unloaded": "load"}
        async with daemon(tmp_path, targets, interval="1h", probe=probe) as running:
            await running.wait_until("runs_total", 2, model="m0")
            await asyncio.sleep(2)
            assert await running.value("runs_total") == 2
            assert await running.end() == 0
