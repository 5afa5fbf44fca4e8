"""The HTTP server as scrapers, browsers and orchestrators use it."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import threading
from dataclasses import replace

import httpx
import pytest
from golden.write import record_all
from prometheus_client import CollectorRegistry
from support.readings import FULL, PLAN
from support.scraping import parse
from support.serving import Served

from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import Format
from exporter.plan import ModelKey

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("accept", ["*/*", OPENMETRICS])
async def test_scrape(served: Served, accept: str, compressed: bool) -> None:
    """The headers name the format and encoding of the body, and that format's parser reads it."""
    served.registry = CollectorRegistry()
    ProbeCollector(served.store, served.registry)  # with the runtime collectors, as the daemon has them
    record_all(served.store)
    async with served.client() as client:
        response = await client.get(
            "/metrics", headers={"accept": accept, "accept-encoding": "gzip" if compressed else "identity"}
        )

    openmetrics = accept == OPENMETRICS
    assert response.status_code == 200
    assert response.headers["content-type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
        if openmetrics
        else "text/plain; version=0.0.4; charset=utf-8"
    )
    assert response.headers.get("content-encoding") == ("gzip" if compressed else None)
    assert response.headers["vary"] == "Accept, Accept-Encoding"
    names = {metric.name for metric in parse(Format.OPENMETRICS if openmetrics else Format.TEXT, response.text)}
    assert {"ollama_probe_decode_tokens_per_second", "process_resident_memory_bytes"} <= names
    assert response.text.endswith("# EOF\n") is openmetrics


async def test_the_compressed_body_is_the_plain_one(served: Served, client: httpx.AsyncClient) -> None:
    """Compression changes the size only."""
    record_all(served.store)
    plain = await client.get("/metrics", headers={"accept-encoding": "identity"})
    async with client.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as response:
        raw = b"".join([chunk async for chunk in response.aiter_raw()])

    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 4


async def test_name_filter(served: Served, client: httpx.AsyncClient) -> None:
    """`name[]` may be given several times."""
    record_all(served.store)
    wanted = {"ollama_probe_up", "ollama_probe_success"}

    response = await client.get("/metrics", params={"name[]": sorted(wanted)})

    assert {metric.name for metric in parse(Format.TEXT, response.text)} == wanted


@pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy", "/-/ready"])
async def test_methods(served: Served, client: httpx.AsyncClient, path: str) -> None:
    """HEAD is answered as GET is, without a body; other methods are refused and the allowed ones named."""
    served.ready = True
    head, get = await client.head(path), await client.get(path)

    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert get.content
    assert head.headers["content-type"] == get.headers["content-type"]
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        refused = await client.request(method, path)
        assert refused.status_code == 405
        assert refused.headers["allow"] == "GET,HEAD"


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/favicon.ico", "/-/", "/-/reload", "/../etc/passwd"])
async def test_unknown_paths(client: httpx.AsyncClient, path: str) -> None:
    """Other paths are not found."""
    assert (await client.get(path)).status_code == 404


async def test_health_and_readiness(served: Served, client: httpx.AsyncClient) -> None:
    """The process is healthy while it runs, and ready when its owner says so."""
    assert (await client.get("/-/healthy")).status_code == 200
    assert (await client.get("/-/ready")).status_code == 503
    served.ready = True
    assert (await client.get("/-/ready")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/nothing", "/-/ready"])
async def test_security_headers(client: httpx.AsyncClient, path: str) -> None:
    """Every response forbids scripts, frames and content sniffing, and does not name the server's software."""
    headers = (await client.get(path)).headers

    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


async def test_many_scrapes_at_once(served: Served, client: httpx.AsyncClient) -> None:
    """Fifty scrapes at once, while readings arrive, each show one probe only."""
    key = ModelKey("gpu-a", "llama3.1")
    served.store.add_model(key, PLAN)
    names = {"name[]": ["ollama_probe_token_count", "ollama_probe_elapsed_seconds"]}

    async def measure() -> None:
        for run in range(1, 200):
            figures = replace(FULL.figures, words=run, elapsed_seconds=run)
            served.store.probe_succeeded(key, replace(FULL, figures=figures), 1.0)
            await asyncio.sleep(0)

    measuring = asyncio.create_task(measure())
    responses = await asyncio.gather(*(client.get("/metrics", params=names) for _ in range(50)))
    await measuring

    found = [[s.value for metric in parse(Format.TEXT, r.text) for s in metric.samples] for r in responses]
    assert len(found) == 50
    assert any(found)
    assert all(len(values) in {0, 2} and len(set(values)) <= 1 for values in found)


async def test_scrapes_do_not_wait_for_name_resolution(client: httpx.AsyncClient) -> None:
    """A hanging name server blocks the event loop's default threads, but no scrape."""
    hang = threading.Event()
    loop = asyncio.get_running_loop()
    hanging = [loop.run_in_executor(None, hang.wait) for _ in range(40)]
    try:
        for path in ("/metrics", "/"):
            assert (await client.get(path)).status_code == 200
    finally:
        hang.set()
        await asyncio.gather(*hanging)


def test_nothing_slow_is_imported() -> None:
    """The server answers before LangChain, Ollama's client, pydantic and Jinja are imported."""
    slow = {
        "langchain_core",
        "langchain_ollama",
        "ollama",
        "pydantic",
        "httpx",
        "apscheduler",
        "jinja2",
        "exporter.probing.prober",
    }
    program = "import sys, exporter.web.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert "aiohttp.web" in done.stdout.split()
    assert slow & set(done.stdout.split()) == set()
