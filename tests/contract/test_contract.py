"""The embedded server answers like the recorded Ollama 0.24 and 0.33, field by field and type by type.

The same tests run against a real Ollama if `OLLAMA_CONTRACT_URL` and `OLLAMA_CONTRACT_MODEL` are set. The model must
be installed, small and otherwise unused, because it is loaded, reloaded and unloaded.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from exporter.embedded.llamacpp import LlamaCppEngine
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.errors import ExporterError

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

RECORDINGS = [
    {exchange["name"]: exchange for exchange in json.loads(path.read_text())["exchanges"]}
    for path in sorted((Path(__file__).parent.parent / "recordings").glob("ollama-*.json"))
]
NAMES = list(RECORDINGS[-1])
NEEDS_A_CRASH = "runner dies"
OMITTED = {"show": {"tensors"}}
"""Fields that the embedded server deliberately does not send."""
FREE_KEYS = {"model_info"}
"""Objects whose keys depend on the model."""
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?(Z|[+-]\d\d:\d\d)")
HEX = re.compile(r"[0-9a-f]{64}")


class Subject(NamedTuple):
    """A server under test."""

    http: httpx.AsyncClient
    model: str
    embedded: bool


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["scripted", "llamacpp", "ollama"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """Return the embedded server with each engine, and a real Ollama if one is configured."""
    if request.param == "ollama":
        url, model = os.environ.get("OLLAMA_CONTRACT_URL"), os.environ.get("OLLAMA_CONTRACT_MODEL")
        if not url or not model:
            pytest.skip("no real Ollama: set OLLAMA_CONTRACT_URL and OLLAMA_CONTRACT_MODEL")
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
            yield Subject(http, model, embedded=False)
        return
    if request.param == "llamacpp":
        try:
            engine: LlamaCppEngine | ScriptedEngine = LlamaCppEngine()
        except ExporterError as error:
            pytest.skip(str(error))
    else:
        engine = ScriptedEngine([ScriptedModel("tiny:1b", tokens_per_second=200, load_seconds=0.1)])
    async with (
        OllamaServer(engine) as server,
        httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as http,
    ):
        yield Subject(http, engine.installed[0].name, embedded=True)


async def send(subject: Subject, exchange: dict[str, Any]) -> httpx.Response:
    """Send a recorded request for the subject's model."""
    body = exchange["request"]
    text = body if isinstance(body, str) else json.dumps(body)
    content = None if body is None else text.replace("$MODEL", subject.model).encode()
    return await subject.http.request(exchange["method"], exchange["path"], content=content)


async def generate(subject: Subject, **fields: Any) -> dict[str, Any]:
    """Generate without streaming and return the answer."""
    fields.setdefault("options", {"num_predict": 8, "temperature": 0, "seed": 42} | fields.pop("more", {}))
    body = {"model": subject.model, "prompt": "Once upon a time", "stream": False} | fields
    answer = await subject.http.post("/api/generate", json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def until_loaded(subject: Subject, *, wanted: bool) -> None:
    """Poll until the model is loaded, or unloaded."""
    async with asyncio.timeout(60):
        while (await loaded(subject) is not None) is not wanted:
            await asyncio.sleep(0.02)


async def unload(subject: Subject) -> None:
    """Unload the model and wait until it is unloaded."""
    await generate(subject, prompt="", keep_alive=0)
    await until_loaded(subject, wanted=False)


async def loaded(subject: Subject) -> dict[str, Any] | None:
    """Return the model's entry in `/api/ps`."""
    models = (await subject.http.get("/api/ps")).json()["models"]
    return next((model for model in models if model["name"].removesuffix(":latest") == subject.model), None)


def kind(value: Any) -> str:
    """Return the type of a value."""
    if isinstance(value, str):
        return "timestamp" if TIMESTAMP.fullmatch(value) else "hex" if HEX.fullmatch(value) else "text"
    return "number" if isinstance(value, float | int) and not isinstance(value, bool) else type(value).__name__


def differences(actual: Any, recorded: list[Any], *, strict: bool, where: str = "") -> list[str]:
    """Return the differences between a value's shape and the recorded ones.

    A field that every recording has must be present. If `strict`, a field that none has must be absent: Ollama omits
    values that are zero.
    """
    kinds = {kind(value) for value in recorded}
    if kind(actual) not in kinds:
        return [f"{where}: {kind(actual)} {actual!r}, recorded {kinds}"]
    if isinstance(actual, list):
        items = [item for value in recorded for item in value]
        return [line for item in actual for line in differences(item, items, strict=strict, where=f"{where}[]")]
    if not isinstance(actual, dict) or where.rpartition(".")[2] in FREE_KEYS:
        return []
    required = set.intersection(*(set(value) for value in recorded)) - OMITTED.get(where.partition(".")[0], set())
    allowed = set.union(*(set(value) for value in recorded))
    found = [f"{where}.{key}: missing" for key in sorted(required - set(actual))]
    found += [f"{where}.{key}: never recorded" for key in sorted(set(actual) - allowed) if strict]
    for key in sorted(set(actual) & allowed):
        values = [value[key] for value in recorded if key in value]
        found += differences(actual[key], values, strict=strict, where=f"{where}.{key}")
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name != NEEDS_A_CRASH])
async def test_answers_have_the_recorded_shape(subject: Subject, name: str) -> None:
    """Each field has a recorded type. Status, content type and the text of an error are as recorded."""
    recorded = [recording[name] for recording in RECORDINGS if name in recording]
    if name == "ps empty":
        await unload(subject)
    if name == "ps loaded":
        await generate(subject, prompt="")
    if name == "think true" and not subject.embedded:
        shown = await subject.http.post("/api/show", json={"model": subject.model})
        if "thinking" in shown.json().get("capabilities", []):
            pytest.skip(f"{subject.model} thinks")
    answer = await send(subject, recorded[-1])
    assert answer.status_code in {exchange["status"] for exchange in recorded}, answer.text
    assert answer.headers["content-type"] in {exchange["content_type"] for exchange in recorded}
    if "json" not in answer.headers["content-type"]:
        assert [answer.text] in [exchange["lines"] for exchange in recorded]
        return
    lines = [json.loads(line) for line in answer.text.splitlines()]
    if "error" in lines[0]:
        texts = [exchange["lines"][0]["error"] for exchange in recorded]
        assert lines[0]["error"] in [text.replace("$MODEL", subject.model) for text in texts]
    for part, index in (("first", 0), ("last", -1)):
        like = [exchange["lines"][index] for exchange in recorded]
        found = differences(lines[index], like, strict=subject.embedded, where=name)
        assert not found, f"{part} line {lines[index]}"
    if subject.embedded and name in {"stream", "whole", "raw", "think false", "unknown option"}:
        assert len(lines) == recorded[-1]["count"], "one line per token and the final one"


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_head_is_answered_where_ollama_does(subject: Subject, path: str) -> None:
    """Status 200 without a body."""
    answer = await subject.http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_head_is_refused_elsewhere(subject: Subject) -> None:
    """`/api/ps` accepts only GET."""
    assert (await subject.http.head("/api/ps")).status_code == 405


