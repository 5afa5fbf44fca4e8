"""The client of an Ollama server: finding models, and answers that Ollama does not give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import serving, target_plan

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.errors import ProbeError, Reason
from exporter.ollama.client import OllamaClient


class Answers:
    """A server that answers each path with a given body."""

    def __init__(self) -> None:
        self.bodies: dict[str, Any] = {}
        self.requested: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Send bytes as they are and everything else as JSON."""
        self.requested.append(request.path)
        body = self.bodies.get(request.path, {})
        return web.Response(body=body) if isinstance(body, bytes) else web.json_response(body)


@pytest.fixture
async def answers() -> AsyncIterator[Answers]:
    """Start such a server."""
    answers = Answers()
    async with serving(answers.answer) as url:
        answers.url = url
        yield answers


@pytest.fixture
async def client(answers: Answers) -> AsyncIterator[OllamaClient]:
    """Return a client of it."""
    async with OllamaClient(target_plan(answers.url)) as client:
        yield client


async def test_a_model_is_found_under_any_of_its_names(answers: Answers, client: OllamaClient) -> None:
    """Names compare as Ollama compares them: without case, default tag and default registry."""
    models = [{"name": "qwen3:8b"}, {"name": "llama3.1:latest", "digest": "d"}]
    answers.bodies = {"/api/ps": {"models": models}, "/api/tags": {"models": models}}

    for name in ("llama3.1", "Llama3.1:latest", "registry.ollama.ai/library/llama3.1"):
        loaded, others = await client.find_loaded(name)
        installed = await client.find_installed(name)

        assert loaded is not None
        assert loaded.name == "llama3.1:latest"
        assert [other.name for other in others] == ["qwen3:8b"]
        assert installed is not None
        assert installed.digest == "d"


async def test_a_model_that_is_not_there_is_none(answers: Answers, client: OllamaClient) -> None:
    """The loaded models are then all others."""
    answers.bodies = {"/api/ps": {"models": [{"name": "qwen3:8b"}]}}

    loaded, others = await client.find_loaded("qwen3")

    assert loaded is None
    assert [other.name for other in others] == ["qwen3:8b"]
    assert await client.find_installed("qwen3") is None


async def test_a_model_file_is_requested_once_per_digest(answers: Answers, client: OllamaClient) -> None:
    """`/api/show` is large: it is not requested again for a model that did not change."""
    for digest in ("a", "a", "b"):
        await client.model_file("m", digest)

    assert answers.requested == ["/api/show"] * 2


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"models": 3}', b"\xff\xfe", b"[" * 100_000])
async def test_an_answer_that_ollama_does_not_give_is_a_protocol_error(
    body: bytes, answers: Answers, client: OllamaClient
) -> None:
    """It is neither a crash nor an empty list."""
    answers.bodies["/api/ps"] = body

    with pytest.raises(ProbeError) as caught:
        await client.loaded()

    assert caught.value.reason is Reason.PROTOCOL


async def test_no_models_is_an_empty_list(answers: Answers, client: OllamaClient) -> None:
    """A `null`, as Go encodes an empty list, means that there are no models."""
    answers.bodies["/api/ps"] = {"models": None}

    assert await client.loaded() == ()


async def test_each_version_is_reported_and_none_if_there_was_no_answer(answers: Answers) -> None:
    """`up` follows from it."""
    versions: list[str | None] = []
    answers.bodies["/api/version"] = {"version": "0.33.0"}
    async with OllamaClient(target_plan(answers.url), versions.append) as client:
        await client.version()
        answers.bodies["/api/version"] = b"no"
        with pytest.raises(ProbeError):
            await client.version()

    assert versions == ["0.33.0", None]


async def test_a_server_that_does_not_answer_is_a_timeout_with_its_own_remedy() -> None:
    """The setting `timeout` does not apply to this request, so the remedy does not name it."""
    engine = FaultyEngine()
    async with OllamaServer(engine) as server, OllamaClient(target_plan(server.url)) as client:
        engine.inject(Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN, path="/api/version"))
        with pytest.raises(ProbeError) as caught:
            await client.version()

    assert caught.value.reason is Reason.TIMEOUT
    assert "timeout" not in caught.value.remedy


async def test_loading_and_unloading() -> None:
    """A load returns the server's time and leaves the model loaded; an unload ends that. No keep-alive is sent."""
    engine = FaultyEngine([ScriptedModel(load_seconds=0.01)])
    async with OllamaServer(engine) as server, OllamaClient(target_plan(server.url)) as client:
        created_at = await client.load("llama3.1", None, 5)
        loaded, _ = await client.find_loaded("llama3.1")
        assert "keep_alive" not in server.requests[0].body
        await client.unload("llama3.1")
        unloaded, _ = await client.find_loaded("llama3.1")

    assert created_at is not None
    assert loaded is not None
    assert unloaded is None


async def test_a_load_that_does_not_end_is_a_load_timeout() -> None:
    """Its remedy differs from that of other timeouts."""
    engine = FaultyEngine()
    async with OllamaServer(engine) as server, OllamaClient(target_plan(server.url)) as client:
        engine.inject(Fault(FaultKind.LOAD_FOREVER))
        with pytest.raises(ProbeError) as caught:
            await client.load("llama3.1", None, 0.1)

    assert caught.value.reason is Reason.LOAD_TIMEOUT


async def test_a_cancelled_request_is_cancelled_and_not_mapped() -> None:
    """A shutdown must not look like a failure of the server."""
    engine = FaultyEngine()
    async with OllamaServer(engine) as server, OllamaClient(target_plan(server.url)) as client:
        engine.inject(Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN, path="/api/version"))
        task = asyncio.create_task(client.version())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
