"""The whole path of an alert: server, exporter, Prometheus, Alertmanager, webhook."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import programs
from support.daemons import daemon, target
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel

DEPLOY = Path(__file__).parents[2] / "deploy"
INTERVAL_SECONDS = 2
WAIT_SECONDS = 100


def prometheus_config(rules: Path, scraped: str, alertmanager: str) -> str:
    """Return a Prometheus configuration that scrapes and evaluates every second."""
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": "ollama-throughput", "static_configs": [{"targets": [scraped.removeprefix("http://")]}]}
            ],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}]},
        }
    )


def alertmanager_config(webhook: str) -> str:
    """Return the shipped Alertmanager configuration with this receiver, and group waits of a second."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    config["receivers"][0]["webhook_configs"][0]["url"] = webhook
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "1s", "group_interval": "1s"}
    return yaml.safe_dump(config)


def receive(webhook: programs.Webhook, alertname: str, status: str) -> dict[str, Any]:
    """Return the first alert with this name and status that the receiver gets."""
    while True:
        for alert in webhook.receive(WAIT_SECONDS)["alerts"]:
            if (alert["labels"]["alertname"], alert["status"]) == (alertname, status):
                found: dict[str, Any] = alert
                return found


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Return the rules, rendered for the interval of this test."""
    file = tmp_path / "rules.yml"
    program, interval = str(DEPLOY / "prometheus/generate_rules.py"), str(INTERVAL_SECONDS)
    subprocess.run(
        [sys.executable, program, "--demo-interval", interval, "--output", str(file)], check=True, timeout=60
    )
    return file


@pytest.mark.timeout(400)
async def test_drop_pages_with_its_cause_and_recovery_resolves_it(
    *,
    tmp_path: Path,
    rules: Path,
    newest_release: programs.Release,
    run_prometheus: Callable[..., programs.Prometheus],
    run_alertmanager: Callable[[programs.Release, str], str],
    webhook: programs.Webhook,
) -> None:
    """A drop of the server's rate reaches the webhook as a page with its cause, and its end as a resolved alert."""
    engine = FaultyEngine([ScriptedModel("llama3.1", tokens_per_second=400, load_seconds=0.05)])
    async with OllamaServer(engine) as server:
        probed = target(
            server,
            "gpu-a",
            interval=f"{INTERVAL_SECONDS}s",
            when_unloaded="load",
            models=[{"name": "llama3.1", "expected_decode_tokens_per_second": 400}],
        )
        async with daemon(tmp_path, [probed]) as running:
            await running.wait_until("success", 1)
            alertmanager = run_alertmanager(newest_release, alertmanager_config(webhook.url))
            prometheus = run_prometheus(newest_release, prometheus_config(rules, running.url, alertmanager))
            drop = engine.inject(Fault(FaultKind.PARTIAL_OFFLOAD, factor=0.938))
            fired = await asyncio.to_thread(receive, webhook, "OllamaProbeThroughputDropped", "firing")
            rates = prometheus.query('ollama_probe_decode_tokens_per_second{target="gpu-a", model="llama3.1"}')
            assert [rate for _, rate in rates] == [pytest.approx(400 / 3, rel=0.3)]
            drop.end()
            resolved = await asyncio.to_thread(receive, webhook, "OllamaProbeThroughputDropped", "resolved")

    assert (fired["labels"]["target"], fired["labels"]["model"]) == ("gpu-a", "llama3.1")
    assert fired["labels"]["severity"] == "critical"
    assert fired["labels"]["cause"] == "partial_offload"
    assert {"summary", "description", "runbook_url", "dashboard_url"} <= fired["annotations"].keys()
    assert resolved["labels"] == fired["labels"]
    with pytest.raises(queue.Empty):
        webhook.receive(0)
