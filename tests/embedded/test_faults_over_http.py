"""The faults of `support.faulty_ollama` as an HTTP client sees them."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel

BODY = {"model": "llama3.1", "prompt": "Why?", "options": {"num_predict": 24}}
COMPLETE = dict.fromkeys(
    (
        FaultKind.SLOW,
        FaultKind.CPU,
        FaultKind.CPU_HIDDEN,
        FaultKind.PARTIAL_OFFLOAD,
        FaultKind.COLD,
        FaultKind.BUSY,
        FaultKind.THINKING,
        FaultKind.CLOUD,
        FaultKind.ZERO_DURATIONS,
        FaultKind.NO_DURATIONS,
        FaultKind.NEGATIVE_DURATIONS,
        FaultKind.ABSURD_DURATIONS,
        FaultKind.UNKNOWN_DONE_REASON,
        FaultKind.DEAD_MODEL,
    ),
    25,
)
LINES = COMPLETE | {
    FaultKind.DONE_TWICE: 26,
    FaultKind.JUNK_LINE: 26,
    FaultKind.LONG_LINE: 26,
    FaultKind.ERROR_LINE: 9,
    FaultKind.NO_DONE: 8,
}
"""The faults whose stream ends cleanly, and how many lines an answer of 24 tokens then has."""
REFUSED = {
    FaultKind.OUT_OF_MEMORY: (500, "out of memory"),
    FaultKind.UNAUTHORIZED: (401, ""),
    FaultKind.FORBIDDEN: (403, ""),
    FaultKind.SERVER_BUSY: (503, "server busy, please try again.  maximum pending requests exceeded"),
    FaultKind.EMBEDDING_ONLY: (400, '\\"llama3.1\\" does not support generate'),
}
BROKEN = {FaultKind.CUT: httpx.ReadError, FaultKind.HALF_CLOSED: httpx.RemoteProtocolError}
HANGING = {FaultKind.STALL_BEFORE_FIRST_TOKEN, FaultKind.STALL_IN_THE_MIDDLE, FaultKind.LOAD_FOREVER, FaultKind.TRICKLE}
IN_THE_MIDDLE = {*BROKEN, FaultKind.ERROR_LINE, FaultKind.NO_DONE, FaultKind.STALL_IN_THE_MIDDLE}


def make_fault(kind: FaultKind) -> Fault:
    """Return a fault of this kind that a test can wait for."""
    factor = {FaultKind.LONG_LINE: 2e6, FaultKind.ENDLESS_HEADERS: 0}.get(kind)
    seconds = 0.1 if kind is FaultKind.BUSY else None
    return Fault(kind, after_tokens=8 if kind in IN_THE_MIDDLE else 0, factor=factor, seconds=seconds)


@pytest.fixture
async def connected() -> AsyncIterator[tuple[FaultyEngine, httpx.AsyncClient]]:
    """Return an engine with a fast model, and a client of its server."""
    engine = FaultyEngine([ScriptedModel(tokens_per_second=10_000, prefill_seconds=0, load_seconds=0)])
    async with (
        OllamaServer(engine) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20, verify=False) as client,
    ):
        yield engine, client


async def post(client: httpx.AsyncClient) -> tuple[int, list[str]]:
    """Generate 24 tokens; return the status and the lines."""
    answer = await client.post("/api/generate", json=BODY)
    return answer.status_code, answer.text.splitlines()


def test_every_kind_is_tested() -> None:
    """The tests below cover each kind of fault."""
    assert {*LINES, *REFUSED, *BROKEN, *HANGING, FaultKind.ENDLESS_HEADERS} == set(FaultKind)


@pytest.mark.parametrize("kind", LINES)
async def test_faults_with_a_clean_end(connected: tuple[FaultyEngine, httpx.AsyncClient], kind: FaultKind) -> None:
    """HTTP 200 and a clean end of the stream; the next answer is normal."""
    engine, client = connected
    fault = engine.inject(make_fault(kind))
    status, lines = await post(client)
    assert (status, len(lines)) == (200, LINES[kind])
    if kind is FaultKind.UNKNOWN_DONE_REASON:
        assert json.loads(lines[-1])["done_reason"] == "unlisted"
    if kind is FaultKind.CLOUD:
        assert json.loads(lines[0])["remote_host"]
    if kind is FaultKind.LONG_LINE:
        assert len(lines[0]) > 2_000_000
    if kind is FaultKind.JUNK_LINE:
        assert lines[0].startswith("<html>")
    if kind is FaultKind.ERROR_LINE:
        assert "error" in json.loads(lines[-1])
    fault.end()
    assert len((await post(client))[1]) == 25


@pytest.mark.parametrize("kind", REFUSED)
async def test_faults_that_refuse_the_request(
    connected: tuple[FaultyEngine, httpx.AsyncClient], kind: FaultKind
) -> None:
    """Status and text are Ollama's."""
    engine, client = connected
    fault = engine.inject(make_fault(kind))
    status, lines = await post(client)
    assert status == REFUSED[kind][0]
    assert REFUSED[kind][1] in "".join(lines)
    fault.end()
    assert (await post(client))[0] == 200


