"""Discovery of the models that are probed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from support.faulty_ollama import FaultyEngine
from support.probing import serving, target_plan

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.errors import ProbeError, Reason
from exporter.ollama.client import OllamaClient
from exporter.plan import Discovery, ModelKey, ModelPlan
from exporter.probing.discovery import SHOW_REQUESTS_MAX, Discovered, DiscoveryLog, discover

MODELS = [
    ScriptedModel("qwen3:8b"),
    ScriptedModel("llama3.1"),
    ScriptedModel("nomic-embed-text", capabilities=("embedding",)),
    ScriptedModel("gpt-oss:120b-cloud", remote_host="https://ollama.com"),
]


async def discovered(server: OllamaServer, models: Discovery) -> dict[ModelKey, ModelPlan]:
    """Return what is discovered on a server."""
    plan = target_plan(server.url, models=models)
    async with OllamaClient(plan) as client:
        return dict((await discover(plan, client)).models)


async def test_installed_models_that_generate_are_found() -> None:
    """Embedding models and cloud models are excluded. Names are without `:latest`, in order."""
    async with OllamaServer(FaultyEngine(MODELS)) as server:
        found = await discovered(server, "installed")

    assert list(found) == [ModelKey("t", "llama3.1"), ModelKey("t", "qwen3:8b")]
    assert [(plan.model, plan.when_unloaded) for plan in found.values()] == [("llama3.1", "load"), ("qwen3:8b", "load")]


async def test_loaded_models_are_found_and_never_loaded_again() -> None:
    """Only what is loaded now is found, and probing it never loads it."""
    engine = FaultyEngine(MODELS)
    async with OllamaServer(engine) as server:
        assert await discovered(server, "loaded") == {}
        await engine.other_client("qwen3:8b", tokens=1)
        found = await discovered(server, "loaded")

    assert [(key.model, plan.when_unloaded) for key, plan in found.items()] == [("qwen3:8b", "skip")]


async def test_capabilities_are_requested_where_the_list_lacks_them() -> None:
    """Ollama 0.24 reports them in `/api/show` only."""
    capabilities = {"llama3.1": ["completion"], "nomic-embed-text": ["embedding"], "old": None, "far": ["completion"]}

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/api/tags":
            return web.json_response({"models": [{"name": name, "digest": name} for name in capabilities]})
        name = (await request.json())["model"]
        return web.json_response({"capabilities": capabilities[name], "remote_host": "h" if name == "far" else ""})

    async with serving(answer) as url:
        plan = target_plan(url, models="installed")
        async with OllamaClient(plan) as client:
            found = await discover(plan, client)

    assert [key.model for key in found.models] == ["llama3.1", "old"]


class Listing:
    """A server that lists models without their capabilities, as Ollama 0.24 does."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.failing: set[str] = set()
        self.shown: list[str] = []
        self.at_once = self.at_once_max = 0

    async def answer(self, request: web.Request) -> web.Response:
        """Answer `/api/tags` and `/api/show`."""
        if request.path == "/api/tags":
            return web.json_response({"models": [{"name": name, "digest": name} for name in self.names]})
        name = (await request.json())["model"]
        self.shown.append(name)
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        await asyncio.sleep(0.02)
        self.at_once -= 1
        if name in self.failing:
            return web.json_response({"error": "cannot read the model"}, status=500)
        return web.json_response({"capabilities": ["completion"]})

    async def discover(self, **changes: Any) -> Discovered:
        """Return what is discovered."""
        async with serving(self.answer) as url:
            plan = target_plan(url, models="installed", **changes)
            async with OllamaClient(plan) as client:
                return await discover(plan, client)


async def test_a_model_that_cannot_be_shown_is_left_out_alone() -> None:
    """The other models are still found."""
    server = Listing("a", "b", "c")
    server.failing = {"b"}
    found = await server.discover()

    assert [key.model for key in found.models] == ["a", "c"]
    assert {key.model: error.reason for key, error in found.failed.items()} == {"b": Reason.HTTP}


async def test_more_models_than_the_limit_are_counted_and_not_requested() -> None:
    """The first by name are probed, so that the choice is stable. Few requests are sent at a time."""
    server = Listing(*(f"m{number:03}" for number in range(100, 0, -1)))
    found = await server.discover()
    assert [key.model for key in found.models] == [f"m{number:03}" for number in range(1, 65)]
    assert found.ignored == 36
    assert len(server.shown) == 64
    assert 1 < server.at_once_max <= SHOW_REQUESTS_MAX

    found = await server.discover(max_models=100)
    assert (len(found.models), found.ignored) == (100, 0)


@pytest.mark.parametrize("name", ["x" * 201, "\ud800"])
async def test_a_name_that_cannot_be_a_label_is_left_out(name: str) -> None:
    """Two such names would become the same series."""
    server = Listing("a", name)
    found = await server.discover()

    assert [key.model for key in found.models] == ["a"]
    assert not found.failed
    assert server.shown == ["a"]


def test_the_log_has_the_begin_and_the_end_of_each_problem(caplog: pytest.LogCaptureFixture) -> None:
    """Repeated checks do not repeat the line."""
    caplog.set_level("INFO")
    log = DiscoveryLog("t")
    error = ProbeError(Reason.HTTP, "odd")
    key, plan = ModelKey("t", "b"), target_plan("").defaults
    good = Discovered(models={key: plan}, failed={}, ignored=0)
    bad = Discovered(models={}, failed={key: error}, ignored=3)
    levels = []

    for found in (good, bad, bad, good, good, None, None, good, bad, good):
        caplog.clear()
        if found is None:
            log.failed(error)
        else:
            log.succeeded(found)
        levels.append("".join(record.levelname[0] for record in caplog.records))

    assert levels == ["", "WW", "", "I", "", "W", "", "I", "WW", "I"]
