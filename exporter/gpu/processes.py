"""Finds Ollama's runners among the processes of this machine, by their command lines.

A runner is `llama-server --model .../blobs/sha256-DIGEST ...` since Ollama 0.30, and `ollama runner --model
.../blobs/sha256-DIGEST ...` before.

psutil lists 500 command lines in 13 ms. Reading `/proc` takes 9 ms, but only Linux has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PureWindowsPath

BLOB = "sha256-"
MACHINE_NAMESPACE = "pid:[4026531836]"
"""The machine's own pid namespace always has this number on Linux (`PROC_PID_INIT_INO`)."""

CommandLine = Sequence[str]


def model_digest(command_line: CommandLine) -> str | None:
    """Return the hex digest of the model in a runner's command line; None for any other program."""
    for flag, value in pairwise(command_line):
        name = PureWindowsPath(value).name  # splits at both kinds of slashes
        if flag == "--model" and name.startswith(BLOB):
            return name.removeprefix(BLOB)
    return None


def list_command_lines() -> Iterable[tuple[int, CommandLine]]:
    """Yield the pid and the command line of every process; empty if it may not be read."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        yield process.pid, process.info["cmdline"] or ()


def read_command_line(pid: int) -> CommandLine | None:
    """Return a process's command line: empty if it may not be read, None if there is no such process."""
    import psutil

    try:
        return tuple(psutil.Process(pid).cmdline())
    except (psutil.AccessDenied, psutil.ZombieProcess):
        return ()
    except psutil.NoSuchProcess:
        return None


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that are visible from here."""

    command_lines: Callable[[], Iterable[tuple[int, CommandLine]]] = list_command_lines
    command_line: Callable[[int], CommandLine | None] = read_command_line
    """None where the pid does not exist: in a container, the pids that a GPU library reports often do not."""
    namespace: Path | None = Path("/proc/self/ns/pid") if sys.platform == "linux" else None
    """The link that names this process's pid namespace; None where there are no pid namespaces."""

    def runners(self) -> Mapping[int, str]:
        """Return every visible Ollama runner: its pid and its model's digest."""
        digests = ((pid, model_digest(command_line)) for pid, command_line in self.command_lines())
        return {pid: digest for pid, digest in digests if digest is not None}

    def in_machine_namespace(self) -> bool:
        """Return whether pids here are those of the machine, as GPU drivers report them."""
        if self.namespace is None:
            return True
        try:
            return str(self.namespace.readlink()) == MACHINE_NAMESPACE
        except OSError:
            return False
