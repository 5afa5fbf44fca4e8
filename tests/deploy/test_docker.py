"""The image's recipe, as far as it can be judged without building it (tests/containers/ builds it)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from exporter import __version__

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def final_stage() -> str:
    """Return the instructions of the stage that is shipped."""
    return DOCKERFILE.rpartition("\nFROM ")[2]


def test_hadolint_finds_nothing() -> None:
    """The recipe keeps every rule of hadolint."""
    hadolint = Path(sys.executable).with_name("hadolint")
    outcome = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_label_carries_the_version() -> None:
    """The image says the version of the package."""
    assert re.findall(r"^ARG VERSION=(.*)$", DOCKERFILE, re.MULTILINE) == [__version__]
    assert 'org.opencontainers.image.version="${VERSION}"' in DOCKERFILE


def test_runs_unprivileged_and_checks_itself() -> None:
    """The container runs as a numeric user, starts without a shell, and its health check is the program's own."""
    stage = final_stage()
    assert re.search(r"^USER (\d+):(\d+)$", stage, re.MULTILINE)
    assert 'ENTRYPOINT ["ollama-throughput-exporter"]' in stage
    assert 'CMD ["ollama-throughput-exporter", "healthcheck"]' in stage
    assert "EXPOSE 10434" in stage


def test_installs_only_what_is_locked() -> None:
    """Whatever comes from a registry comes with its hash; the project itself is built without fetching anything."""
    installs = re.findall(r"pip(?: --python \S+)? (?:install|wheel) ([^\n\\]+)", DOCKERFILE)
    assert len(installs) == 4
    for words in installs:
        assert "--require-hashes" in words or "--no-index" in words, words
    commands = re.sub("^#.*$", "", final_stage(), flags=re.MULTILINE).replace("uninstall", "")
    assert "install" not in commands


def test_context_holds_only_what_is_copied() -> None:
    """What the recipe copies is let through to the builder, and nothing else."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)
