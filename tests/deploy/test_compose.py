"""The compose files, read by docker-compose itself (tests/containers/ brings them up)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.programs import find_program, releases

from exporter import __version__
from exporter.settings import load_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/compose"
PROFILES = ("ollama", "existing", "demo")
FILES = (["compose.yaml"], ["compose.yaml", "compose.nvidia.yaml"])


def resolve(files: list[str], profile: str | None, **environment: str) -> dict[str, Any]:
    """Return the project as docker-compose understands it, or skip where there is no docker-compose."""
    compose = find_program("docker-compose")
    if compose is None:
        pytest.skip("docker-compose is neither on PATH nor in the cache: run tests/fetch_programs.sh")
    command: list[str | Path] = [compose, *(word for file in files for word in ("-f", file))]
    command += ["--profile", profile] if profile else []
    outcome = subprocess.run(
        [*command, "config", "--format", "json"],
        cwd=FOLDER,
        env={"PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    project: dict[str, Any] = json.loads(outcome.stdout)
    return project


@pytest.mark.parametrize("files", FILES, ids="+".join)
@pytest.mark.parametrize(
    ("profile", "services"),
    [
        (None, {"ollama", "ollama-pull", "exporter", "prometheus", "alertmanager", "grafana"}),
        ("ollama", {"ollama", "ollama-pull", "exporter", "prometheus", "alertmanager", "grafana"}),
        ("existing", {"exporter-existing", "prometheus-existing", "alertmanager", "grafana"}),
        ("demo", {"exporter-demo", "prometheus-demo", "alertmanager", "grafana"}),
    ],
)
def test_every_combination_of_files_and_profiles_is_valid(
    files: list[str], profile: str | None, services: set[str]
) -> None:
    """Each is accepted without a warning and starts what it says; the demo needs neither Ollama nor a card."""
    project = resolve(files, profile)
    assert set(project["services"]) == services
    wants_cards = {
        name
        for name, service in project["services"].items()
        if service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
    }
    expected = {"ollama", "exporter", "exporter-existing"} if "compose.nvidia.yaml" in files else set()
    assert wants_cards == expected & services


@pytest.mark.parametrize("profile", PROFILES)
def test_order_follows_health(profile: str) -> None:
    """Every service but the one that runs to its end has a health check, and every dependency waits for it."""
    services = resolve(["compose.yaml"], profile)["services"]
    for name, service in services.items():
        assert ("healthcheck" in service) == (name != "ollama-pull"), name
        for dependency, how in service.get("depends_on", {}).items():
            ended = dependency == "ollama-pull"
            assert how["condition"] == ("service_completed_successfully" if ended else "service_healthy")
    prometheus = next(name for name in services if name.startswith("prometheus"))
    assert prometheus in services["grafana"]["depends_on"]


@pytest.mark.parametrize("profile", PROFILES)
def test_reaches_no_further_than_this_machine(profile: str) -> None:
    """Published ports are on loopback, and the services that are ours to confine are confined."""
    for name, service in resolve(["compose.yaml"], profile)["services"].items():
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        assert "no-new-privileges:true" in service["security_opt"], name
        if not name.startswith(("ollama", "grafana")):
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name


def test_images_and_ports_are_set_by_the_environment() -> None:
    """Every image and every published port has a variable, and the file .env names each."""
    known = set(re.findall(r"^#?([A-Z_]+)=", (FOLDER / ".env").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", (FOLDER / "compose.yaml").read_text()))
    assert used == known - {"COMPOSE_PROFILES"}
    for profile in PROFILES:
        images = {name: f"localhost/{name.lower()}:1" for name in used if name.endswith("_IMAGE")}
        ports = {name: f"127.0.0.2:{4000 + n}" for n, name in enumerate(sorted(used)) if name.endswith("_PORT")}
        for name, service in resolve(["compose.yaml"], profile, **images, **ports)["services"].items():
            assert service["image"] in images.values(), name
            assert all(port["host_ip"] == "127.0.0.2" for port in service.get("ports", [])), name


def test_the_exporters_image_carries_the_version() -> None:
    """The image that is built and run is named after the version of the package."""
    for profile in PROFILES:
        for name, service in resolve(["compose.yaml"], profile)["services"].items():
            if name.startswith("exporter"):
                assert service["image"] == f"ollama-throughput-exporter:{__version__}"


def test_holds_no_secret() -> None:
    """No file here sets a password, a token or a key."""
    for file in FOLDER.iterdir():
        assert not re.search(r"(?i)(password|token|secret|api_?key)\s*[:=]\s*\S", file.read_text()), file


@pytest.mark.parametrize("profile", PROFILES)
def test_mounts_exist(profile: str) -> None:
    """What is mounted from the project is there: docker would make an empty folder of what is not."""
    for service in resolve(["compose.yaml"], profile)["services"].values():
        for mount in service.get("volumes", []):
            assert mount["type"] != "bind" or Path(mount["source"]).exists(), mount["source"]


@pytest.mark.parametrize(
    ("name", "rules"), [("prometheus.yml", "../prometheus/rules.yml"), ("prometheus-demo.yml", "rules-demo.yml")]
)
def test_prometheus_accepts_its_configuration(name: str, rules: str, tmp_path: Path) -> None:
    """Each Prometheus configuration is valid, with the rules that are mounted beside it."""
    if not releases():
        pytest.skip("promtool is neither on PATH nor in the cache: run tests/fetch_programs.sh")
    text = (FOLDER / name).read_text()
    assert "/etc/prometheus/rules.yml" in text
    (tmp_path / name).write_text(text.replace("/etc/prometheus/rules.yml", str((FOLDER / rules).resolve())))
    for release in releases():
        subprocess.run([release.promtool, "check", "config", tmp_path / name], check=True, timeout=60)


def test_the_demos_rules_are_fresh() -> None:
    """They are what the generator makes for the demo's interval: run `make rules` after a change of the rules."""
    interval = 15  # seconds, see exporter/demo.py
    generator = ROOT / "deploy/prometheus/generate_rules.py"
    made = subprocess.run(
        [sys.executable, generator, f"--demo-interval={interval}"], capture_output=True, check=True, timeout=60
    )
    assert made.stdout == (FOLDER / "rules-demo.yml").read_bytes()


def test_the_exporters_configuration_is_accepted() -> None:
    """The exporter takes its configuration, with the variables that compose sets, and looks at this machine's cards."""
    environ = {"OLLAMA_URL": "http://ollama:11434", "OLLAMA_MODEL": "llama3.1"}
    (plan,) = load_settings(config_file=FOLDER / "exporter.yml", flags={}, environ=environ).plans()
    assert not isinstance(plan.models, str)
    assert (plan.url, [model.model for model in plan.models], plan.local) == ("http://ollama:11434", ["llama3.1"], True)
