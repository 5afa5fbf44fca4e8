"""Answers of a hostile server that cost an unprotected client gigabytes or minutes, and the requests that meet them.

As a program: `python -m support.attacks NAME` prints the reason of the failure and by how many megabytes the memory of
the process grew.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from support.hostile_answers import GOOD_CHUNK, json_line
from support.probing import model_plan, target_plan, workload
from support.raw_server import RawAnswer, RawServer

from exporter.errors import ProbeError, Reason
from exporter.ollama.chain import ChunkRecorder, ReferenceChain
from exporter.ollama.client import OllamaClient

MEMORY_BYTES_MAX = 2 * 2**30
"""Of the program's address space, so that an unprotected client cannot take the machine's memory."""


Request = Callable[[OllamaClient, ReferenceChain], Awaitable[object]]


@dataclass(frozen=True)
class Attack:
    """A request, the answer that it receives, and the reason for which it must fail; None if it must not."""

    request: str
    answer: RawAnswer
    reason: Reason | None = Reason.PROTOCOL


@cache
def bomb(encodings: int) -> bytes:
    """Return 256 MiB of newlines, compressed with gzip once or several times."""
    body = b"\n" * 2**28
    for _ in range(encodings):
        body = gzip.compress(body, 6)
    return body


def gzip_bomb(request: str, **changes: Any) -> Attack:
    """Return the bomb as the answer of a request."""
    return Attack(request, RawAnswer(headers=(b"Content-Encoding: gzip",), body=bomb(1), **changes))


def endless(data: bytes = b"\n" * 2**16, status: bytes = b"200 OK") -> RawAnswer:
    """Return an answer that never ends."""
    return RawAnswer(status=status, body=b"", flood=data, framing="close")


def flood(**fields: str) -> RawAnswer:
    """Return an endless stream of chunks."""
    return endless(json_line({**GOOD_CHUNK, **fields}) * 500)


def ask(num_predict: int = 32) -> Request:
    """Return the measured request."""
    plan = model_plan(workload=workload(num_predict=num_predict), timeout_seconds=20)
    return lambda _, chain: chain.ask(plan, num_ctx=None, chunks=ChunkRecorder())


REQUESTS: dict[str, tuple[str, Request]] = {
    "version": ("/api/version", lambda client, _: client.version()),
    "tags": ("/api/tags", lambda client, _: client.installed()),
    "ps": ("/api/ps", lambda client, _: client.loaded()),
    "show": ("/api/show", lambda client, _: client.model_file("m", "d")),
    "load": ("/api/generate", lambda client, _: client.load("m", None, 20)),
    "unload": ("/api/generate", lambda client, _: client.unload("m")),
    "generate": ("/api/generate", ask()),
    "generate without num_predict": ("/api/generate", ask(-1)),
}
"""The path of each request, and how it is sent."""
GZIP_TWICE = (b"Content-Encoding: gzip, gzip",)
ERROR = b"500 Internal Server Error"
ITEMS = b"[" + b"{},\n" * 5 * 10**6 + b"{}]"
LONG_ERROR = json_line({"error": "model " * 30_000})
MANY_MODELS = json_line({"models": [{"name": f"m{number}"} for number in range(10_000)]})
BYTE_CHUNKS = b"1\r\n \r\n" * 10**4
CR_LINES = json.dumps(GOOD_CHUNK).encode() + b"\r"

ATTACKS: dict[str, Callable[[], Attack]] = {
    **{f"endless answer of {name}": partial(Attack, name, endless()) for name in REQUESTS},
    **{f"gzip bomb as answer of {name}": partial(gzip_bomb, name) for name in REQUESTS},
    "gzip bomb within gzip": lambda: Attack("version", RawAnswer(headers=GZIP_TWICE, body=bomb(2))),
    "gzip bomb as error": lambda: replace(gzip_bomb("version", status=ERROR), reason=Reason.HTTP),
    "endless error": lambda: Attack("ps", endless(status=ERROR), Reason.HTTP),
    "endless error of generate": lambda: Attack("generate", endless(status=ERROR), Reason.HTTP),
    "20 MB of JSON": lambda: Attack("tags", RawAnswer(body=b'{"models":' + ITEMS + b"}")),
    "2 MB of JSON": lambda: Attack("tags", RawAnswer(body=b'{"models":[' + ITEMS[-2 * 10**6 :].lstrip(b"},\n") + b"}")),
    "many models": lambda: Attack("tags", RawAnswer(body=MANY_MODELS)),
    "thinking flood": lambda: Attack("generate", flood(thinking="w " * 1000, response="")),
    "token flood": lambda: Attack("generate", flood()),
    "token flood without num_predict": lambda: Attack("generate without num_predict", flood()),
    "flood of long tokens": lambda: Attack("generate without num_predict", flood(response="w " * 4000)),
    "lines that end with CR": lambda: Attack("generate", endless(CR_LINES)),
    "one byte in each HTTP chunk": lambda: Attack(
        "generate", replace(endless(BYTE_CHUNKS), headers=(b"Transfer-Encoding: chunked",))
    ),
    "final chunk with a context of objects": lambda: Attack(
        "generate",
        RawAnswer(
            body=b'{"done":true,"response":"","context":[' + ITEMS[-900_000:].replace(b"\n", b"").lstrip(b"},") + b"}\n"
        ),
        None,
    ),
    "long error text": lambda: Attack("version", RawAnswer(status=ERROR, body=LONG_ERROR), Reason.HTTP),
    "long error text in a stream": lambda: Attack("generate", RawAnswer(body=LONG_ERROR), Reason.HTTP),
    "version of 7 MB": lambda: Attack("version", RawAnswer(body=json_line({"version": "1" * 7 * 10**6}))),
}


async def run(attack: Attack) -> Reason | None:
    """Send the request to a server with the answer and return the reason of its failure, None if it succeeds."""
    path, send = REQUESTS[attack.request]
    async with RawServer({path: attack.answer}) as server:
        plan = target_plan(server.url)
        client = OllamaClient(plan)
        chain = ReferenceChain(plan, client.auth)
        try:
            await send(client, chain)
        except ProbeError as error:
            return error.reason
        finally:
            await chain.close()
            await client.close()
    return None


def main() -> None:
    """Run one attack and print what it did."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    attack = ATTACKS[sys.argv[1]]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reason = asyncio.run(run(attack))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    sys.stdout.write(json.dumps({"reason": reason, "grown_megabytes": grown}))


if __name__ == "__main__":
    main()
