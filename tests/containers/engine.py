"""Podman and buildah, with their own storage."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter import __version__

BASE = "localhost/python:3.13-slim"
IMAGE = f"localhost/ollama-throughput-exporter:{__version__}"
SEARCHED = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The limits of this machine may be lower than podman's defaults.
CONFIG = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """Runs podman and buildah on a storage in `folder`, which is deleted after the session."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of both programs."""
        return {
            "PATH": SEARCHED,
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def command(self, program: str, *words: str | Path) -> list[str]:
        """Return the command line of podman or buildah."""
        storage = ["--storage-driver=overlay", f"--root={self.folder}/store", f"--runroot={self.folder}/run"]
        return [program, *storage, *map(str, words)]

    def run(self, program: str, *words: str | Path, seconds: float = 300) -> str:
        """Run podman or buildah and return its output.

        Raises:
            AssertionError: It failed. The message contains its output.
        """
        outcome = subprocess.run(
            self.command(program, *words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert outcome.returncode == 0, f"{program} {' '.join(map(str, words))}:\n{outcome.stdout}\n{outcome.stderr}"
        return outcome.stdout.strip()

    def podman(self, *words: str | Path, seconds: float = 300) -> str:
        """Run podman and return its output."""
        return self.run("podman", *words, seconds=seconds)

    def logs(self, container: str) -> str:
        """Return the output of a container."""
        command = self.command("podman", "logs", container)
        outcome = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return outcome.stdout + outcome.stderr

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """Return the details of an image or a container."""
        (found,) = json.loads(self.podman("inspect", f"--type={kind}", name))
        assert isinstance(found, dict)
        return found

    def commit(self, base: str, image: str, additions: dict[Path, str], *config: str, owner: str) -> None:
        """Create an image from a base image and files."""
        container = self.run("buildah", "from", "--pull-never", base)
        for source, target in additions.items():
            self.run("buildah", "add", "--quiet", f"--chown={owner}", container, source, target)
        self.run("buildah", "config", *config, container)
        self.run("buildah", "commit", "--quiet", "--format=docker", "--rm", container, image)
