"""Servers that attack their client: each answers like Ollama, except on the path of its attack."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import multiprocessing
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TOKEN = "kept-from-every-page-4711"
"""The bearer token that is sent to every hostile server."""
NEWLINES = b"\n" * 65_536
WORD = {"model": "llama3.1", "created_at": "2026-01-01T00:00:00Z", "done": False}
FINAL = WORD | {
    "response": "",
    "done": True,
    "done_reason": "length",
    "total_duration": 13 * 10**7,
    "load_duration": 10**7,
    "prompt_eval_count": 46,
    "prompt_eval_duration": 10**7,
    "eval_count": 32,
    "eval_duration": 10**8,
}

Answer = Callable[["Request"], AsyncIterator[bytes]]
"""Yields the bytes of an answer, head included."""


@dataclass(frozen=True)
class Request:
    """What the client sent."""

    path: str
    head: str
    body: Any

    @property
    def token(self) -> str:
        """The bearer token."""
        return self.head.partition("Bearer ")[2].partition("\r\n")[0]


@dataclass(frozen=True)
class Attack:
    """One row of the table: what a server answers, and what the client must make of it."""

    name: str
    answers: Mapping[str, Answer] = field(default_factory=dict)
    reasons: frozenset[str] = frozenset()
    """The correct failure reasons; empty if the probes succeed or are not run."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its target."""
    exposed: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the target with their values."""


def head(status: str = "200 OK", *headers: str) -> bytes:
    """Return the head of an answer whose end is the end of the connection."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "\r\n"]).encode()


async def send(_: Request, body: Callable[[], bytes], status: str = "200 OK", *headers: str) -> AsyncIterator[bytes]:
    """Yield a complete answer."""
    yield head(status, *headers) + body()


async def repeat(_: Request, part: bytes, status: str = "200 OK") -> AsyncIterator[bytes]:
    """Yield an answer that never ends."""
    yield head(status)
    while True:
        yield part


async def hang(_: Request) -> AsyncIterator[bytes]:
    """Never answer."""
    await asyncio.Event().wait()
    yield b""


async def generate(request: Request) -> AsyncIterator[bytes]:
    """Yield the answer to a probe or to a load request, at once."""
    lines: list[dict[str, Any]] = [WORD | {"response": "", "done": True, "done_reason": "load"}]
    if request.body.get("prompt"):
        lines = [WORD | {"response": " word"}] * 32 + [FINAL]
    yield head() + b"".join(json_line(line) for line in lines)


async def echo_tags(request: Request) -> AsyncIterator[bytes]:
    """Yield a list of models whose texts are the token that the client sent."""
    details = {"family": request.token, "parameter_size": request.token, "quantization_level": request.token}
    models = [model(name, digest=request.token, details=details) for name in ("llama3.1:latest", request.token)]
    yield head() + json_line({"models": models})


async def echo_version(request: Request) -> AsyncIterator[bytes]:
    """Yield a version that is the token that the client sent."""
    yield head() + json_line({"version": f"0.33.0-{request.token}"})


def json_line(value: Any) -> bytes:
    """Return a value as a line of JSON."""
    return json.dumps(value).encode() + b"\n"


def model(name: str, **changes: Any) -> dict[str, Any]:
    """Return an entry of `/api/tags`."""
    details = {"family": "llama", "parameter_size": "8B", "quantization_level": "Q4_K_M"}
    entry = {"name": name, "digest": "46e0c10c039e", "size": 5 * 10**9, "details": details}
    return entry | {"capabilities": ["completion"]} | changes


def models(*names: str) -> bytes:
    """Return the body of `/api/tags`."""
    return json_line({"models": [model(name) for name in names]})


