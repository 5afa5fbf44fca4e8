"""The scrape configurations, read by Prometheus's own promtool."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from support.programs import Release, releases

FOLDER = Path(__file__).parents[2] / "deploy/prometheus"
PORT = "10434"
JOB = "ollama-throughput"


def newest() -> Release:
    """Return the newest Prometheus at hand, or skip."""
    if not releases():
        pytest.skip("promtool is neither on PATH nor in the cache: run tests/fetch_programs.sh")
    return releases()[-1]


def check(promtool: Path, file: Path) -> str:
    """Return what promtool says of a configuration that it accepts."""
    outcome = subprocess.run(
        [promtool, "check", "config", file], capture_output=True, text=True, check=False, timeout=60
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


@pytest.mark.parametrize("name", ["scrape.yml", "scrape-fleet.yml"])
def test_every_prometheus_accepts_it(name: str) -> None:
    """Both the oldest and the newest Prometheus at hand take the file as it stands."""
    newest()
    for release in releases():
        assert "SUCCESS" in check(release.promtool, FOLDER / name)


def test_kubernetes_discovery_is_accepted() -> None:
    """Prometheus 3 takes it; Debian builds its Prometheus 2 without Kubernetes discovery."""
    if newest().major < 3:
        pytest.skip(f"Prometheus {newest().version} of this machine may be built without Kubernetes discovery")
    assert "SUCCESS" in check(newest().promtool, FOLDER / "scrape-kubernetes.yml")


def test_remote_write_in_a_comment_is_accepted(tmp_path: Path) -> None:
    """The long-term store that is shown as a comment is right once its comment signs are gone."""
    shown, _, commented = (FOLDER / "scrape-fleet.yml").read_text().partition("# A long-term store")
    lines = [re.sub("^# ?", "", line) for line in commented.splitlines()[1:] if re.match(r"# (remote_write| )", line)]
    assert lines[0] == "remote_write:"
    (tmp_path / "prometheus.yml").write_text(shown + "\n".join(lines))
    check(newest().promtool, tmp_path / "prometheus.yml")


def test_every_target_has_the_exporters_port() -> None:
    """Static targets are written with the port that the exporter listens on."""
    for name in ("scrape.yml", "scrape-fleet.yml"):
        for job in yaml.safe_load((FOLDER / name).read_text())["scrape_configs"]:
            for group in job["static_configs"]:
                assert all(target.endswith(f":{PORT}") for target in group["targets"])


def test_instance_is_the_host_in_a_fleet() -> None:
    """Relabelling leaves the host without its port, so that a host's exporters share one `instance`."""
    outcome = subprocess.run(
        [newest().promtool, "check", "service-discovery", "--timeout=1s", FOLDER / "scrape-fleet.yml", JOB],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = [target["labels"] for target in json.loads(outcome.stdout)]
    assert {(labels["instance"], labels["__address__"], labels["datacenter"]) for labels in found} >= {
        ("gpu-01", f"gpu-01:{PORT}", "a"),
        ("gpu-12", f"gpu-12:{PORT}", "b"),
    }
