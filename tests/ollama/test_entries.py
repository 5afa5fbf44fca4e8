"""What a server says of itself: real answers, and answers that no Ollama gives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from support.probing import target_plan

from exporter.errors import ProbeError, Reason
from exporter.ollama.client import ModelFile, OllamaClient, _installed, _loaded, full_name, read_time

RECORDINGS = Path(__file__).parents[1] / "recordings"


def recorded(version: str, name: str) -> Any:
    """Return the body that a real Ollama answered."""
    exchanges = json.loads((RECORDINGS / f"ollama-{version}.json").read_text())["exchanges"]
    return next(exchange for exchange in exchanges if exchange["name"] == name)["lines"][0]


class Answers:
    """A server that answers each path with a given body."""

    def __init__(self) -> None:
        self.bodies: dict[str, Any] = {}
        self.asked: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer bytes as they are and everything else as JSON."""
        self.asked.append(request.path)
        body = self.bodies.get(request.path, {})
        return web.Response(body=body) if isinstance(body, bytes) else web.json_response(body)


@pytest.fixture
async def answers() -> AsyncIterator[Answers]:
    """Start such a server."""
    found = Answers()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = "http://{}:{}".format(*runner.addresses[0])
    yield found
    await runner.cleanup()


@pytest.mark.parametrize("version", ["0.24", "0.33"])
async def test_real_answers_are_read_whole(version: str, answers: Answers) -> None:
    """Names, sizes, digests, capabilities and the model's blob, of both versions that were recorded."""
    answers.bodies = {f"/api/{name}": recorded(version, name) for name in ("tags", "show")}
    raw = answers.bodies["/api/tags"]["models"][0]
    async with OllamaClient(target_plan(answers.url)) as server:
        installed = (await server.installed())[0]
        file = await server.file(installed.name, installed.digest)

    assert (installed.name, installed.digest, installed.size_bytes) == (raw["name"], raw["digest"], raw["size"])
    assert installed.quantization == raw["details"]["quantization_level"]
    assert installed.can_generate is (True if version == "0.33" else None)
    assert file.blob is not None
    assert f"sha256-{file.blob}" in answers.bodies["/api/show"]["modelfile"]
    assert file.can_generate is True
    assert not file.cloud


async def test_a_file_is_asked_for_once_per_digest(answers: Answers) -> None:
    """`/api/show` is heavy: a model that did not change is not asked about again."""
    async with OllamaClient(target_plan(answers.url)) as server:
        for digest in ("a", "a", "b"):
            await server.file("m", digest)

    assert answers.asked == ["/api/show"] * 2


async def test_a_mixture_of_experts_is_not_dense(answers: Answers) -> None:
    """A token reads a part of such a model only; without facts nobody can tell."""
    async with OllamaClient(target_plan(answers.url)) as server:
        answers.bodies["/api/show"] = {"model_info": {"qwen3moe.expert_count": 128}}
        moe = await server.file("m", "1")
        answers.bodies["/api/show"] = {"model_info": {"llama.block_count": 32}}
        dense = await server.file("m", "2")
        answers.bodies["/api/show"] = {}
        unknown = await server.file("m", "3")

    assert [moe.dense, dense.dense, unknown.dense] == [False, True, None]
    assert unknown == ModelFile(blob=None, dense=None, can_generate=None, cloud=False)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"models": 3}', b"\xff\xfe", b"[" * 100_000])
async def test_an_answer_that_ollama_never_gives_is_a_protocol_error(body: bytes, answers: Answers) -> None:
    """Not a crash, and not an empty list either."""
    answers.bodies["/api/ps"] = body
    async with OllamaClient(target_plan(answers.url)) as server:
        with pytest.raises(ProbeError) as caught:
            await server.loaded()

    assert caught.value.reason is Reason.PROTOCOL


async def test_no_models_is_an_empty_list(answers: Answers) -> None:
    """Go writes an empty list as null."""
    answers.bodies["/api/ps"] = {"models": None}
    async with OllamaClient(target_plan(answers.url)) as server:
        assert await server.loaded() == ()


async def test_the_sign_of_life_is_told_either_way(answers: Answers) -> None:
    """A version, or None where no answer came."""
    heard: list[str | None] = []
    answers.bodies["/api/version"] = {"version": "0.33.0"}
    async with OllamaClient(target_plan(answers.url), heard.append) as server:
        await server.version()
        answers.bodies["/api/version"] = b"no"
        with pytest.raises(ProbeError):
            await server.version()

    assert heard == ["0.33.0", None]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("llama3.1", "llama3.1:latest"),
        ("Llama3.1:8B", "llama3.1:8b"),
        ("host:5000/me/m", "host:5000/me/m:latest"),
        ("hf.co/a/b:Q4_K_M", "hf.co/a/b:q4_k_m"),
        ("registry.ollama.ai/library/llama3.1", "llama3.1:latest"),
    ],
)
def test_names_compare_as_ollama_compares_them(name: str, full: str) -> None:
    """Without regard to case, to the default tag and to the default registry."""
    assert full_name(name) == full


def test_times_are_read_to_the_microsecond_with_their_zone() -> None:
    """Ollama writes nanoseconds, and local time with an offset; a time without a zone compares with nothing."""
    assert read_time("2026-11-24T15:06:20.566098482Z") == datetime(2026, 11, 24, 15, 6, 20, 566098, UTC)
    assert read_time("2026-11-24T17:06:20.5+02:00") == datetime(2026, 11, 24, 15, 6, 20, 500000, UTC)
    assert read_time("2026-11-24T15:06:20") is None
    assert read_time(12) is None


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)
_entry = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("name", "model", "digest", "size", "size_vram", "details", "capabilities", "expires_at", "context_length"),
        _json,
    ),
)


@given(_entry)
def test_no_entry_crashes_the_reading_of_a_list(entry: dict[str, Any]) -> None:
    """Whatever type a field has, it is read or taken as unsaid; shares stay between 0 and 1."""
    installed, loaded = _installed(entry), _loaded(entry)

    assert isinstance(installed.name, str)
    assert loaded.gpu_ratio is None or 0 <= loaded.gpu_ratio <= 1