@pytest.mark.parametrize("after_tokens", [0, 8])
@pytest.mark.parametrize("kind", BROKEN)
async def test_faults_that_break_the_connection(
    connected: tuple[FaultyEngine, httpx.AsyncClient], kind: FaultKind, after_tokens: int
) -> None:
    """After status 200, a reset and a half-closed connection are two different errors to a client."""
    engine, client = connected
    fault = engine.inject(Fault(kind, after_tokens=after_tokens))
    async with client.stream("POST", "/api/generate", json=BODY) as answer:
        assert answer.status_code == 200
        with pytest.raises(BROKEN[kind]):
            await answer.aread()
    fault.end()
    assert (await post(client))[0] == 200


@pytest.mark.parametrize("kind", sorted(HANGING))
async def test_faults_that_hang_until_they_end(
    connected: tuple[FaultyEngine, httpx.AsyncClient], kind: FaultKind
) -> None:
    """The answer does not end while the fault lasts, and is complete after it."""
    engine, client = connected
    fault = engine.inject(make_fault(kind))
    request = asyncio.create_task(post(client))
    done, _ = await asyncio.wait([request], timeout=0.1)
    assert not done
    fault.end()
    if kind is FaultKind.TRICKLE:  # the line that was begun is still sent byte by byte
        request.cancel()
        request = asyncio.create_task(post(client))
    status, lines = await request
    assert (status, len(lines)) == (200, 25)


async def test_endless_headers(connected: tuple[FaultyEngine, httpx.AsyncClient]) -> None:
    """The client gives up at its own limit, and the server stops sending."""
    engine, client = connected
    fault = engine.inject(make_fault(FaultKind.ENDLESS_HEADERS))
    with pytest.raises(httpx.RemoteProtocolError):
        await post(client)
    fault.end()
    assert (await post(client))[0] == 200


async def test_a_stall_of_one_path(connected: tuple[FaultyEngine, httpx.AsyncClient]) -> None:
    """With a path, only that path hangs: `/api/ps` does not answer, `/api/generate` does."""
    engine, client = connected
    fault = engine.inject(Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN, path="/api/ps"))
    request = asyncio.create_task(client.get("/api/ps"))
    assert (await post(client))[0] == 200
    assert not request.done()
    fault.end()
    assert (await request).status_code == 200


async def test_an_error_line_can_be_the_first(connected: tuple[FaultyEngine, httpx.AsyncClient]) -> None:
    """The status is 200 although no token was sent."""
    engine, client = connected
    engine.inject(Fault(FaultKind.ERROR_LINE, text="gone"))
    status, lines = await post(client)
    assert (status, [json.loads(line) for line in lines]) == (200, [{"error": "gone"}])
