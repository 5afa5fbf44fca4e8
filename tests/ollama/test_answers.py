"""Every answer is bounded, whatever a server sends."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
from support.attacks import ATTACKS, run
from support.hostile_answers import GOOD_CHUNK, GOOD_FINAL, generating, json_line
from support.loop_watch import watching_the_loop
from support.probing import model_plan, probing, target_plan
from support.raw_server import RawAnswer, RawServer

from exporter.errors import ProbeError, Reason
from exporter.ollama.answers import CHUNKS_MORE, JSON_BYTES_MAX
from exporter.ollama.client import OllamaClient
from exporter.reading import Reading

BLOCK_SECONDS_MAX = 0.5
"""Far above what is measured on an idle machine, and far below what the attacks cost without bounds."""
GROWTH_MEGABYTES_MAX = 60


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_a_failure_with_its_reason_and_does_not_stop_the_loop(name: str) -> None:
    """Other targets are probed meanwhile, so no answer may keep the event loop busy."""
    attack = ATTACKS[name]()
    async with watching_the_loop() as watch:
        reason = await run(attack)

    assert reason is attack.reason
    assert watch.longest_block_seconds < BLOCK_SECONDS_MAX


@pytest.mark.parametrize(
    "name",
    [
        "gzip bomb within gzip",
        "endless answer of tags",
        "endless answer of load",
        "endless error of generate",
        "20 MB of JSON",
        "2 MB of JSON",
        "thinking flood",
        "flood of long tokens",
        "token flood without num_predict",
    ],
)
def test_an_attack_costs_little_memory(name: str) -> None:
    """One server must not use up the memory of the process that probes all others."""
    command = [sys.executable, "-m", "support.attacks", name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout

    assert json.loads(printed)["grown_megabytes"] < GROWTH_MEGABYTES_MAX


@pytest.mark.parametrize(
    ("path", "call"),
    [("/api/version", OllamaClient.version), ("/api/ps", OllamaClient.loaded), ("/api/tags", OllamaClient.installed)],
)
async def test_an_answer_at_its_limit_is_accepted(path: str, call: Callable[[OllamaClient], Awaitable[object]]) -> None:
    """One byte more is refused."""
    body = b'{"version":"1","models":[]}'
    for more, accepted in ((0, True), (1, False)):
        answer = RawAnswer(body=body + b" " * (JSON_BYTES_MAX - len(body) + more))
        async with RawServer({path: answer}) as server, OllamaClient(target_plan(server.url)) as client:
            if accepted:
                await call(client)
                continue
            with pytest.raises(ProbeError) as caught:
                await call(client)
            assert caught.value.reason is Reason.PROTOCOL


async def test_as_many_chunks_as_requested_are_accepted() -> None:
    """Thinking and text may come in separate chunks, and a final chunk has the context of the whole prompt."""
    final = {**GOOD_FINAL, "context": list(range(100_000))}
    for more, accepted in ((0, True), (1, False)):
        body = json_line(GOOD_CHUNK) * (32 + CHUNKS_MORE - 1 + more) + json_line(final)
        async with RawServer(generating(body)) as server, probing(server.url) as prober:
            if accepted:
                assert isinstance(await prober.probe(model_plan()), Reading)
                continue
            with pytest.raises(ProbeError) as caught:
                await prober.probe(model_plan())
            assert caught.value.reason is Reason.PROTOCOL


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_lines_may_be_cut_anywhere(size: int) -> None:
    """Chunks of HTTP are not chunks of the answer."""
    body = json_line({**GOOD_CHUNK, "response": " wörd"}) * 20 + json_line(GOOD_FINAL)[:-1]
    answers = generating(body, pieces=(size,) * 200)
    async with RawServer(answers) as server, probing(server.url) as prober:
        reading = await prober.probe(model_plan())

    assert isinstance(reading, Reading)
    assert reading.text == " wörd" * 20


async def test_what_a_server_says_can_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Redacted, valid Unicode, at most 200 characters. Models whose names cannot be used are left out, logged once."""
    token = "token-of-twelve"
    model = {
        "name": "m",
        "digest": f"{token}{'d' * 10**6}",
        "details": {"family": "\ud800", "parameter_size": token, "quantization_level": "Q" * 10**4},
    }
    unusable = [{"name": "\ud800"}, {"name": "\ud801"}, {"name": "x" * 201}]
    answers = {
        "/api/version": RawAnswer(body=json_line({"version": f"{'1' * 195}{token}"})),
        "/api/tags": RawAnswer(body=json_line({"models": [model, *unusable]})),
        "/api/ps": RawAnswer(body=json_line({"models": [{"name": f"\ud800{token}"}]})),
    }
    target = {"headers": {"X-Key": token}}
    async with RawServer(answers) as server, OllamaClient(target_plan(server.url, **target)) as client:
        version = await client.version()
        [installed] = await client.installed()
        assert await client.installed() == (installed,)
        [loaded] = await client.loaded()

    for text in (version, loaded.name, *map(str, dataclasses.astuple(installed))):
        assert token[:6] not in text
        assert len(text) <= 200
        text.encode()
    assert installed.quantization == "Q" * 200
    assert len(caplog.records) == 1
