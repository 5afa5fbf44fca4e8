"""The reference chain and its handler, on a real HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import pytest
from aiohttp import web
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import QUESTION, TEMPLATE, target_plan, workload

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.ollama.chain import ChunkRecorder, ReferenceChain
from exporter.ollama.transport import TargetAuth
from exporter.plan import Workload
from exporter.reading import Answer


@contextlib.asynccontextmanager
async def chain_to(url: str, **changes: Any) -> AsyncIterator[ReferenceChain]:
    """Yield a chain to the server at `url`."""
    target = target_plan(url, **changes)
    chain = ReferenceChain(target, TargetAuth(target))
    try:
        yield chain
    finally:
        await chain.close()


async def ask(chain: ReferenceChain, work: Workload | None = None, **changes: Any) -> Answer:
    """Ask with defaults."""
    arguments: dict[str, Any] = {"num_ctx": 4096, "keep_alive": None, "seconds": 5, "chunks": ChunkRecorder()}
    return await chain.ask("llama3.1", work or workload(), **(arguments | changes))


async def test_the_server_gets_the_reference_question_with_every_option_bound() -> None:
    """The request's body is the reference program's prompt, role name included, with this probe's options and model."""
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        await ask(chain, keep_alive="7m")

        body = server.requests[-1].body

    question = TEMPLATE.format(question=QUESTION)
    assert body["prompt"] == f"Human: {question}"
    assert body["model"] == "llama3.1"
    assert body["options"] == {"num_ctx": 4096, "num_predict": 32, "temperature": 0, "seed": 42}
    assert body["think"] is False
    assert body["keep_alive"] == "7m"
    assert body["stream"] is True


async def test_nothing_is_sent_that_was_not_asked_for() -> None:
    """Without a known context no num_ctx is sent, without a configured timer no keep_alive, and never num_gpu."""
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        await ask(chain, num_ctx=None)

        body = server.requests[-1].body

    assert set(body["options"]) == {"num_predict", "temperature", "seed"}
    assert "keep_alive" not in body


async def test_bare_asks_as_the_reference_program_does() -> None:
    """No option but num_ctx where the model is loaded, and no word on thinking."""
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        await ask(chain, bare=True)

        body = server.requests[-1].body

    assert body["options"] == {"num_ctx": 4096}
    assert "think" not in body


async def test_every_chunk_is_noted_in_order_and_the_final_one_apart() -> None:
    """Texts join to the engine's own answer, times rise, and the final chunk's fields come without its context."""
    model = ScriptedModel(tokens_per_second=200)
    async with OllamaServer(FaultyEngine([model])) as server, chain_to(server.url) as chain:
        answer = await ask(chain)

    assert answer.text == model.answer(32)
    assert len(answer.chunk_times) == 32
    assert list(answer.chunk_times) == sorted(answer.chunk_times)
    assert answer.started_at < answer.sent_at < answer.chunk_times[0] < answer.chunk_times[-1] <= answer.ended_at
    assert answer.final is not None
    assert answer.final["eval_count"] == 32
    assert "context" not in answer.final


async def test_the_first_chunk_is_announced_once() -> None:
    """The GPU's watch learns of the first token as it comes."""
    calls: list[int] = []
    chunks = ChunkRecorder(lambda: calls.append(len(chunks.times)))
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        await ask(chain, chunks=chunks)

    assert calls == [0]


async def test_thinking_comes_with_the_final_chunk() -> None:
    """Chunks of thinking are noted with their times; their text is whole at the end, apart from the answer."""
    model = ScriptedModel(tokens_per_second=500, thinking_ratio=0.5, always_thinks=True)
    async with OllamaServer(FaultyEngine([model])) as server, chain_to(server.url) as chain:
        answer = await ask(chain)

    assert answer.chunk_texts[:16] == ("",) * 16
    assert answer.thinking + answer.text == model.answer(32)


async def test_the_deadline_cuts_a_stream_and_keeps_what_came() -> None:
    """At the deadline the connection is closed, and the chunks so far are there with their times."""
    model = ScriptedModel(tokens_per_second=50)
    async with OllamaServer(FaultyEngine([model])) as server, chain_to(server.url) as chain:
        answer = await ask(chain, workload(num_predict=500), seconds=0.8)
        await asyncio.sleep(0.2)

        assert server.client_disconnects == 1
    assert answer.cut
    assert answer.final is None
    assert 16 <= len(answer.chunk_times) <= 40


async def test_cancelling_closes_the_connection_at_once() -> None:
    """A shutdown frees the server's slot: it sees the client leave."""
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        task = asyncio.create_task(ask(chain, workload(num_predict=500)))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.2)

        assert server.client_disconnects == 1
        assert server.open_connections == 0


@pytest.mark.parametrize("kind", [FaultKind.DONE_TWICE, FaultKind.CUT])
async def test_what_follows_the_final_chunk_counts_for_nothing(kind: FaultKind) -> None:
    """Some servers send `done` twice or cut the connection after it: the answer was complete."""
    engine = FaultyEngine()
    async with OllamaServer(engine) as server, chain_to(server.url) as chain:
        engine.inject(Fault(kind, after_tokens=0 if kind is FaultKind.DONE_TWICE else 10_000))
        answer = await ask(chain)

    assert answer.final is not None
    assert answer.final["eval_count"] == 32
    assert answer.final["done_reason"] == "length"


async def test_errors_of_the_libraries_pass_through() -> None:
    """Translating them is the probe's: the chain hides nothing."""
    engine = FaultyEngine()
    async with OllamaServer(engine) as server, chain_to(server.url) as chain:
        with pytest.raises(ollama.ResponseError):
            await chain.ask("nope", workload(), num_ctx=None, keep_alive=None, seconds=5, chunks=ChunkRecorder())
        engine.inject(Fault(FaultKind.CUT, after_tokens=3))
        with pytest.raises(httpx.HTTPError):
            await ask(chain)


async def test_no_trace_is_uploaded_whatever_the_environment_says(tmp_path: Any) -> None:
    """With every LangSmith variable set, a sink in LangSmith's place hears nothing."""
    heard: list[str] = []

    async def sink(request: web.Request) -> web.Response:
        heard.append(request.path)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", sink)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with OllamaServer(FaultyEngine()) as server:
        names = ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING")
        endpoint = f"http://{host}:{port}"
        environment = dict.fromkeys(names, "true") | {
            "LANGSMITH_API_KEY": "key",
            "LANGCHAIN_API_KEY": "key",
            "LANGSMITH_ENDPOINT": endpoint,
            "LANGCHAIN_ENDPOINT": endpoint,
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        }
        done = await run_probe(server.url, environment)
        assert done == 0
        assert any(request.path == "/api/generate" for request in server.requests)
    await runner.cleanup()

    assert heard == []


async def run_probe(url: str, environment: dict[str, str]) -> int | None:
    """Run the `probe` command in a process of its own and return its exit status."""
    command = (sys.executable, "-m", "exporter", "probe", "--json", "--url", url)
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
    return await asyncio.wait_for(process.wait(), 60)
