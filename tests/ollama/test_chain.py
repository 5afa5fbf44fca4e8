"""The reference chain and its callback handler, on a real HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.hostile_answers import GOOD_CHUNK, GOOD_FINAL, generating, json_line
from support.probing import QUESTION, TEMPLATE, model_plan, serving, target_plan, until, workload
from support.raw_server import RawServer

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.errors import ProbeError, Reason
from exporter.ollama.auth import TargetAuth
from exporter.ollama.chain import ChunkRecorder, ReferenceChain
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


async def ask(
    chain: ReferenceChain,
    *,
    num_ctx: int | None = 4096,
    chunks: ChunkRecorder | None = None,
    reference: bool = False,
    **plan: Any,
) -> Answer:
    """Ask with defaults; further arguments change the plan."""
    return await chain.ask(model_plan(**plan), num_ctx=num_ctx, chunks=chunks or ChunkRecorder(), reference=reference)


async def test_the_server_receives_the_reference_question_with_every_option() -> None:
    """The body holds the reference program's prompt, role name included, with the plan's options and model."""
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


async def test_nothing_is_sent_that_is_not_configured() -> None:
    """Without a known context no num_ctx is sent, without a configured keep-alive no keep_alive, and never num_gpu."""
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        await ask(chain, num_ctx=None)

        body = server.requests[-1].body

    assert set(body["options"]) == {"num_predict", "temperature", "seed"}
    assert "keep_alive" not in body


async def test_reference_sends_no_options() -> None:
    """Only num_ctx, so that a loaded model is not reloaded, and nothing about thinking."""
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        await ask(chain, reference=True)

        body = server.requests[-1].body

    assert body["options"] == {"num_ctx": 4096}
    assert "think" not in body


async def test_every_chunk_is_recorded_in_order_and_the_final_one_separately() -> None:
    """The texts join to the engine's answer, the times rise, and the final chunk has no `context`."""
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


async def test_the_callback_runs_once_at_the_first_chunk() -> None:
    """The GPU monitor starts its state there."""
    calls: list[int] = []
    chunks = ChunkRecorder(lambda: calls.append(len(chunks.times)))
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        await ask(chain, chunks=chunks)

    assert calls == [0]


async def test_thinking_arrives_with_the_final_chunk() -> None:
    """Chunks of thinking are recorded with their times. Their text follows at the end, separate from the answer."""
    model = ScriptedModel(tokens_per_second=500, thinking_ratio=0.5, always_thinks=True)
    async with OllamaServer(FaultyEngine([model])) as server, chain_to(server.url) as chain:
        answer = await ask(chain)

    assert answer.chunk_texts[:16] == ("",) * 16
    assert answer.thinking + answer.text == model.answer(32)


async def test_the_deadline_cuts_a_stream_and_keeps_what_arrived() -> None:
    """At the deadline the connection is closed, and the chunks so far are returned with their times."""
    model = ScriptedModel(tokens_per_second=50)
    async with OllamaServer(FaultyEngine([model])) as server, chain_to(server.url) as chain:
        answer = await ask(chain, workload=workload(num_predict=500), timeout_seconds=0.8)
        await until(lambda: server.client_disconnects == 1)

    assert answer.cut
    assert answer.final is None
    assert 0 < len(answer.chunk_times) == len(answer.chunk_texts) < 500
    assert answer.ended_at - answer.started_at >= 0.8


async def test_cancelling_closes_the_connection() -> None:
    """A shutdown frees the server's slot, because the server sees the client disconnect."""
    async with OllamaServer(FaultyEngine()) as server, chain_to(server.url) as chain:
        chunks = ChunkRecorder()
        task = asyncio.create_task(ask(chain, chunks=chunks, workload=workload(num_predict=500)))
        await until(lambda: bool(chunks.times))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        await until(lambda: server.client_disconnects == 1 and server.open_connections == 0)


