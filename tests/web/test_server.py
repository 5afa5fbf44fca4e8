"""The HTTP server as scrapers, browsers and orchestrators meet it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from html.parser import HTMLParser

import httpx
import pytest
from golden.write import tell_all
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.readings import FULL, PLAN, TRUNCATED

from exporter import __version__
from exporter.errors import REMEDIES, Reason, SettingsError
from exporter.metrics.exposition import Format
from exporter.metrics.families import ProbeMetrics
from exporter.plan import ModelKey
from exporter.reading import SkipReason
from exporter.web.server import WebServer, gzip_accepted, negotiate

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


class World:
    """A server on a free port, its metrics, and the clocks of both."""

    def __init__(self) -> None:
        self.ready = False
        self.monotonic = 0.0
        self.wall = FULL.finished_at
        self.metrics = ProbeMetrics(CollectorRegistry(), clock=lambda: self.wall, monotonic=lambda: self.monotonic)

    def server(self, *addresses: tuple[str, int], telemetry_path: str = "/metrics") -> WebServer:
        """Return a server that was not started."""
        return WebServer(
            self.metrics,
            addresses=addresses or (("127.0.0.1", 0),),
            telemetry_path=telemetry_path,
            ready=lambda: self.ready,
            clock=lambda: self.wall,
        )


@pytest.fixture
def world() -> World:
    """Return metrics that nothing was told yet."""
    return World()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a running server."""
    server = world.server()
    [url] = await server.start()
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client
    await server.stop()


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        (BROWSER, Format.TEXT),
        (PROMETHEUS_2, Format.OPENMETRICS),
        (PROMETHEUS_3, Format.OPENMETRICS),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ('Application/OpenMetrics-Text; Version="1.0.0"', Format.OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", Format.TEXT),
        ("application/openmetrics-text;version=9.9.9", Format.TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;version=0.0.4;q=0.3", Format.TEXT),
        ("text/plain;version=0.0.4;q=0.3,application/openmetrics-text;version=1.0.0;q=0.4", Format.OPENMETRICS),
        ("application/openmetrics-text;q=0", Format.TEXT),
        ("application/openmetrics-text;q=lots", Format.TEXT),
        ("application/openmetrics-text;q=nan", Format.TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily", Format.TEXT),
        (";;=,,q=1;", Format.TEXT),
    ],
)
def test_negotiation(accept: str, format_: Format) -> None:
    """The best liked of what is really served wins; text is what remains."""
    assert negotiate(accept) is format_


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("identity", False),
        ("x-gzippy", False),
    ],
)
def test_gzip_acceptance(accept_encoding: str, accepted: bool) -> None:
    """Gzip is used where it is named, or anything is, and not refused."""
    assert gzip_accepted(accept_encoding) is accepted


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("accept", ["*/*", PROMETHEUS_2])
async def test_scrape(world: World, client: httpx.AsyncClient, accept: str, compressed: bool) -> None:
    """A scrape says honestly what it sends, and the parser of that format reads it."""
    tell_all(world.metrics)

    response = await client.get(
        "/metrics", headers={"accept": accept, "accept-encoding": "gzip" if compressed else "identity"}
    )

    openmetrics = accept == PROMETHEUS_2
    assert response.status_code == 200
    assert response.headers["content-type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
        if openmetrics
        else "text/plain; version=0.0.4; charset=utf-8"
    )
    assert response.headers.get("content-encoding") == ("gzip" if compressed else None)
    assert response.headers["vary"] == "Accept, Accept-Encoding"
    parse = parse_openmetrics if openmetrics else parse_text
    names = {metric.name for metric in parse(response.text)}
    assert {"ollama_probe_decode_tokens_per_second", "process_resident_memory_bytes", "python_info"} & names
    assert response.text.endswith("# EOF\n") is openmetrics


async def test_compressed_body_is_the_plain_one(world: World, client: httpx.AsyncClient) -> None:
    """What is compressed is the same text, and much shorter on the wire."""
    tell_all(world.metrics)
    only = {"name[]": "ollama_probe_failures_total"}
    plain = await client.get("/metrics", params=only, headers={"accept-encoding": "identity"})
    async with client.stream("GET", "/metrics", params=only, headers={"accept-encoding": "gzip"}) as response:
        raw = b"".join([chunk async for chunk in response.aiter_raw()])

    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 4


async def test_name_filter(world: World, client: httpx.AsyncClient) -> None:
    """`name[]` may be given several times."""
    tell_all(world.metrics)

    response = await client.get("/metrics", params={"name[]": ["ollama_probe_up", "python_info"]})

    assert {metric.name for metric in parse_text(response.text)} == {"ollama_probe_up", "python_info"}


@pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy", "/-/ready"])
async def test_methods(world: World, client: httpx.AsyncClient, path: str) -> None:
    """HEAD answers as GET does, without a body; anything else is refused and told what is allowed."""
    world.ready = True
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
async def test_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    """Other paths are not found."""
    assert (await client.get(path)).status_code == 404


