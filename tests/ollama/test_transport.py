"""How a target is reached: bounded lines, no cookies, no redirects, one connection per request."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from support.probing import model_plan, probing, serving, target_plan

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine
from exporter.errors import ProbeError, Reason
from exporter.ollama.client import OllamaClient


async def test_cookies_are_not_sent_back() -> None:
    """A cookie would let a server recognise probes and answer them differently."""
    cookies: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        response = web.json_response({"version": "1"})
        response.set_cookie("session", "abc")
        return response

    async with serving(answer) as url, OllamaClient(target_plan(url)) as client:
        await client.version()
        await client.version()

    assert cookies == [None, None]


async def test_redirects_are_not_followed() -> None:
    """Credentials must not go elsewhere. A redirect is an error with its status."""
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with serving(answer) as url, probing(url) as prober:
        with pytest.raises(ProbeError) as caught:
            await prober.probe(model_plan())

    assert caught.value.reason is Reason.HTTP
    assert "302" in caught.value.detail
    assert paths == ["/api/version"]


@pytest.mark.parametrize("charset", ["hex", "utf-16", "unknown"])
async def test_an_answer_is_utf_8_whatever_charset_the_server_declares(charset: str) -> None:
    """Another charset must not make an error unreadable."""

    async def answer(_: web.Request) -> web.Response:
        content_type = f"application/json; charset={charset}"
        return web.Response(body=b'{"error":"model not found"}', status=404, headers={"Content-Type": content_type})

    async with serving(answer) as url, OllamaClient(target_plan(url)) as client:
        with pytest.raises(ProbeError) as caught:
            await client.version()

    assert caught.value.reason is Reason.MODEL_MISSING


async def test_no_connection_outlives_its_request() -> None:
    """After more cancelled requests than a pool of httpcore has connections, the next request succeeds."""
    async with OllamaServer(ScriptedEngine()) as server, OllamaClient(target_plan(server.url)) as client:
        for _ in range(120):
            task = asyncio.create_task(client.version())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert await client.version() == server.engine.version
        async with asyncio.timeout(10):
            while server.open_connections:
                await asyncio.sleep(0.01)