@pytest.mark.parametrize(
    ("more", "framing"),
    [
        (b"", "wrong_length"),  # the connection is closed before the announced end
        (json_line({**GOOD_FINAL, "eval_count": 5}), "chunked"),
        (json_line(GOOD_CHUNK), "chunked"),
        (b"<html>\n", "chunked"),
    ],
)
async def test_what_follows_the_final_chunk_is_ignored(more: bytes, framing: str) -> None:
    """The answer is complete, whatever a server or a proxy adds to it."""
    server = RawServer(generating(json_line(GOOD_CHUNK) * 20 + json_line(GOOD_FINAL) + more, framing=framing))
    await server.start()
    async with chain_to(server.url) as chain:
        answer = await ask(chain)
    await server.stop()

    assert answer.final is not None
    assert answer.final["eval_count"] == GOOD_FINAL["eval_count"]
    assert len(answer.chunk_times) == 20
    assert not answer.cut


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(FaultKind.CUT, after_tokens=3), Reason.PROTOCOL),
        (Fault(FaultKind.JUNK_LINE, after_tokens=3), Reason.PROTOCOL),
        (Fault(FaultKind.JUNK_LINE, after_tokens=3, text="[]"), Reason.PROTOCOL),
        (Fault(FaultKind.JUNK_LINE, after_tokens=3, text='{"error": [{}]}'), Reason.PROTOCOL),
        (Fault(FaultKind.JUNK_LINE, after_tokens=3, text='{"eval_count": ' + "9" * 5000 + "}"), Reason.PROTOCOL),
        (Fault(FaultKind.JUNK_LINE, after_tokens=3, text="[" * 100_000), Reason.PROTOCOL),
        (Fault(FaultKind.ERROR_LINE, after_tokens=3), Reason.HTTP),
        (Fault(FaultKind.SERVER_BUSY), Reason.BUSY),
    ],
)
async def test_a_request_that_fails_raises_its_reason(fault: Fault, reason: Reason) -> None:
    """It does not matter which of httpx, the Ollama client and LangChain raised."""
    engine = FaultyEngine()
    async with OllamaServer(engine) as server, chain_to(server.url) as chain:
        engine.inject(fault)
        with pytest.raises(ProbeError) as caught:
            await ask(chain)

    assert caught.value.reason is reason


def test_warming_up_imports_what_the_first_request_would(tmp_path: Path) -> None:
    """Importing takes milliseconds, which would count as the first reading's elapsed time."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from exporter.ollama.chain import ChunkRecorder, warm_up\n"
        "from langchain_core.prompts import ChatPromptTemplate\n"
        "from langchain_core.runnables import RunnableLambda\n"
        "def run():\n"
        "    before = set(sys.modules)\n"
        "    chain = ChatPromptTemplate.from_template('{question}') | RunnableLambda(str)\n"
        "    chain.invoke({'question': ''}, config={'callbacks': [ChunkRecorder()]})\n"
        "    return [name for name in set(sys.modules) - before if name.startswith('langchain')]\n"
        "if 'warm' in sys.argv: warm_up()\n"
        "print(len(run()))\n"
    )

    def modules_imported(*arguments: str) -> int:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(program), *arguments]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout)

    if modules_imported() == 0:
        pytest.skip("this LangChain imports everything at once")
    assert modules_imported("warm") == 0


async def test_no_trace_is_uploaded_whatever_the_environment_says(tmp_path: Path) -> None:
    """With every LangSmith variable set, a server in LangSmith's place receives no request."""
    paths: list[str] = []

    async def langsmith(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.json_response({})

    names = ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING")
    async with serving(langsmith) as endpoint, OllamaServer(FaultyEngine()) as server:
        environment = dict.fromkeys(names, "true") | {
            "LANGSMITH_API_KEY": "key",
            "LANGCHAIN_API_KEY": "key",
            "LANGSMITH_ENDPOINT": endpoint,
            "LANGCHAIN_ENDPOINT": endpoint,
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(tmp_path),
        }
        assert await run_probe(server.url, environment) == 0
        assert any(request.path == "/api/generate" for request in server.requests)

    assert paths == []


async def run_probe(url: str, environment: dict[str, str]) -> int | None:
    """Run the `probe` command in another process and return its exit status."""
    command = (sys.executable, "-m", "exporter", "probe", "--json", "--url", url)
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
    return await asyncio.wait_for(process.wait(), 60)