async def test_health_and_readiness(world: World, client: httpx.AsyncClient) -> None:
    """Healthy while the process lives; ready once it says so."""
    assert (await client.get("/-/healthy")).status_code == 200
    assert (await client.get("/-/ready")).status_code == 503
    world.ready = True
    assert (await client.get("/-/ready")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/nothing", "/-/ready"])
async def test_security_headers(client: httpx.AsyncClient, path: str) -> None:
    """Every answer forbids scripts, frames and guesses of its type, and names no software."""
    headers = (await client.get(path)).headers

    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


class Cells(HTMLParser):
    """The text of a page's table rows, and every tag that it opens."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag; begin a row."""
        assert all(not name.startswith("on") for name, _ in attrs)
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        """Add to the row."""
        if self.rows:
            self.rows[-1] += f" {data.strip()}"


async def test_landing_page_allows_its_own_style(client: httpx.AsyncClient) -> None:
    """The page's one style is the one that its policy allows; there is no script; it renews itself."""
    response = await client.get("/")

    [style] = re.findall("<style>(.*?)</style>", response.text, re.DOTALL)
    assert (
        f"'sha256-{b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
        in response.headers["content-security-policy"]
    )
    assert "script" not in Cells(response.text).tags
    assert 'http-equiv="refresh" content="30"' in response.text
    assert 'href="metrics"' in response.text
    assert __version__ in response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "No model is known yet" in response.text


async def test_landing_page_states(world: World, client: httpx.AsyncClient) -> None:
    """Each pair's row says what is known, how old it is, and what is wrong with which remedy."""
    pairs = {name: ModelKey("gpu-a", name) for name in ("withdrawn", "good", "slow", "failing", "skipped", "fresh")}
    for pair in pairs.values():
        world.metrics.add_pair(pair, PLAN)
    world.metrics.succeeded(pairs["withdrawn"], FULL, 3.0)
    world.monotonic += 7200
    world.wall += 7200
    world.metrics.succeeded(pairs["good"], FULL, 3.0)
    world.metrics.skipped(pairs["good"], SkipReason.OCCUPIED)
    world.metrics.succeeded(pairs["slow"], TRUNCATED, 3.0)
    world.metrics.succeeded(pairs["failing"], replace(FULL, finished_at=world.wall), 3.0)
    world.metrics.failed(pairs["failing"], Reason.OUT_OF_MEMORY, 3.0)
    world.metrics.skipped(pairs["skipped"], SkipReason.UNLOADED)
    world.monotonic += 180
    world.wall += 180

    text = (await client.get("/")).text
    rows = dict(zip(["head", *pairs], Cells(text).rows, strict=True))

    for part in ("102.4 of 100.0", "68.0", "0.125", FULL.gpu, "measured 3 min ago", "beside other work (gpu)"):
        assert part in rows["good"].replace("  ", " ")
    assert "last run skipped: another model is loaded" in rows["good"]
    for part in ("2.0", "cpu", "cut off", "0% of the model on the GPU"):
        assert part in rows["slow"]
    for part in ("failing: out_of_memory", "3 min ago", "last good 3 min ago", "free GPU memory ( ollama ps )"):
        assert part in rows["failing"]
    assert "102.4" not in rows["failing"] + rows["withdrawn"]
    assert "withdrawn" in rows["withdrawn"]
    assert "last good 2 h ago" in rows["withdrawn"]
    assert "not measured yet" in rows["fresh"]
    assert "last run skipped: the model is not loaded" in rows["skipped"]
    assert "6 models, 2 with a live reading, 1 failing" in text


@pytest.mark.parametrize("reason", Reason)
async def test_every_remedy_is_shown(world: World, client: httpx.AsyncClient, reason: Reason) -> None:
    """The page says for every reason what to do."""
    world.metrics.add_pair(ModelKey("gpu-a", "llama3.1"), PLAN)
    world.metrics.failed(ModelKey("gpu-a", "llama3.1"), reason, 1.0)

    [_, row] = Cells((await client.get("/")).text).rows

    assert "".join(REMEDIES[reason].replace("`", "").split()) in "".join(row.split())


async def test_landing_page_escapes_everything(world: World, client: httpx.AsyncClient) -> None:
    """Names that are markup are shown, not obeyed."""
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    world.metrics.add_pair(ModelKey(evil, evil + "\ud800$version"), PLAN)
    world.metrics.succeeded(ModelKey(evil, evil + "\ud800$version"), replace(FULL, gpu=evil, text=evil), 1.0)

    cells = Cells((await client.get("/")).text)

    assert not {"script", "img"} & set(cells.tags)
    assert cells.rows[-1].count("<script>alert(1)</script>") == 3


async def test_readings_do_not_disturb_the_text_of_answers(world: World, client: httpx.AsyncClient) -> None:
    """The answer of a model is never told, neither to Prometheus nor to a reader of the page."""
    world.metrics.add_pair(ModelKey("gpu-a", "llama3.1"), PLAN)
    world.metrics.succeeded(ModelKey("gpu-a", "llama3.1"), replace(FULL, text="the secret of life"), 1.0)

    for path in ("/", "/metrics"):
        assert "secret" not in (await client.get(path)).text


async def test_several_addresses(world: World) -> None:
    """IPv4, IPv6 and every interface at once; each URL answers; after stop none does."""
    server = world.server(("127.0.0.1", 0), ("::1", 0), ("", 0), ("localhost", 0))
    urls = await server.start()

    assert [url.rpartition(":")[0] for url in urls][:3] == ["http://127.0.0.1", "http://[::1]", "http://[::]"]
    both = urls[2].rpartition(":")[2]
    async with httpx.AsyncClient(trust_env=False) as client:
        for url in (urls[0], urls[1], f"http://127.0.0.1:{both}", f"http://[::1]:{both}", urls[3]):
            assert (await client.get(f"{url}/-/healthy")).status_code == 200
        await server.stop()
        for url in urls[:2]:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{url}/-/healthy")


async def test_address_in_use(world: World) -> None:
    """An address that is taken is named with the remedy, and nothing is left listening."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, free_port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        server = world.server(("127.0.0.1", free_port), ("127.0.0.1", port))
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port}: .*--web\.listen-address"):
            await server.start()
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{free_port}/-/healthy")


async def test_unknown_host(world: World) -> None:
    """A host that is not this machine's is refused in words."""
    with pytest.raises(SettingsError, match=r"cannot listen on nowhere\.invalid:1"):
        await world.server(("nowhere.invalid", 1)).start()


async def test_metrics_at_the_root(world: World) -> None:
    """A telemetry path of `/` takes the place of the landing page."""
    server = world.server(telemetry_path="/")
    [url] = await server.start()
    async with httpx.AsyncClient(trust_env=False) as client:
        assert "ollama_probe_build_info" in (await client.get(url)).text
        assert (await client.get(f"{url}/metrics")).status_code == 404
    await server.stop()


async def test_stop_does_not_wait_for_a_slow_client(world: World) -> None:
    """A client that does not read what it asked for, and one that never asks, are cut off."""
    for model in range(2000):
        world.metrics.add_pair(ModelKey("gpu-a", f"model {model}"), PLAN)
    server = world.server()
    [url] = await server.start()
    port = int(url.rpartition(":")[2])
    silent_reader, silent_writer = await asyncio.open_connection("127.0.0.1", port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.read(1) == b"H"

    async with asyncio.timeout(10):
        await server.stop()
        assert await silent_reader.read() == b""
    for each in (silent_writer, writer):
        each.close()


async def test_many_scrapes_at_once(world: World, client: httpx.AsyncClient) -> None:
    """Fifty scrapes at once, while readings arrive, are each whole and of one run."""
    pair = ModelKey("gpu-a", "llama3.1")
    world.metrics.add_pair(pair, PLAN)
    names = {"name[]": ["ollama_probe_token_count", "ollama_probe_elapsed_seconds"]}

    async def measure() -> None:
        for run in range(1, 200):
            world.metrics.succeeded(pair, replace(FULL, words=run, elapsed_seconds=run), 1.0)
            await asyncio.sleep(0)

    measuring = asyncio.create_task(measure())
    responses = await asyncio.gather(*(client.get("/metrics", params=names) for _ in range(50)))
    await measuring

    told = [[sample.value for metric in parse_text(r.text) for sample in metric.samples] for r in responses]
    assert len(told) == 50
    assert all(len(values) in {0, 2} and len(set(values)) <= 1 for values in told)


async def test_name_servers_that_hang_hold_up_no_scrape(client: httpx.AsyncClient) -> None:
    """A scrape does not queue behind the look-ups of names, which take all the threads of the event loop."""
    hang = threading.Event()
    loop = asyncio.get_running_loop()
    hanging = [loop.run_in_executor(None, hang.wait) for _ in range(40)]
    try:
        for path in ("/metrics", "/"):
            assert (await client.get(path)).status_code == 200
    finally:
        hang.set()
        await asyncio.gather(*hanging)


async def test_stop_leaves_no_thread(world: World) -> None:
    """The threads that scrapes are made in end with the server."""
    server = world.server()
    [url] = await server.start()
    async with httpx.AsyncClient(trust_env=False) as client:
        await asyncio.gather(*(client.get(f"{url}/metrics") for _ in range(4)))
    scrapers = [thread for thread in threading.enumerate() if thread.name.startswith("scrape")]
    assert scrapers

    await server.stop()

    for thread in scrapers:
        await asyncio.to_thread(thread.join)


async def test_bytes_that_are_no_http(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What a port scanner sends is refused, without an error in the log."""
    server = world.server()
    [url] = await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")

    assert (await reader.read()).startswith(b"HTTP/1.0 400")
    writer.close()
    await server.stop()
    assert caplog.records == []


def test_nothing_heavy_is_imported() -> None:
    """The server answers before LangChain, Ollama's client and pydantic have been imported: it needs none of them."""
    heavy = {
        "langchain_core",
        "langchain_ollama",
        "ollama",
        "pydantic",
        "httpx",
        "apscheduler",
        "exporter.probing.prober",
    }
    program = "import sys, exporter.web.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert "aiohttp.web" in done.stdout.split()
    assert heavy & set(done.stdout.split()) == set()
