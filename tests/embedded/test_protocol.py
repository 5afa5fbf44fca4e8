"""The HTTP server: what it records, how it answers and refuses, and that it leaves nothing running."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import pytest
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel

UNUSUAL_NAME = 'a "na{me}\n' + "ü" * 300
GENERATE = {"model": "llama3.1", "prompt": "Why?", "options": {"num_predict": 24}}


@pytest.fixture
async def server() -> AsyncIterator[OllamaServer]:
    """Return a server with two fast models, one of them with an unusual name."""
    models = [
        ScriptedModel(name, tokens_per_second=10_000, prefill_seconds=0, load_seconds=0)
        for name in ("llama3.1", UNUSUAL_NAME)
    ]
    async with OllamaServer(FaultyEngine(models)) as server:
        yield server


@pytest.fixture
async def client(server: OllamaServer) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of it."""
    async with httpx.AsyncClient(base_url=server.url, timeout=20, verify=False) as client:
        yield client


async def until(condition: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_requests_are_recorded(server: OllamaServer, client: httpx.AsyncClient) -> None:
    """Method, path, headers and body of each."""
    await client.get("/api/ps", headers={"Authorization": "Bearer x"})
    await client.post("/api/generate", json=GENERATE)
    await client.post("/api/generate", content=b"{not json")
    first, second, third = server.requests
    assert (first.method, first.path, first.headers["authorization"], first.body) == (
        "GET",
        "/api/ps",
        "Bearer x",
        None,
    )
    assert (second.method, second.path, second.body) == ("POST", "/api/generate", GENERATE)
    assert third.body == "{not json"


async def test_only_the_latest_requests_are_kept() -> None:
    """The oldest are dropped first."""
    async with (
        OllamaServer(FaultyEngine(), requests_kept=2) as server,
        httpx.AsyncClient(base_url=server.url, verify=False) as client,
    ):
        for path in ("/", "/api/version", "/api/tags"):
            await client.get(path)
        assert [request.path for request in server.requests] == ["/api/version", "/api/tags"]


async def test_connections_and_disconnects_are_counted(server: OllamaServer) -> None:
    """Only the client that leaves in the middle counts as a disconnect, and no connection stays open."""
    server.engine.installed = [ScriptedModel(tokens_per_second=20, prefill_seconds=0, load_seconds=0)]
    async with httpx.AsyncClient(base_url=server.url, timeout=20, verify=False) as client:
        await client.post("/api/generate", json=GENERATE | {"options": {"num_predict": 2}})
        assert (server.open_connections, server.client_disconnects) == (1, 0)
        async with client.stream("POST", "/api/generate", json=GENERATE) as answer:
            await anext(answer.aiter_lines())
        await until(lambda: server.client_disconnects)
    await until(lambda: not server.open_connections)
    assert server.client_disconnects == 1


async def test_a_disconnect_during_a_stall_frees_the_slot(server: OllamaServer, client: httpx.AsyncClient) -> None:
    """The next request is answered at once, although nothing was being sent."""
    assert isinstance(server.engine, FaultyEngine)
    server.engine.inject(Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN, times=1))
    request = asyncio.create_task(client.post("/api/generate", json=GENERATE))
    await until(lambda: server.requests)
    request.cancel()
    await until(lambda: server.client_disconnects)
    assert (await client.post("/api/generate", json=GENERATE)).status_code == 200


async def test_stop_ends_hanging_requests_and_leaves_no_task(server: OllamaServer, client: httpx.AsyncClient) -> None:
    """A stalled answer and another client end with the server, and do not count as disconnects."""
    assert isinstance(server.engine, FaultyEngine)
    server.engine.inject(Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN))
    server.engine.other_client(UNUSUAL_NAME)
    request = asyncio.create_task(client.post("/api/generate", json=GENERATE))
    await until(lambda: server.requests)
    await server.stop()
    with pytest.raises(httpx.RemoteProtocolError):
        await request
    assert server.client_disconnects == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await server.stop()


async def test_it_can_be_restarted_on_the_same_port(server: OllamaServer, client: httpx.AsyncClient) -> None:
    """It is unreachable in between."""
    port = int(server.url.rpartition(":")[2])
    await server.stop()
    with pytest.raises(httpx.ConnectError):
        await client.get("/")
    assert await server.start(port=port) == f"http://127.0.0.1:{port}"
    assert (await client.get("/")).text == "Ollama is running"


