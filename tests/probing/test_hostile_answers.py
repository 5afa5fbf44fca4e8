"""Whatever a server sends, in whatever pieces: no crash, no absurd number, and an exposition that everybody reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import programs
from support.probing import model_plan, target_plan

from exporter.gpu.monitor import GpuMonitor
from exporter.metrics.exposition import Format, render
from exporter.metrics.families import ProbeMetrics
from exporter.plan import ModelKey
from exporter.probing.target import Target

EXAMPLES = 60
PHASES = (Phase.explicit, Phase.generate)
"""Nothing is made smaller once it failed: the counters go on from one example to the next."""
DEADLINE = 0.4
"""Seconds: an example may hold the connection open."""
ALLOWED_COMPLAINT = "ollama_probe_token_count"
"""The one name that promtool does not like: the product's own contract."""


@dataclass(frozen=True)
class Sent:
    """An answer as bytes, how it is cut into pieces, where it ends, and what then becomes of the connection."""

    status: bytes = b"200 OK"
    headers: tuple[bytes, ...] = ()
    body: bytes = b"{}"
    pieces: tuple[int, ...] = ()
    """Sizes of the first pieces; the rest is one."""
    cut: int | None = None
    """Bytes of the whole after which it ends."""
    framing: str = "length"
    """length, chunked, close, or a length that is a lie."""
    hold: bool = False
    """Whether the connection is kept open in silence; else it is closed."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces."""
        framing = {
            "length": b"Content-Length: %d" % len(self.body),
            "lie": b"Content-Length: %d" % (len(self.body) + 7),
            "chunked": b"Transfer-Encoding: chunked",
            "close": b"Connection: close",
        }[self.framing]
        body = self.body
        if self.framing == "chunked":
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in self._split(body)) + b"0\r\n\r\n"
        head = b"\r\n".join([b"HTTP/1.1 " + self.status, *self.headers, framing])
        yield from self._split((head + b"\r\n\r\n" + body)[: self.cut])

    def _split(self, data: bytes) -> Iterator[bytes]:
        for size in self.pieces:
            if data[:size]:
                yield data[:size]
            data = data[size:]
        if data:
            yield data


@dataclass
class RawServer:
    """Sends for each path what it was told, whatever it is."""

    answers: Mapping[str, Sent] = field(default_factory=dict)
    url: str = ""
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())

    async def stop(self) -> None:
        """Close."""
        assert self._server is not None
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    def hang_up(self) -> None:
        """Close what is held open."""
        for writer in list(self._open):
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            _, _, length = head.partition("content-length: ")
            if length:
                await reader.readexactly(int(length.partition("\r\n")[0]))
            sent = self.answers[head.split()[1]]
            for piece in sent:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if sent.hold:
                await reader.read()
        self._open.discard(writer)
        writer.close()


TEXTS = st.text(st.characters(exclude_categories=()), max_size=40)
"""Lone surrogates too: JSON can carry them."""
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 16, 10**9, 2**63, 10**15, 10**15 + 1, 292 * 365 * 86400 * 10**9, -1, 10**400]),
    st.floats(),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
TIMES = st.sampled_from(["2026-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00+14:00", "soon"])


def mostly(good: Any, bad: st.SearchStrategy[Any] = VALUES) -> st.SearchStrategy[Any]:
    """Return a strategy for a value that is good more often than not, since only then the next field is looked at."""
    return st.just(good) | st.just(good) | st.just(good) | bad


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for an object with any of these fields, in any order, now and then with another."""

    def ordered(pairs: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.permutations(list(pairs.items())).map(dict)

    known = st.fixed_dictionaries({}, optional=fields) | st.fixed_dictionaries(fields)
    return st.builds(lambda a, b: {**b, **a}, known, st.just({}) | st.dictionaries(TEXTS, VALUES, max_size=2)).flatmap(
        ordered
    )


def spoilt(good: dict[str, Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for a good object with a few of its fields made another, in any order."""

    def spoil(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        bad = st.fixed_dictionaries({name: fields[name] for name in names})
        return bad.flatmap(lambda drawn: st.permutations(list({**good, **drawn}.items())).map(dict))

    return st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True).flatmap(spoil)


