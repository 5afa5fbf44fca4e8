"""The demo of the compose file, without Grafana, whose image is not available everywhere."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from containers.engine import Engine
from support.programs import find_program, free_port

pytestmark = pytest.mark.timeout(900)
FOLDER = Path(__file__).parent.parent.parent / "deploy/compose"
SERVICES = ("exporter-demo", "alertmanager", "prometheus-demo")
PAGE_SECONDS = 300


@contextmanager
def socket_of(engine: Engine) -> Iterator[str]:
    """Serve podman's Docker API and yield its address."""
    socket = engine.folder / "podman.sock"
    with (engine.folder / "service.log").open("wb") as log:
        command = engine.command("podman", "system", "service", "--time=0", f"unix://{socket}")
        process = subprocess.Popen(
            command, env=engine.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert time.monotonic() < deadline, (engine.folder / "service.log").read_text()
            time.sleep(0.1)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def health_checks(engine: Engine) -> Iterator[None]:
    """Run every container's health check each second; podman leaves that to systemd, which may not be running."""
    ended = threading.Event()

    def check() -> None:
        while not ended.wait(1):
            for name in engine.podman("ps", "--format={{.Names}}").split():
                command = engine.command("podman", "healthcheck", "run", name)
                subprocess.run(command, env=engine.environment, capture_output=True, check=False, timeout=60)

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def demo(engine: Engine, image: str, substitutes: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start the demo with docker-compose and yield the address of each service."""
    compose = find_program("docker-compose")
    if compose is None:
        pytest.skip("docker-compose not found. Run `make programs` on Debian, or install docker-compose 2.")
    ports = {name: free_port() for name in ("EXPORTER", "PROMETHEUS", "ALERTMANAGER")}
    with socket_of(engine) as socket:
        environment = {**engine.environment, **substitutes, "EXPORTER_IMAGE": image, "DOCKER_HOST": socket}
        environment |= {f"{name}_PORT": f"127.0.0.1:{port}" for name, port in ports.items()}

        def run(*words: str) -> None:
            outcome = subprocess.run(
                [compose, "--profile=demo", *words],
                cwd=FOLDER,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert outcome.returncode == 0, outcome.stdout + outcome.stderr

        try:
            with health_checks(engine):
                run("up", "--detach", "--wait", "--no-build", "--pull=never", *SERVICES)
            yield {name.lower(): f"http://127.0.0.1:{port}" for name, port in ports.items()}
        finally:
            run("down", "--volumes", "--timeout=5")


def get_json(url: str, **parameters: str) -> Any:
    """Return the JSON body of a response."""
    answer = httpx.get(url, params=parameters, timeout=10, trust_env=False)
    answer.raise_for_status()
    return answer.json()


def test_demo_shows_a_drop_its_alert_and_its_cause(demo: dict[str, str]) -> None:
    """Prometheus scrapes the exporter by its service name, and Alertmanager has the page within five minutes."""
    start = time.monotonic()
    seen: dict[str, float] = {}
    while "paged" not in seen:
        waited = time.monotonic() - start
        assert waited < PAGE_SECONDS, f"only {seen} after {waited:.0f} s"
        time.sleep(1)
        for target in get_json(f"{demo['prometheus']}/api/v1/targets")["data"]["activeTargets"]:
            assert target["scrapeUrl"] == "http://exporter:10434/metrics"
            if target["health"] == "up":
                seen.setdefault("scraped", waited)
        rates = get_json(f"{demo['prometheus']}/api/v1/query", query="ollama_probe_decode_tokens_per_second")["data"][
            "result"
        ]
        if rates:
            seen.setdefault("measured", waited)
            if float(rates[0]["value"][1]) < 60:
                seen.setdefault("dropped", waited)
        for alert in get_json(f"{demo['alertmanager']}/api/v2/alerts"):
            if alert["labels"]["alertname"] == "OllamaProbeThroughputDropped":
                seen.setdefault("paged", waited)
                page = alert
    assert page["labels"]["severity"] == "critical"
    assert (page["labels"]["target"], page["labels"]["model"]) == ("demo-gpu", "llama3.1")
    assert page["labels"]["cause"] == "partial_offload"
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in seen.items())
    print(f"\nafter `up`: {times}\n{page['labels']}\n{page['annotations']}")  # noqa: T201 - the durations are a result
