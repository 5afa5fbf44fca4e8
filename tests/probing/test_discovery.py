"""Discovery of the models that are probed."""

from __future__ import annotations

from aiohttp import web
from support.faulty_ollama import FaultyEngine
from support.probing import serving, target_plan

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.ollama.client import OllamaClient
from exporter.plan import Discovery, ModelKey, ModelPlan
from exporter.probing.discovery import discover

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
        return await discover(plan, client)


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

    assert [key.model for key in found] == ["llama3.1", "old"]