MODEL = {
    "name": mostly("llama3.1:latest"),
    "digest": mostly("46e0c10c039e"),
    "size": mostly(5 * 10**9),
    "details": mostly({"family": "llama", "parameter_size": "8B", "quantization_level": "Q4_K_M"}),
    "capabilities": mostly(["completion"]),
    "remote_host": mostly(""),
}
LOADED = {
    "name": mostly("llama3.1:latest"),
    "size": mostly(6 * 10**9),
    "size_vram": mostly(6 * 10**9),
    "context_length": mostly(4096),
    "expires_at": TIMES | VALUES,
}
CHUNK = {"model": mostly("llama3.1"), "created_at": TIMES, "response": mostly(" word"), "done": mostly(good=False)}
DURATION = st.sampled_from([-1, 0, 1, 10**6, 10**8, 3 * 10**8, 10**15 + 1]) | NUMBERS
FINAL = {
    "created_at": TIMES,
    "response": TEXTS,
    "done": VALUES,
    "done_reason": VALUES,
    "context": VALUES,
    "total_duration": DURATION,
    "load_duration": DURATION,
    "prompt_eval_count": NUMBERS,
    "prompt_eval_duration": DURATION,
    "eval_count": NUMBERS,
    "eval_duration": DURATION,
    "thinking": VALUES,
    "error": VALUES,
}
GOOD_CHUNK = {"model": "llama3.1", "created_at": "2026-01-01T00:00:00Z", "response": " word", "done": False}
GOOD_FINAL = {
    **GOOD_CHUNK,
    "response": "",
    "done": True,
    "done_reason": "length",
    "total_duration": 13 * 10**7,
    "load_duration": 10**7,
    "prompt_eval_count": 46,
    "prompt_eval_duration": 10**7,
    "eval_count": 20,
    "eval_duration": 10**8,
}


def written(value: Any) -> bytes:
    """Return a value as a line of JSON; NaN and infinity as Python spells them, which Python's parser takes."""
    return json.dumps(value).encode() + b"\n"


LINES = st.one_of(
    st.just(written(GOOD_CHUNK)), objects(**CHUNK).map(written), VALUES.map(written), st.binary(max_size=30)
)
STREAMS = st.builds(
    lambda first, lines, last, more: b"".join([written(GOOD_CHUNK) * first, *lines, *last, *more]),
    st.sampled_from([20, 0, 15, 16, 200]),
    st.just([]) | st.lists(LINES, max_size=3),
    st.lists(spoilt(GOOD_FINAL, **FINAL).map(written), min_size=1, max_size=2) | st.just([]),
    st.just([]) | st.lists(LINES, max_size=1),
)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"Content-Type: application/x-ndjson",
            b"Content-Type: application/json; charset=utf-16",
            b"Content-Type: application/json; charset=hex",
            b"Content-Type: text/html; charset=nonsense",
            b"Content-Encoding: gzip",
            b"Set-Cookie: a=b",
            b"Location: http://127.0.0.1:1/",
            b"X-Bytes: \xff\xfe",
            b"Broken header",
            b"Content-Length: 5",
        ]
    ),
    max_size=2,
).map(tuple)
STATUS = st.sampled_from(
    [b"404 Not Found", b"500 Oh", b"302 Found", b"204 No Content", b"100 Continue", b"999 Odd", b"x"]
)


def sent(bodies: st.SearchStrategy[bytes], *, may_hold: bool = False) -> st.SearchStrategy[Sent]:
    """Return a strategy for answers with these bodies: most are whole and sound but for the body."""
    sound = st.builds(
        Sent,
        body=bodies,
        pieces=st.lists(st.integers(1, 400), max_size=4).map(tuple),
        framing=mostly("chunked", st.just("length")),
    )
    odd = st.builds(
        Sent,
        status=mostly(b"200 OK", STATUS),
        headers=HEADERS,
        body=bodies | st.binary(max_size=50),
        pieces=st.lists(st.integers(1, 400), max_size=4).map(tuple),
        cut=st.none() | st.integers(0, 3000),
        framing=st.sampled_from(["length", "chunked", "close", "lie"]),
        hold=st.booleans() if may_hold else st.sampled_from([False]),
    )
    return sound | sound | odd


