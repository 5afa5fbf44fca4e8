"""Ollama's runners by their command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.recorded_gpus import MODEL

from exporter.gpu.processes import MACHINE_NAMESPACE, CommandLine, Processes, model_digest


@pytest.mark.parametrize(
    ("command_line", "digest"),
    [
        (f"/usr/lib/ollama/llama-server --model /models/blobs/sha256-{MODEL} --port 33853 -c 8192", MODEL),
        (f"/usr/bin/ollama runner --ollama-engine --model /root/.ollama/models/blobs/sha256-{MODEL} --port 1", MODEL),
        (f"ollama.exe runner --model C:\\Users\\me\\.ollama\\models\\blobs\\sha256-{MODEL} --port 1", MODEL),
        ("/usr/bin/ollama serve", None),
        ("vllm serve --model /models/llama", None),
        ("llama-server --model", None),
        (f"cat /models/blobs/sha256-{MODEL}", None),
        ("", None),
    ],
)
def test_the_digest_in_a_command_line(command_line: str, digest: str | None) -> None:
    """Runners of old and new releases have one, on every platform; other programs have none."""
    assert model_digest(command_line.split()) == digest


def test_runners_of_a_recorded_machine() -> None:
    """Other programs, and processes whose command line may not be read, are not runners."""
    lines: dict[int, CommandLine] = {7: ("x", "--model", f"/b/sha256-{MODEL}"), 8: ("bash",), 9: ()}
    assert Processes(lines.items).runners() == {7: MODEL}


def test_a_real_process() -> None:
    """A running process has its command line, one that ended has none, and a runner is found in the list."""
    script = "import sys; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"
    command = [sys.executable, "-c", script, "--model", f"/blobs/sha256-{MODEL}"]
    processes = Processes()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        line = processes.command_line(child.pid)
        assert line is not None
        assert model_digest(line) == MODEL
        assert processes.runners()[child.pid] == MODEL
        child.communicate()
    assert processes.command_line(child.pid) is None
    assert processes.command_line(os.getpid())


def test_a_process_that_ended_but_was_not_reaped_is_visible() -> None:
    """It exists under its pid, without a command line."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Processes().command_line(child.pid) == ()


@pytest.mark.parametrize(("link", "expected"), [(MACHINE_NAMESPACE, True), ("pid:[4026532001]", False), (None, False)])
def test_the_pid_namespace(tmp_path: Path, link: str | None, expected: bool) -> None:
    """The machine's own has a known number, a container's has another; without permission it is unknown."""
    path = tmp_path / "pid"
    if link is not None:
        path.symlink_to(link)
    assert Processes(namespace=path).in_machine_namespace() is expected


def test_without_pid_namespaces_pids_are_the_machines() -> None:
    """Only Linux has them."""
    assert Processes(namespace=None).in_machine_namespace()