@cache
def gzip_once() -> bytes:
    """Return 1 GiB of newlines, compressed: 1 MB. The parts are compressed once, which takes milliseconds."""
    size, count = 2**20, 1024
    packer = zlib.compressobj(9, wbits=-15)
    part = packer.compress(b"\n" * size) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(count):
        checksum = zlib.crc32(b"\n" * size, checksum)
    header, end = b"\x1f\x8b\x08\0\0\0\0\0\0\x03", b"\x03\0"
    return header + part * count + end + checksum.to_bytes(4, "little") + (size * count).to_bytes(4, "little")


@cache
def gzip_twice() -> bytes:
    """Return the same, compressed twice: 5 kB."""
    return gzip.compress(gzip_once())


def zstd() -> bytes:
    """Return 1 GiB of newlines in zstd's format: 8,192 blocks of one repeated byte."""
    size = 2**17
    header = b"\x28\xb5\x2f\xfd\x00\x38"  # the magic number, no options, a window of 128 KiB
    block = (size << 3 | 1 << 1).to_bytes(3, "little") + b"\n"
    last = (size << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\n"
    return header + block * 8191 + last


def twenty_megabytes() -> bytes:
    """Return valid JSON of 20 MB with 1.4 million entries."""
    return b'{"models":[' + b",\n".join([b'{"name":"a"}'] * 1_400_000) + b"]}"


def long_version() -> bytes:
    """Return a version of 7 MB."""
    return json_line({"version": "7" * 7_000_000})


def long_error() -> bytes:
    """Return an error with a text of 180 kB, on which a pattern for model names takes quadratic time."""
    return json_line({"error": "model " * 30_000})


def numbered(count: int) -> bytes:
    """Return the body of `/api/tags` with this number of models."""
    return models(*(f"model-{number}" for number in range(count)))


def word_lines(key: str, count: int = 1000, words: int = 1) -> bytes:
    """Return lines of a generated answer with some words each."""
    return json_line(WORD | {"response": "", key: " word" * words}) * count


UNLOADED: Answer = partial(send, body=lambda: b'{"models":[]}')
LOADED = {"name": "llama3.1:latest", "size": 6 * 10**9, "size_vram": 6 * 10**9, "context_length": 4096}
ORDINARY: Mapping[str, Answer] = {
    "/api/version": partial(send, body=lambda: b'{"version":"0.33.0"}'),
    "/api/tags": partial(send, body=lambda: models("llama3.1:latest")),
    "/api/ps": partial(send, body=lambda: json_line({"models": [LOADED]})),
    "/api/show": partial(send, body=lambda: b'{"capabilities":["completion"]}'),
    "/api/generate": generate,
}


def packed(body: Callable[[], bytes], encoding: str, status: str = "200 OK") -> Answer:
    """Return an answer with a compressed body."""
    return partial(_send_packed, body=body, encoding=encoding, status=status)


async def _send_packed(_: Request, body: Callable[[], bytes], encoding: str, status: str) -> AsyncIterator[bytes]:
    yield head(status, f"Content-Encoding: {encoding}") + body()


def generated(part: bytes) -> Answer:
    """Return an answer of `/api/generate` that never ends: to a probe, not to a load request."""

    async def answer(request: Request) -> AsyncIterator[bytes]:
        parts = repeat(request, part) if request.body.get("prompt") else generate(request)
        async for sent in parts:
            yield sent

    return answer


FAILED = "500 Internal Server Error"
PROTOCOL = frozenset({"protocol"})
FAILURE = frozenset({"protocol", "http"})
"""Reasons of an error status with a body that is not what Ollama sends."""
FOLLOWS = {"models": "installed", "interval": "1m"}
NEWLINES_FOREVER = partial(repeat, part=NEWLINES)
GROUPS: Mapping[str, tuple[Attack, ...]] = {
    "compressed": (
        Attack("gzip of gzip as version", {"/api/version": packed(gzip_twice, "gzip, gzip")}, PROTOCOL),
        Attack("zstd as tags", {"/api/tags": packed(zstd, "zstd")}, PROTOCOL),
        Attack("gzip as ps", {"/api/ps": packed(gzip_once, "gzip")}, PROTOCOL),
        Attack("gzip as error", {"/api/generate": packed(gzip_once, "gzip", FAILED)}, FAILURE),
    ),
    "endless": (
        Attack("endless newlines as version", {"/api/version": NEWLINES_FOREVER}, PROTOCOL),
        Attack("endless newlines as tags", {"/api/tags": NEWLINES_FOREVER}, PROTOCOL),
        Attack("endless newlines as ps", {"/api/ps": NEWLINES_FOREVER}, PROTOCOL),
        Attack("endless newlines as load", {"/api/ps": UNLOADED, "/api/generate": NEWLINES_FOREVER}, PROTOCOL),
        Attack("endless newlines as error", {"/api/generate": partial(repeat, part=NEWLINES, status=FAILED)}, FAILURE),
    ),
    "large": (
        Attack("20 MB of JSON as tags", {"/api/tags": partial(send, body=twenty_megabytes)}, PROTOCOL),
        Attack("7 MB as version", {"/api/version": partial(send, body=long_version)}, PROTOCOL),
        Attack("180 kB error text", {"/api/generate": partial(send, body=long_error, status=FAILED)}, FAILURE),
        Attack("thinking flood", {"/api/generate": generated(word_lines("thinking", 50, 2000))}, PROTOCOL),
        Attack("token flood", {"/api/generate": generated(word_lines("response"))}, PROTOCOL),
    ),
    "names": (
        Attack(
            "10,000 models",
            {"/api/tags": partial(send, body=partial(numbered, 10_000))},
            settings=FOLLOWS,
            exposed={"discovery_success": 0},
        ),
        Attack(
            "900 models",
            {"/api/tags": partial(send, body=partial(numbered, 900))},
            settings=FOLLOWS,
            exposed={"discovery_ignored_models": 836},
        ),
        Attack(
            "surrogates in names",
            {"/api/tags": partial(send, body=partial(models, "\ud800", "\ud801", "c"))},
            settings=FOLLOWS,
        ),
        Attack(
            "echoed token",
            {"/api/version": echo_version, "/api/tags": echo_tags, "/api/ps": UNLOADED},
            settings=FOLLOWS,
        ),
        Attack("no answer", {"/api/version": hang}, frozenset({"timeout"})),
    ),
}
ATTACKS: Mapping[str, Attack] = {attack.name: attack for group in GROUPS.values() for attack in group}


def target_of(attack: Attack, url: str, token_file: Path) -> dict[str, Any]:
    """Return the settings of a target that is probed each second on the server of an attack."""
    token_file.write_text(TOKEN)
    settings = {"name": attack.name, "url": url, "models": ["llama3.1"], "interval": "1s", "num_predict": 32}
    return settings | {"bearer_token_file": str(token_file)} | dict(attack.settings)


@contextlib.contextmanager
def hostile_servers() -> Iterator[dict[str, str]]:
    """Run a server for each attack, in another process, and yield their URLs by the attack's name."""
    control, remote_control = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(remote_control,))
    process.start()
    try:
        yield control.recv()
    finally:
        process.kill()
        process.join()


def _serve(control: Connection) -> None:
    async def main() -> None:
        urls = {}
        for name, attack in ATTACKS.items():
            server = await asyncio.start_server(partial(_answer, attack), "127.0.0.1", 0)
            urls[name] = "http://{}:{}".format(*server.sockets[0].getsockname())
        control.send(urls)
        await asyncio.Event().wait()

    asyncio.run(main())


async def _answer(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        received = (await reader.readuntil(b"\r\n\r\n")).decode()
        _, _, length = received.lower().partition("content-length: ")
        body = await reader.readexactly(int(length.partition("\r\n")[0])) if length else b"{}"
        request = Request(received.split()[1], received, json.loads(body))
        async for part in {**ORDINARY, **attack.answers}[request.path](request):
            writer.write(part)
            await writer.drain()
    writer.close()
