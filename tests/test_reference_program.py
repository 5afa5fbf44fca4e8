"""`probe --reference` compared with the reference program itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from exporter.commands.console import open_console
from exporter.commands.probe import probe
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.settings import load_settings

PROGRAM = Path(__file__).parent / "support/reference_program.py"
GUARD_SECONDS = 60


async def run(*arguments: str, **environ: str) -> str:
    """Run a Python program, which must succeed, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, env=os.environ | environ
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), GUARD_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return output.decode()


def shape(text: str) -> list[str]:
    """Return the lines without the numbers that depend on time."""
    return [re.sub(r"^(Time Elapsed|Tokens per Second): \d+\.\d\d", r"\1: *", line) for line in text.splitlines()]


async def test_it_sends_the_same_request_and_prints_the_same_result(capsys: pytest.CaptureFixture[str]) -> None:
    """The request differs in `num_ctx` only; the words, their count and the printed lines are the same."""
    model = ScriptedModel("llama3.1", tokens_per_second=2000, length=687)
    async with OllamaServer(ScriptedEngine([model])) as server:
        printed = await run(str(PROGRAM), OLLAMA_HOST=server.url)
        [theirs] = [request.body for request in server.requests if request.path == "/api/generate"]
        server.requests.clear()
        answer = json.loads(await run("-m", "exporter", "probe", "--reference", "--json", "--url", server.url))
        [ours] = [request.body for request in server.requests if request.path == "/api/generate"]
        targets = load_settings(config_file=None, flags={"url": server.url}).plans()
        assert await probe(targets, reference=True, as_json=False, console=open_console()) == 0
    shown = capsys.readouterr().out

    assert answer["result"] == model.answer()
    assert answer["token_count"] == len(model.answer().split())
    assert answer["tokens_per_second"] == answer["token_count"] / answer["elapsed_seconds"]
    assert ours.pop("options") == {"num_ctx": 4096}
    theirs.pop("options", None)
    assert ours == theirs
    assert shape(printed)[-4:] == [
        "Statistics:",
        f"Token Count: {answer['token_count']}",
        "Time Elapsed: * seconds",
        "Tokens per Second: *",
    ]
    assert shape(shown)[: len(shape(printed))] == shape(printed)