async def test_the_ollama_package_accepts_every_answer(server: OllamaServer) -> None:
    """Its client parses and validates them."""
    client = ollama.AsyncClient(server.url, verify=False, trust_env=False)
    names = [model.model for model in (await client.list()).models]
    assert names[0] == "llama3.1:latest"
    assert (await client.show("llama3.1")).capabilities == ["completion"]
    answer = await client.generate("llama3.1", "Why?", options={"num_predict": 24})
    assert answer.response == ScriptedModel().answer(24)
    (loaded,) = (await client.ps()).models
    assert (loaded.name, loaded.context_length, loaded.size) == ("llama3.1:latest", 4096, loaded.size_vram)
    stream = await client.generate("llama3.1", "Why?", options={"num_predict": 24}, stream=True)
    assert "".join([str(part.response) async for part in stream]) == answer.response
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        await client.generate("nope", "Why?")
    assert caught.value.status_code == 404
    await client._client.aclose()


async def test_any_installed_name_is_found(client: httpx.AsyncClient) -> None:
    """A name that Ollama would refuse to install is served if a test installed it, and is returned unchanged."""
    name = (await client.get("/api/tags")).json()["models"][1]["name"]
    assert name == f"{UNUSUAL_NAME}:latest"
    answer = await client.post("/api/generate", json=GENERATE | {"model": name, "stream": False})
    assert answer.json()["model"] == name


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "missing request body"),
        (b'{"model": ', 400, "unexpected EOF"),
        (b'{"model": ?}', 400, "invalid character '?' looking for beginning of value"),
        (b"[]", 400, "json: cannot unmarshal"),
        (b'{"model": 5}', 400, "json: cannot unmarshal"),
        (b'{"model": "llama3.1", "prompt": ["x"]}', 400, "json: cannot unmarshal"),
        (b'{"model": "llama3.1", "options": {"temperature": "hot"}}', 500, '"temperature" must be of type float32'),
        (b'{"model": "llama3.1", "options": {"use_mmap": 1}}', 500, '"use_mmap" must be of type boolean'),
        (b'{"model": "llama3.1", "options": {"stop": "x"}}', 500, '"stop" must be of type array'),
        (b'{"model": "llama3.1", "options": {"num_ctx": true}}', 500, '"num_ctx" must be of type integer'),
        (b'{"model": "llama3.1", "keep_alive": true}', 400, "invalid keep_alive"),
    ],
)
async def test_invalid_requests_are_refused(client: httpx.AsyncClient, body: bytes, status: int, text: str) -> None:
    """Each has Ollama's status, and an error that names the problem."""
    answer = await client.post("/api/generate", content=body)
    assert answer.status_code == status
    assert text in answer.json()["error"]


async def test_capabilities_are_checked_except_for_unloading(server: OllamaServer, client: httpx.AsyncClient) -> None:
    """An embedding model cannot generate, but can be unloaded. Capabilities are checked before options."""
    server.engine.installed = [ScriptedModel(capabilities=("embedding",))]
    unload = await client.post("/api/generate", json={"model": "llama3.1", "keep_alive": 0})
    assert unload.json()["done_reason"] == "unload"
    wrong = {"model": "llama3.1", "prompt": "x", "options": {"num_ctx": "many"}}
    assert "does not support generate" in (await client.post("/api/generate", json=wrong)).json()["error"]
    thinking = wrong | {"think": True}
    assert "does not support thinking" in (await client.post("/api/generate", json=thinking)).json()["error"]


async def test_an_error_without_streaming_has_status_500(server: OllamaServer, client: httpx.AsyncClient) -> None:
    """With streaming, the same error is the last line after status 200."""
    assert isinstance(server.engine, FaultyEngine)
    fault = server.engine.inject(Fault(FaultKind.DEAD_MODEL, after_tokens=5, text="gone"))
    streamed = await client.post("/api/generate", json=GENERATE)
    assert streamed.status_code == 200
    assert "unexpected EOF" in json.loads(streamed.text.splitlines()[-1])["error"]
    fault.end()
    server.engine.inject(Fault(FaultKind.ERROR_LINE, after_tokens=5, text="gone"))
    whole = await client.post("/api/generate", json=GENERATE | {"stream": False})
    assert (whole.status_code, whole.json()) == (500, {"error": "gone"})


async def test_thinking_without_streaming_has_its_own_field(server: OllamaServer, client: httpx.AsyncClient) -> None:
    """Thinking and answer are both complete."""
    thinker = ScriptedModel("r1", thinking_ratio=0.25, tokens_per_second=10_000, load_seconds=0)
    server.engine.installed = [thinker]
    answer = (await client.post("/api/generate", json=GENERATE | {"model": "r1", "stream": False})).json()
    assert answer["thinking"] + answer["response"] == thinker.answer(24)
    assert answer["thinking"] == thinker.answer(6)
    disabled = GENERATE | {"model": "r1", "stream": False, "think": False}
    assert (await client.post("/api/generate", json=disabled)).json()["response"] == thinker.answer(24)