async def test_numbers_of_the_final_line_are_consistent(subject: Subject) -> None:
    """Durations do not exceed the total, counts are as requested, and a raw prompt has no template."""
    answer = await generate(subject, more={"num_predict": 16})
    parts = ("load_duration", "prompt_eval_duration", "eval_duration")
    assert sum(answer[part] for part in parts) <= answer["total_duration"]
    assert answer["eval_count"] == 16
    assert answer["done_reason"] == "length"
    raw = await generate(subject, raw=True)
    assert raw["prompt_eval_count"] < answer["prompt_eval_count"]
    assert (await generate(subject, more={"num_predict": 1}))["eval_duration"] >= 1000, "0 would be omitted"


async def test_another_num_ctx_reloads_the_model(subject: Subject) -> None:
    """The current context length does not reload it. Another one does, and so does its absence afterwards."""
    await generate(subject)
    own = (await loaded(subject) or {})["context_length"]
    warm = await generate(subject, more={"num_ctx": own})
    assert warm["load_duration"] < 50_000_000
    other = await generate(subject, more={"num_ctx": 1024})
    assert (await loaded(subject) or {})["context_length"] == 1024
    assert other["load_duration"] > 50_000_000
    await generate(subject)
    assert (await loaded(subject) or {})["context_length"] == own


async def test_a_request_without_keep_alive_keeps_the_previous_one(subject: Subject) -> None:
    """`47m` is kept and re-armed by each request without keep_alive; `3m` replaces it."""

    async def minutes() -> int:
        await asyncio.sleep(0.2)
        expires = datetime.fromisoformat((await loaded(subject) or {})["expires_at"][:19] + "+00:00")
        return round((expires - datetime.now(UTC)).total_seconds() / 60)

    await generate(subject, keep_alive="47m")
    await generate(subject)
    await generate(subject, prompt="")
    assert await minutes() == 47
    await generate(subject, keep_alive="3m")
    assert await minutes() == 3


async def test_unloading_waits_for_a_running_request(subject: Subject) -> None:
    """`keep_alive: 0` is answered at once. The running answer is complete, then the model is unloaded."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(generate(subject, more={"num_predict": 48}))
        await until_loaded(subject, wanted=True)
        await asyncio.sleep(0.1)
        answer = await generate(subject, prompt="", keep_alive=0)
        assert answer["done_reason"] == "unload"
        assert not running.done()
    assert running.result()["eval_count"] == 48
    await asyncio.sleep(0.2)
    assert await loaded(subject) is None


async def test_only_the_total_includes_the_wait_for_the_slot(subject: Subject) -> None:
    """With one slot, the second of two requests waits for total - load - prefill - decode; the first does not."""
    await generate(subject)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(generate(subject, more={"num_predict": 48}))
        await asyncio.sleep(0.05)
        second = tasks.create_task(generate(subject))

    def queue(answer: dict[str, Any]) -> float:
        parts = ("load_duration", "prompt_eval_duration", "eval_duration")
        return float(answer["total_duration"] - sum(answer[part] for part in parts)) / 1e9

    assert queue(second.result()) > first.result()["eval_duration"] / 2e9 > queue(first.result())


async def test_a_closed_connection_frees_the_slot(subject: Subject) -> None:
    """The next request does not wait for the end of a long answer whose client disconnected."""
    body = {"model": subject.model, "prompt": "A long tale", "options": {"num_predict": 4000, "num_ctx": 4096}}
    async with subject.http.stream("POST", "/api/generate", json=body) as answer:
        await anext(answer.aiter_lines())
    began = time.monotonic()
    following = await generate(subject, more={"num_ctx": 4096})
    busy_ns = following["eval_duration"] + following["prompt_eval_duration"]
    assert time.monotonic() - began - busy_ns / 1e9 < 1.5
