"""The systemd unit, read by systemd's own programs."""

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
        pytest.skip(f"{program} is not on PATH: install systemd")
    return subprocess.run([found, *words], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return a copy of the unit whose program exists on this machine, for systemd refuses one that does not."""
    text = (FOLDER / UNIT).read_text()
    assert f"ExecStart={INSTALLED} $ARGS" in text
    copy = tmp_path / UNIT
    copy.write_text(text.replace(INSTALLED, str(Path(sys.executable).with_name("ollama-throughput-exporter"))))
    return copy


def test_systemd_accepts_every_line(unit: Path) -> None:
    """`systemd-analyze verify` has nothing to say: an unknown key would only be a message."""
    outcome = run("systemd-analyze", "--man=no", "verify", unit)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_exposure_is_low(unit: Path) -> None:
    """`systemd-analyze security` gives less than 2.0, and by the systemd that the README names its very figure."""
    outcome = run("systemd-analyze", "security", "--no-pager", "--offline=true", unit)
    score = re.search(r"Overall exposure level for \S+: (\d+\.\d)", outcome.stdout)
    assert score, outcome.stdout + outcome.stderr
    assert float(score[1]) < 2.0
    told = re.search(r"says (\S+) \(systemd (\d+);", (FOLDER / "README.md").read_text())
    assert told
    assert told[1] == score[1] or f"systemd {told[2]} " not in run("systemctl", "--version").stdout


def test_what_a_gpu_host_needs_stays_open(unit: Path) -> None:
    """Nothing hides the cards, NVML's files or the command line of Ollama's runner."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # systemd's keys have capitals
    parser.read_string(unit.read_text())
    service = parser["Service"]
    assert service["DeviceAllow"] == "char-nvidia* rw"
    for hidden in ("PrivateDevices", "ProtectProc", "ProcSubset", "PrivateNetwork"):
        assert hidden not in service, hidden
        assert re.search(rf"^#.*{hidden}=", unit.read_text(), re.MULTILINE), f"{hidden}: say why it was left out"
    assert parser["Unit"]["X-Version"] == __version__


def test_user_is_declared() -> None:
    """systemd-sysusers would create the very user that the unit runs as."""
    user = re.search(r"^User=(.*)$", (FOLDER / UNIT).read_text(), re.MULTILINE)
    assert user
    outcome = run("systemd-sysusers", "--dry-run", FOLDER / "sysusers.conf")
    assert outcome.returncode == 0, outcome.stderr
    assert f"'{user[1]}'" in outcome.stderr + outcome.stdout


def test_environment_file_sets_nothing() -> None:
    """As shipped, every line is a comment, and every setting that it shows is one the unit or the exporter reads."""
    lines = (FOLDER / "environment").read_text().splitlines()
    assert all(line.startswith("#") for line in lines)
    shown = {match[1] for line in lines if (match := re.match(r"#([A-Z_]+)=", line))}
    assert shown == {"OLLAMA_HOST", "ARGS", "OLLAMA_PROBE_WEB__LISTEN_ADDRESS"}
