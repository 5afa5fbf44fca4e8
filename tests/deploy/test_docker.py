"""The Dockerfile, as far as it can be checked without building the image (tests/containers/ builds it)."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from exporter import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile as name and arguments, continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    parts = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(name, arguments.strip()) for name, _, arguments in parts]


def last(name: str) -> str:
    """Return the arguments of the last instruction with this name."""
    return next(arguments for found, arguments in reversed(instructions()) if found == name)


def test_hadolint_finds_nothing() -> None:
    """The Dockerfile follows every rule of hadolint."""
    hadolint = Path(sys.executable).with_name("hadolint")
    outcome = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    """Kubernetes' runAsNonRoot accepts the image only with a numeric user ID other than 0."""
    user, _, group = last("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_entry_point_and_health_check_exist() -> None:
    """The entry point is a script of the package, and the health check one of its commands."""
    (program,) = json.loads(last("ENTRYPOINT"))
    assert program in PROJECT["scripts"]
    checker, *command = json.loads(last("HEALTHCHECK").partition("CMD")[2])
    assert checker == program
    subprocess.run([sys.executable, "-m", "exporter", *command, "--help"], check=True, capture_output=True, timeout=60)


def test_build_context_contains_what_is_copied() -> None:
    """Every file that the build copies exists, and .dockerignore does not exclude it."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [arguments.split() for name, arguments in instructions() if name == "COPY"]
    sources = {source for words in copies if not words[0].startswith("--from") for source in words[:-1]}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


def test_label_has_the_version_of_the_package() -> None:
    """The image's default version label is the version of the package."""
    assert last("ARG") == f"VERSION={__version__}"
