"""Ollama's runners among this machine's processes, by their command lines.

`llama-server --model .../blobs/sha256-X ...` since Ollama 0.30, `ollama runner --model .../blobs/sha256-X ...` before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

BLOB = "sha256-"
FIRST_NAMESPACE = "pid:[4026531836]"
"""The machine's own pid namespace: Linux gives it this number always (`PROC_PID_INIT_INO`)."""


def blob_of(cmdline: bytes) -> str | None:
    """Return the hex digest of the model that a runner's command line names, None for any other program."""
    arguments = cmdline.decode(errors="replace").split("\0")
    for flag, value in pairwise(arguments):
        if flag == "--model" and (name := PurePosixPath(value).name).startswith(BLOB):
            return name.removeprefix(BLOB)
    return None


@dataclass(frozen=True, slots=True)
class Processes:
    """What this process may see of the others."""

    root: Path = Path("/proc")

    def visible(self, pid: int) -> bool:
        """Return whether the pid means something here: in a container, or another pid namespace, it often does not."""
        return (self.root / str(pid) / "cmdline").exists()

    def blob(self, pid: int) -> str | None:
        """Return the digest of the model that this process runs; None if it is no runner, is gone, or is hidden."""
        try:
            return blob_of((self.root / str(pid) / "cmdline").read_bytes())
        except OSError:
            return None

    def of_the_machine(self) -> bool:
        """Return whether every process of the machine can be seen, under the pid by which a driver knows it."""
        try:
            return str((self.root / "self" / "ns" / "pid").readlink()) == FIRST_NAMESPACE
        except OSError:
            return False

    def runners(self) -> Mapping[int, str]:
        """Return every Ollama runner that can be seen: its pid and its model's digest."""
        try:
            pids = [int(entry.name) for entry in self.root.iterdir() if entry.name.isdecimal()]
        except OSError:
            return {}
        return {pid: blob for pid in pids if (blob := self.blob(pid)) is not None}