def model_lists(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Return a strategy for the bodies of `/api/tags` and `/api/ps`."""
    return objects(models=st.lists(objects(**fields), min_size=1, max_size=2) | VALUES).map(written)


LOADED_BODY = b'{"models":[{"name":"llama3.1:latest","size":1,"size_vram":1,"context_length":4096}]}'
ANSWERS = st.fixed_dictionaries(
    {
        "/api/version": mostly(Sent(body=b'{"version":"0.33.0"}'), sent(objects(version=TEXTS).map(written))),
        "/api/tags": mostly(Sent(body=b'{"models":[]}'), sent(model_lists(**MODEL))),
        "/api/ps": mostly(Sent(body=LOADED_BODY), sent(model_lists(**LOADED))),
        "/api/generate": sent(STREAMS, may_hold=True),
    }
)


def generating(body: bytes, **changes: Any) -> dict[str, Sent]:
    """Return the answers of a sound server whose stream is given."""
    return {
        "/api/version": Sent(body=b'{"version":"0.33.0"}'),
        "/api/tags": Sent(body=b'{"models":[]}'),
        "/api/ps": Sent(body=LOADED_BODY),
        "/api/generate": Sent(body=body, **{"framing": "chunked", **changes}),
    }


@dataclass
class Stage:
    """A target on the raw server, with its metrics and a tally of its own."""

    server: RawServer
    target: Target
    registry: CollectorRegistry
    runs: int = 0

    async def probe(self, answers: Mapping[str, Sent]) -> None:
        """Probe once."""
        self.server.answers = answers
        [pair] = self.target.models
        await asyncio.wait_for(self.target.probe(pair), 30)
        self.server.hang_up()

    def check(self) -> Mapping[str, float]:
        """Check all that is told, and return the sum of each metric over its samples."""
        sums: defaultdict[str, float] = defaultdict(float)
        for format_, parse in ((Format.TEXT, parse_text), (Format.OPENMETRICS, parse_openmetrics)):
            sums.clear()
            for family in parse(render(self.registry, format_).decode()):
                for sample in family.samples:
                    assert 0 <= sample.value < math.inf, sample
                    sums[sample.name.removeprefix("ollama_probe_")] += sample.value
                    if sample.labels.get("reason") == "internal":
                        assert sample.value == 0
        assert sums["runs_total"] == sums["successes_total"] + sums["failures_total"] + sums["cancelled_total"]
        return sums


async def open_stage() -> Stage:
    """Return a stage whose target has one model."""
    server = RawServer()
    await server.start()
    registry = CollectorRegistry()
    metrics = ProbeMetrics(registry, collectors=())
    plan = target_plan(server.url, name="t")
    target = Target(plan, GpuMonitor(), metrics, lambda *_: asyncio.sleep(0))
    model = model_plan(timeout_seconds=DEADLINE, load_timeout_seconds=DEADLINE)
    target.models = {plan.pair(model): model}
    metrics.add_pair(ModelKey("t", "llama3.1"), model)
    return Stage(server, target, registry)


async def close_stage(stage: Stage) -> None:
    """Close it."""
    await stage.target.close()
    await stage.server.stop()


def test_whatever_a_server_sends_the_numbers_are_sound(
    newest_release: programs.Release, caplog: pytest.LogCaptureFixture
) -> None:
    """Any fields in any order, size and type, in any pieces, cut anywhere: each probe is counted once, by a reason.

    None is `internal`; no value is negative, infinite or no number; both parsers and promtool read what is left.
    """
    caplog.set_level(logging.ERROR)
    with asyncio.Runner() as runner:
        stage = runner.run(open_stage())

        @settings(max_examples=EXAMPLES, phases=PHASES, suppress_health_check=list(HealthCheck), database=None)
        @example(generating(b"[" * 100_000 + b"\n"))
        @example(generating(written(GOOD_CHUNK) * 20 + b"[]\n"))
        @example(generating(written(GOOD_CHUNK) * 20 + written({"error": [{}]})))
        @example(generating(written(GOOD_CHUNK) * 20 + b'{"eval_count":' + b"9" * 5000 + b"}\n"))
        @example(generating(written(GOOD_CHUNK) * 20 + written({**GOOD_FINAL, "eval_duration": math.nan})))
        @example(generating(written(GOOD_CHUNK) * 20 + written({**GOOD_FINAL, "eval_duration": -(10**8)})))
        @example(generating(written(GOOD_CHUNK) * 20 + written({**GOOD_FINAL, "load_duration": -(10**8)})))
        @example(generating(written(GOOD_CHUNK) * 20, framing="close"))
        @example(generating(b"", status=b"500 Oh", headers=(b"Content-Type: text/plain; charset=hex",)))
        @given(ANSWERS)
        def probe(answers: dict[str, Sent]) -> None:
            runner.run(stage.probe(answers))
            stage.runs += 1
            assert stage.check()["runs_total"] == stage.runs
            assert caplog.records == []

        probe()
        runner.run(stage.probe(generating(written(GOOD_CHUNK) * 20 + written(GOOD_FINAL))))
        sums = stage.check()
        exposition = render(stage.registry, Format.TEXT)
        runner.run(close_stage(stage))

    assert sums["success"] == 1
    assert sums["decode_tokens_per_second"] == 200
    command: list[str | Path] = [newest_release.promtool, "check", "metrics"]
    checked = subprocess.run(command, input=exposition, capture_output=True, check=False, timeout=60)
    complaints = (checked.stdout + checked.stderr).decode().splitlines()
    assert [line for line in complaints if not line.startswith(ALLOWED_COMPLAINT)] == []
