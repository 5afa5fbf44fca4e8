"""The compose files, resolved by docker-compose (tests/containers/ starts them)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.configurations import load_file
from support.programs import find_program, releases

from exporter import __version__

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/compose"
PROFILES = ("ollama", "existing", "demo")
FILES = (["compose.yaml"], ["compose.yaml", "compose.nvidia.yaml"])


def resolve(files: list[str], profile: str | None, **environment: str) -> dict[str, Any]:
    """Return the project as docker-compose resolves it, or skip without docker-compose."""
    compose = find_program("docker-compose")
    if compose is None:
        pytest.skip("docker-compose not found. Run `make programs` on Debian, or install docker-compose 2.")
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
    """Each combination resolves without a warning to its services; only compose.nvidia.yaml reserves GPUs."""
    project = resolve(files, profile)
    assert set(project["services"]) == services
    with_gpus = {
        name
        for name, service in project["services"].items()
        if service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
    }
    expected = {"ollama", "exporter", "exporter-existing"} if "compose.nvidia.yaml" in files else set()
    assert with_gpus == expected & services


@pytest.mark.parametrize("profile", PROFILES)
def test_dependencies_wait_for_health(profile: str) -> None:
    """Every service has a health check and every dependency waits for it; ollama-pull is waited for until it ends."""
    services = resolve(["compose.yaml"], profile)["services"]
    for name, service in services.items():
        assert ("healthcheck" in service) == (name != "ollama-pull"), name
        for dependency, how in service.get("depends_on", {}).items():
            ended = dependency == "ollama-pull"
            assert how["condition"] == ("service_completed_successfully" if ended else "service_healthy")
    prometheus = next(name for name in services if name.startswith("prometheus"))
    assert prometheus in services["grafana"]["depends_on"]


@pytest.mark.parametrize("profile", PROFILES)
def test_services_are_confined(profile: str) -> None:
    """Published ports are on loopback; no service gains privileges, and ours are read-only without capabilities."""
    for name, service in resolve(["compose.yaml"], profile)["services"].items():
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        assert "no-new-privileges:true" in service["security_opt"], name
        if not name.startswith(("ollama", "grafana")):
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name


@pytest.mark.parametrize("files", FILES, ids="+".join)
@pytest.mark.parametrize("profile", PROFILES)
def test_memory_of_the_exporter_is_limited(files: list[str], profile: str) -> None:
    """The exporter may take 256 MiB, swap included, so that a hostile server cannot exhaust the machine's memory."""
    services = resolve(files, profile)["services"]
    (exporter,) = [service for name, service in services.items() if name.startswith("exporter")]
    assert (int(exporter["mem_limit"]), int(exporter["memswap_limit"])) == (256 * 2**20, 256 * 2**20)


def test_environment_sets_images_and_ports() -> None:
    """Every image and every published port has a variable, and .env lists all variables."""
    known = set(re.findall(r"^#?([A-Z_]+)=", (FOLDER / ".env").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", (FOLDER / "compose.yaml").read_text()))
    assert used == known - {"COMPOSE_PROFILES"}
    for profile in PROFILES:
        images = {name: f"localhost/{name.lower()}:1" for name in used if name.endswith("_IMAGE")}
        ports = {name: f"127.0.0.2:{4000 + n}" for n, name in enumerate(sorted(used)) if name.endswith("_PORT")}
        for name, service in resolve(["compose.yaml"], profile, **images, **ports)["services"].items():
            assert service["image"] in images.values(), name
            assert all(port["host_ip"] == "127.0.0.2" for port in service.get("ports", [])), name


def test_exporter_image_has_the_version_of_the_package() -> None:
    """The tag of the exporter's image is the version of the package."""
    for profile in PROFILES:
        for name, service in resolve(["compose.yaml"], profile)["services"].items():
            if name.startswith("exporter"):
                assert service["image"] == f"ollama-throughput-exporter:{__version__}"


def test_files_contain_no_secret() -> None:
    """No compose file sets a password, a token or a key."""
    for file in FOLDER.iterdir():
        assert not re.search(r"(?i)(password|token|secret|api_?key)\s*[:=]\s*\S", file.read_text()), file


@pytest.mark.parametrize("profile", PROFILES)
def test_mounted_files_exist(profile: str) -> None:
    """Every file that is mounted from the project exists; docker would create an empty folder in its place."""
    for service in resolve(["compose.yaml"], profile)["services"].values():
        for mount in service.get("volumes", []):
            assert mount["type"] != "bind" or Path(mount["source"]).exists(), mount["source"]


@pytest.mark.parametrize(
    ("name", "rules"), [("prometheus.yml", "../prometheus/rules.yml"), ("prometheus-demo.yml", "rules-demo.yml")]
)
def test_prometheus_accepts_its_configuration(name: str, rules: str, tmp_path: Path) -> None:
    """Each Prometheus configuration is valid together with the rules that are mounted with it."""
    if not releases():
        pytest.skip(
            "promtool not found. Run `make programs` on Debian, or put prometheus, promtool and amtool on PATH."
        )
    text = (FOLDER / name).read_text()
    assert "/etc/prometheus/rules.yml" in text
    (tmp_path / name).write_text(text.replace("/etc/prometheus/rules.yml", str((FOLDER / rules).resolve())))
    for release in releases():
        subprocess.run([release.promtool, "check", "config", tmp_path / name], check=True, timeout=60)


def test_demo_rules_are_what_the_generator_writes() -> None:
    """rules-demo.yml is the generator's output for the demo's interval; `make rules` writes it."""
    interval = 15  # seconds, see exporter/commands/demo.py
    generator = ROOT / "deploy/prometheus/generate_rules.py"
    generated = subprocess.run(
        [sys.executable, generator, f"--demo-interval={interval}"], capture_output=True, check=True, timeout=60
    )
    assert generated.stdout == (FOLDER / "rules-demo.yml").read_bytes()


def test_exporter_accepts_its_configuration() -> None:
    """The exporter accepts its configuration with the variables that compose sets, and reads the local GPUs."""
    environ = {"OLLAMA_URL": "http://ollama:11434", "OLLAMA_MODEL": "llama3.1"}
    (plan,) = load_file(FOLDER / "exporter.yml", environ=environ).plans()
    assert not isinstance(plan.models, str)
    assert (plan.url, [model.model for model in plan.models], plan.local) == ("http://ollama:11434", ["llama3.1"], True)
