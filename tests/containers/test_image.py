"""The image, built from the Dockerfile and run with the restrictions of the compose file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from containers.engine import BASE, Engine
from support.programs import free_port

from exporter import __version__

pytestmark = pytest.mark.timeout(900)
CONFINED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:size=16m,mode=1777")


@pytest.fixture(scope="module")
def container(engine: Engine, image: str) -> Iterator[tuple[str, str]]:
    """Run the exporter's demo with the restrictions of compose, and yield the container's name and address."""
    port = free_port()
    command = ("demo", "--no-real-model")
    engine.podman("run", "--detach", "--name=confined", f"--publish=127.0.0.1:{port}:10434", *CONFINED, image, *command)
    yield "confined", f"http://127.0.0.1:{port}"
    engine.podman("rm", "--force", "--time=1", "--ignore", "confined")


def wait_until_healthy(engine: Engine, container: str) -> None:
    """Wait until the health check of a container succeeds; podman runs it by itself only with systemd."""
    deadline = time.monotonic() + 60
    while True:
        try:
            engine.podman("healthcheck", "run", container)
        except AssertionError:
            assert time.monotonic() < deadline, engine.logs(container)
            time.sleep(0.5)
        else:
            return


def test_image_configuration(engine: Engine, image: str) -> None:
    """The image has its labels, user, port, entry point and health check."""
    found = engine.inspect("image", image)
    config = found["Config"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["User"] == "65532:65532"
    assert "10434/tcp" in config["ExposedPorts"]
    assert config["Entrypoint"] == ["ollama-throughput-exporter"]
    assert found["Healthcheck"]["Test"] == ["CMD", "ollama-throughput-exporter", "healthcheck"]
    added = found["Size"] - engine.inspect("image", BASE)["Size"]
    print(f"\nimage {found['Size'] / 1e6:.0f} MB, {added / 1e6:.0f} MB of it on top of the base image")  # noqa: T201 - the size is a result
    assert engine.podman("run", "--rm", image, "--version").split()[1] == __version__


def test_image_has_no_build_tools(engine: Engine, image: str) -> None:
    """The image has no pip, no compiler and none of the packages of the build."""
    script = (
        "import importlib.util as u, shutil; print([n for n in ('pip', 'hatchling', 'setuptools') if u.find_spec(n)]"
    )
    script += " + [n for n in ('pip', 'cc', 'gcc', 'make', 'git', 'curl') if shutil.which(n)])"
    assert engine.podman("run", "--rm", "--entrypoint=python", image, "-c", script) == "[]"


def test_container_runs_confined(engine: Engine, container: tuple[str, str]) -> None:
    """The container is healthy and measures with a read-only file system, without capabilities, and not as root."""
    name, url = container
    wait_until_healthy(engine, name)
    status = dict(
        line.split(":\t", 1)
        for line in engine.podman("exec", name, "cat", "/proc/1/status").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["65532"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    with pytest.raises(AssertionError, match="Read-only file system"):
        engine.podman("exec", name, "touch", "/opt/exporter/x")
    deadline = time.monotonic() + 60
    while "ollama_probe_decode_tokens_per_second{" not in (text := httpx.get(f"{url}/metrics").text):
        assert time.monotonic() < deadline, text
        time.sleep(0.5)
    assert f'ollama_probe_build_info{{version="{__version__}"' in text


def test_sigterm_ends_the_container(engine: Engine, container: tuple[str, str]) -> None:
    """SIGTERM ends the container with exit status 0 within two seconds."""
    name, _ = container
    wait_until_healthy(engine, name)
    process = Path("/proc", str(engine.inspect("container", name)["State"]["Pid"]))
    start = time.monotonic()
    os.kill(int(process.name), signal.SIGTERM)
    while process.exists() and time.monotonic() - start < 30:
        time.sleep(0.01)
    seconds = time.monotonic() - start
    assert engine.podman("wait", name) == "0"
    print(f"\nended {seconds:.2f} s after SIGTERM")  # noqa: T201 - the duration is a result
    assert seconds < 2
