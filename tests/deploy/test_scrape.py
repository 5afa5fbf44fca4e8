"""The scrape configurations, checked with promtool."""

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
    """Return the newest Prometheus of this machine, or skip."""
    if not releases():
        pytest.skip(
            "promtool not found. Run `make programs` on Debian, or put prometheus, promtool and amtool on PATH."
        )
    return releases()[-1]


def check(promtool: Path, file: Path) -> str:
    """Return promtool's output for a configuration that it accepts."""
    outcome = subprocess.run(
        [promtool, "check", "config", file], capture_output=True, text=True, check=False, timeout=60
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


@pytest.mark.parametrize("name", ["scrape.yml", "scrape-fleet.yml"])
def test_promtool_accepts_the_file(name: str) -> None:
    """Every major version of Prometheus on this machine accepts the unchanged file."""
    newest()
    for release in releases():
        assert "SUCCESS" in check(release.promtool, FOLDER / name)


def test_kubernetes_discovery_is_accepted() -> None:
    """Prometheus 3 accepts the file; Debian's Prometheus 2 is built without Kubernetes discovery."""
    if newest().major < 3:
        pytest.skip(f"Prometheus {newest().version} may be built without Kubernetes discovery. Install Prometheus 3.")
    assert "SUCCESS" in check(newest().promtool, FOLDER / "scrape-kubernetes.yml")


def test_commented_remote_write_is_accepted(tmp_path: Path) -> None:
    """The commented example of remote_write is valid once it is uncommented."""
    active, _, commented = (FOLDER / "scrape-fleet.yml").read_text().partition("# Long-term storage")
    lines = [re.sub("^# ?", "", line) for line in commented.splitlines()[1:] if re.match(r"# (remote_write| )", line)]
    assert lines[0] == "remote_write:"
    (tmp_path / "prometheus.yml").write_text(active + "\n".join(lines))
    check(newest().promtool, tmp_path / "prometheus.yml")


def test_static_targets_have_the_port_of_the_exporter() -> None:
    """Static targets name the port that the exporter listens on."""
    for name in ("scrape.yml", "scrape-fleet.yml"):
        for job in yaml.safe_load((FOLDER / name).read_text())["scrape_configs"]:
            for group in job["static_configs"]:
                assert all(target.endswith(f":{PORT}") for target in group["targets"])


def test_instance_is_the_host_name() -> None:
    """Relabelling removes the port, so that all exporters of a host share one `instance`."""
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
