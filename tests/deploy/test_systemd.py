"""The systemd unit, checked with the programs of systemd."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import __version__

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
UNIT = "ollama-throughput-exporter.service"
INSTALLED = "/opt/ollama-throughput-exporter/bin/ollama-throughput-exporter"


def run(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of systemd's programs, or skip where it is missing."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not on PATH. Install systemd (Debian: apt-get install systemd).")
    return subprocess.run([found, *words], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return a copy of the unit with a program that exists on this machine, as systemd requires."""
    text = (FOLDER / UNIT).read_text()
    assert f"ExecStart={INSTALLED} $ARGS" in text
    copy = tmp_path / UNIT
    copy.write_text(text.replace(INSTALLED, str(Path(sys.executable).with_name("ollama-throughput-exporter"))))
    return copy


def test_systemd_accepts_the_unit(unit: Path) -> None:
    """`systemd-analyze verify` prints nothing; an unknown key would be a message with exit status 0."""
    outcome = run("systemd-analyze", "--man=no", "verify", unit)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_exposure_is_low(unit: Path) -> None:
    """`systemd-analyze security` gives the unit an exposure level below 2.0 (0 is fully confined, 10 is exposed)."""
    outcome = run("systemd-analyze", "security", "--no-pager", "--offline=true", unit)
    score = re.search(r"Overall exposure level for \S+: (\d+\.\d)", outcome.stdout)
    assert score, outcome.stdout + outcome.stderr
    assert float(score[1]) < 2.0


def parse(unit: Path) -> configparser.RawConfigParser:
    """Return the sections of a unit. Of a key that is set twice only the last value is kept."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # keys of systemd are case-sensitive
    parser.read_string(unit.read_text())
    return parser


def test_a_daemon_that_is_ended_is_restarted(unit: Path) -> None:
    """The process is started again after too much memory, a blocked event loop, or a SIGHUP during the start."""
    service = parse(unit)["Service"]
    assert (service["Type"], service["WatchdogSec"], service["MemoryMax"]) == ("notify", "60s", "512M")
    assert (service["Restart"], service["RestartForceExitStatus"]) == ("on-failure", "SIGHUP")
    assert (service["LimitNOFILE"], service["LimitCORE"]) == ("4096", "0")


def test_unit_does_not_hide_the_gpus(unit: Path) -> None:
    """The sandbox leaves the GPUs, NVML's files, the command line of Ollama's runner and the network accessible."""
    parser = parse(unit)
    service = parser["Service"]
    assert service["DeviceAllow"] == "char-nvidia* rw"
    for hidden in ("PrivateDevices", "ProtectProc", "ProcSubset", "PrivateNetwork"):
        assert hidden not in service, hidden
    assert parser["Unit"]["X-Version"] == __version__


def test_sysusers_creates_the_user_of_the_unit() -> None:
    """systemd-sysusers creates the user that the unit runs as."""
    user = re.search(r"^User=(.*)$", (FOLDER / UNIT).read_text(), re.MULTILINE)
    assert user
    outcome = run("systemd-sysusers", "--dry-run", FOLDER / "sysusers.conf")
    assert outcome.returncode == 0, outcome.stderr
    assert f"'{user[1]}'" in outcome.stderr + outcome.stdout


def test_environment_file_sets_nothing() -> None:
    """Every line of the shipped file is a comment, and shows only variables that the unit or the exporter reads."""
    lines = (FOLDER / "environment").read_text().splitlines()
    assert all(line.startswith("#") for line in lines)
    shown = {match[1] for line in lines if (match := re.match(r"#([A-Z_]+)=", line))}
    assert shown == {"OLLAMA_HOST", "ARGS", "OLLAMA_PROBE_WEB__LISTEN_ADDRESS"}
