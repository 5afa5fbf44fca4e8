"""Ollama's runners by their command lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.gpu_stage import MODEL

from exporter.gpu.processes import FIRST_NAMESPACE, Processes, blob_of


@pytest.mark.parametrize(
    ("cmdline", "blob"),
    [
        (f"/usr/lib/ollama/llama-server --model /models/blobs/sha256-{MODEL} --port 33853 -c 8192", MODEL),
        (f"/usr/bin/ollama runner --ollama-engine --model /root/.ollama/models/blobs/sha256-{MODEL} --port 1", MODEL),
        (f"/usr/bin/ollama runner --model C:/odd/sha256-{MODEL}", MODEL),
        ("/usr/bin/ollama serve", None),
        ("vllm serve --model /models/llama", None),
        ("llama-server --model", None),
        (f"cat /models/blobs/sha256-{MODEL}", None),
        ("", None),
    ],
)
def test_command_lines(cmdline: str, blob: str | None) -> None:
    """Both of Ollama's spellings, and no other program's."""
    assert blob_of(cmdline.replace(" ", "\0").encode() + b"\0") == blob


def test_a_process_table(tmp_path: Path) -> None:
    """Runners are found; a process that is gone, and one that hides its command line, are none."""
    for pid, cmdline in {"7": f"x\0--model\0/b/sha256-{MODEL}\0", "8": "bash\0", "self": "y\0"}.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_text(cmdline)
    (tmp_path / "9").mkdir()
    processes = Processes(tmp_path)
    assert processes.runners() == {7: MODEL}
    assert [processes.visible(pid) for pid in (7, 8, 9, 10)] == [True, True, False, False]
    assert [processes.blob(pid) for pid in (7, 8, 9, 10)] == [MODEL, None, None, None]
    assert Processes(tmp_path / "nowhere").runners() == {}


def test_this_process_is_seen_by_the_real_proc() -> None:
    """The real `/proc` of this machine."""
    assert Processes().visible(os.getpid())
    assert Processes().blob(os.getpid()) is None


@pytest.mark.parametrize(("link", "whole"), [(FIRST_NAMESPACE, True), ("pid:[4026532001]", False), (None, False)])
def test_whose_processes_these_are(tmp_path: Path, link: str | None, whole: bool) -> None:
    """The first pid namespace is the machine's; a container has another, and some systems tell nothing."""
    (tmp_path / "self" / "ns").mkdir(parents=True)
    if link is not None:
        (tmp_path / "self" / "ns" / "pid").symlink_to(link)
    assert Processes(tmp_path).of_the_machine() is whole
