"""The scripted engine: everything it says is known beforehand, and its clock is the loop's.

Most tests run in a loop whose time jumps from one deadline to the next, so that durations are exact.
"""

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from datetime import datetime
from typing import Any, TypeVar

import httpx
import pytest
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.engine import SECOND, Ask, Line, OllamaError, parse_keep_alive, rfc3339
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import CPU_RATE_SHARE, ScriptedModel

T = TypeVar("T")
LLAMA = ScriptedModel("llama3.1", tokens_per_second=50, prefill_seconds=0.25, load_seconds=2, length=100)
QWEN = ScriptedModel("qwen3:8b", tokens_per_second=50, prefill_seconds=0.25, load_seconds=2)
PACE = LLAMA.tokens_per_second


class JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting, moves the time on."""

    now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, and let `timeout` seconds have passed if nothing is."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen")
        self.now += 0 if ready or timeout is None else timeout
        return ready


def jumping_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose time jumps."""
    selector = JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    return loop


def simulate(program: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a program in a loop whose time jumps."""
    with asyncio.Runner(loop_factory=jumping_loop) as runner:
        return runner.run(program())


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def engine(*models: ScriptedModel, **scheduling: Any) -> FaultyEngine:
    """Return an engine whose wall clock is the loop's."""
    return FaultyEngine(models or (LLAMA,), clock=lambda: round(now() * SECOND), **scheduling)


async def stream(
    engine: FaultyEngine, model: str = "llama3.1", prompt: str = "Why?", keep_alive: Any = None, **options: Any
) -> AsyncIterator[Line | bytes]:
    """Generate, 26 tokens if nothing else is said: half a second from the first to the last."""
    found = engine.find(model)
    assert found
    ask = Ask(
        model=found,
        asked_name=model,
        prompt=prompt,
        raw=False,
        think=bool(options.pop("think", False)),
        options={"num_predict": 26} | options,
        keep_alive_ns=parse_keep_alive(keep_alive),
        arrived=now(),
    )
    async with aclosing(engine.generate(ask)) as lines:
        async for line in lines:
            yield line


async def generate(engine: FaultyEngine, *args: Any, **options: Any) -> list[Any]:
    """Generate and return all lines."""
    return [line async for line in stream(engine, *args, **options)]


async def final(engine: FaultyEngine, *args: Any, **options: Any) -> dict[str, Any]:
    """Generate and return the last line."""
    last = (await generate(engine, *args, **options))[-1]
    assert isinstance(last, dict)
    return last


def stages(line: Line) -> dict[str, float]:
    """Return where the time went, in seconds."""
    load, prefill, decode = (line.get(f"{part}_duration", 0) / 1e9 for part in ("load", "prompt_eval", "eval"))
    total = line["total_duration"] / 1e9
    return {"queue": round(total - load - prefill - decode, 6), "load": load, "prefill": prefill, "decode": decode}


def took(*, queue: float = 0, load: float = 0, prefill: float = 0.25, decode: float = 0.5) -> Any:
    """Return what `stages` ought to be."""
    return pytest.approx({"queue": queue, "load": load, "prefill": prefill, "decode": decode}, abs=1e-6)


async def expires(engine: FaultyEngine, model: str = "llama3.1:latest") -> float:
    """Return when a model will be unloaded, by the loop's clock."""
    runner = next(runner for runner in await engine.loaded() if runner.model.full_name == model)
    assert runner.expires_ns is not None
    return runner.expires_ns / SECOND


def test_the_words_are_known_beforehand() -> None:
    """The text belongs to the model's name, a longer answer begins as a shorter one, and words are not tokens."""
    assert LLAMA.answer(40).startswith(LLAMA.answer(20))
    assert LLAMA.answer() == ScriptedModel("llama3.1:latest", length=100).answer()
    assert LLAMA.answer(40) != QWEN.answer(40)
    assert len(LLAMA.tokens(40)) == 40
    assert 0 < len(LLAMA.answer(40).split()) < 40
    assert ScriptedModel("x", text="Say it  again\nnow").tokens() == ("Say", " it", "  again", "\nnow")
    assert len(QWEN.tokens(-1)) == QWEN.length


def test_durations_are_exact_and_a_chunk_is_a_token() -> None:
    """Load, prefill and 26 tokens at 50 a second take what the model says, on both clocks."""

    async def program() -> None:
        scripted = engine()
        began = now()
        lines, moments = [], []
        async for line in stream(scripted):
            lines.append(line)
            moments.append(now() - began)
        *chunks, last = lines
        assert moments[:-1] == pytest.approx([2.25 + index / PACE for index in range(26)])
        assert tuple(chunk["response"] for chunk in chunks if isinstance(chunk, dict)) == LLAMA.tokens(26)
        assert isinstance(last, dict)
        assert (last["eval_count"], last["done_reason"]) == (26, "length")
        assert stages(last) == took(load=2)
        assert "load_duration" not in (again := await final(scripted)), "zero is left out"
        assert stages(again) == took()
        assert (await final(scripted, num_predict=-1))["done_reason"] == "stop"

    simulate(program)


def test_a_late_token_is_made_up_for() -> None:
    """Deadlines are absolute: a reader that once was slow gets the rest sooner, not later."""

    async def program() -> None:
        began, count = now(), 0
        async for _ in stream(engine()):
            count += 1
            if count == 5:
                await asyncio.sleep(0.2)
        assert now() - began == pytest.approx(2 + 0.25 + 25 / PACE)

    simulate(program)


def test_waiting_for_a_slot_is_in_the_total_alone() -> None:
    """The second of two requests waits for the first, and only total_duration knows."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        first, second = await asyncio.gather(final(scripted), final(scripted))
        assert stages(first) == took()
        assert stages(second) == took(queue=0.75)
        wide = engine(num_parallel=2)
        await generate(wide, prompt="")
        both = await asyncio.gather(final(wide), final(wide))
        assert [stages(each) for each in both] == [took(), took()]

    simulate(program)


def test_a_request_joins_a_load_in_progress() -> None:
    """A user is 1.5 s into loading: ours takes the last half second, and the model is loaded once."""

    async def program() -> None:
        scripted = engine()
        scripted.other_client()
        await asyncio.sleep(1.5)
        assert await scripted.loaded() == [], "not listed while it loads"
        began = now()
        assert (await final(scripted, prompt=""))["done_reason"] == "load"
        assert now() - began == pytest.approx(0.5)
        assert scripted.loads == 1

    simulate(program)


def test_another_num_ctx_reloads_after_the_others_have_ended() -> None:
    """The wait for the running request and the load are both in load_duration; the same or none is no reload."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        await generate(scripted, num_ctx=4096)
        assert scripted.loads == 1
        both = await asyncio.gather(final(scripted), final(scripted, num_ctx=8192))
        assert stages(both[1]) == took(load=0.75 + 2)
        assert [runner.context_length for runner in await scripted.loaded()] == [8192]
        await generate(scripted, num_ctx=8192, num_thread=1)
        assert scripted.loads == 3
        await generate(scripted)
        assert scripted.loads == 4, "none after an explicit one is another"
        await generate(scripted, num_ctx=10**6)
        assert [runner.context_length for runner in await scripted.loaded()] == [LLAMA.context_length]

    simulate(program)


def test_the_timer_is_armed_when_a_request_ends_and_rests_while_one_runs() -> None:
    """Five minutes after the end, by the session's own keep_alive, which a request without one leaves alone."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        armed = await expires(scripted)
        assert armed == pytest.approx(now() + 300)
        await asyncio.sleep(10)
        async for _ in stream(scripted):
            assert await expires(scripted) == armed
        assert await expires(scripted) == pytest.approx(now() + 300)
        await scripted.other_client(tokens=5, keep_alive="47m")
        await generate(scripted)
        assert await expires(scripted) == pytest.approx(now() + 47 * 60)
        await generate(scripted, keep_alive="3m")
        assert await expires(scripted) == pytest.approx(now() + 180)
        await asyncio.sleep(179)
        assert len(await scripted.loaded()) == 1
        await asyncio.sleep(2)
        assert await scripted.loaded() == []

    simulate(program)


def test_a_user_queued_at_our_end_shows_in_the_timer() -> None:
    """Somebody waits when ours ends: the timer has not moved since our load, so it is short by our whole request."""

    async def program() -> None:
        scripted = engine()
        (load,) = await generate(scripted, prompt="")
        armed = await expires(scripted) - datetime.fromisoformat(load["created_at"]).timestamp()
        scripted.other_client(seconds=3, after_seconds=0.5)
        line = await final(scripted)
        assert stages(line) == took()
        ended = datetime.fromisoformat(line["created_at"]).timestamp()
        assert await expires(scripted) - ended == pytest.approx(armed - 0.75)
        await scripted.close()

    simulate(program)


def test_a_user_ahead_of_us_shows_in_the_queue_alone() -> None:
    """Somebody who ended inside our probe leaves the timer as it would be, and a queue."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        scripted.other_client(seconds=0.552)
        await asyncio.sleep(0.002)
        line = await final(scripted)
        assert stages(line) == took(queue=0.55)
        assert await expires(scripted) == pytest.approx(now() + 300)

    simulate(program)


def test_unloading_waits_for_the_running_request() -> None:
    """`keep_alive: 0` from somebody else: the answer ends whole, then the model goes."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        running = asyncio.create_task(final(scripted))
        await asyncio.sleep(0.5)
        await scripted.expire(LLAMA)
        assert len(await scripted.loaded()) == 1
        assert (await running)["eval_count"] == 26
        assert await scripted.loaded() == []

    simulate(program)


def test_loading_evicts_an_idle_model_and_waits_for_a_busy_one() -> None:
    """With room for one, a load takes the place of the other as soon as nobody uses it."""

    async def program() -> None:
        scripted = engine(LLAMA, QWEN, max_loaded_models=1)
        await generate(scripted)
        running = asyncio.create_task(final(scripted))
        await asyncio.sleep(0)
        other = await final(scripted, "qwen3:8b")
        assert running.done()
        assert stages(other) == took(load=0.75 + 2)
        assert [runner.model.name for runner in await scripted.loaded()] == ["qwen3:8b"]

    simulate(program)


def test_leaving_early_frees_the_slot_and_the_load() -> None:
    """A client that goes in the middle, or while the model loads, is not waited for."""

    async def program() -> None:
        scripted = engine()
        loading = asyncio.create_task(generate(scripted))
        await asyncio.sleep(1)
        loading.cancel()
        assert stages(await final(scripted)) == took(load=2)
        lines = stream(scripted)
        await anext(lines)
        await lines.aclose()  # type: ignore[attr-defined]
        assert stages(await final(scripted)) == took()

    simulate(program)


def test_thinking_counts_as_output() -> None:
    """Thinking comes first, in a field of its own, and only where it is wanted or cannot be helped."""

    async def program() -> None:
        thinker = ScriptedModel("deepseek-r1", thinking_ratio=0.5)
        scripted = engine(thinker)
        found = scripted.find("deepseek-r1")
        assert found
        assert "thinking" in found.capabilities
        lines = await generate(scripted, "deepseek-r1", think=True)
        thoughts = [line["thinking"] for line in lines if "thinking" in line]
        assert tuple(thoughts) == thinker.tokens(13)
        assert [line["response"] for line in lines[:13]] == [""] * 13
        assert lines[-1]["eval_count"] == 26
        assert not any("thinking" in line for line in await generate(scripted, "deepseek-r1"))
        scripted.inject(Fault(FaultKind.THINKING))
        assert sum("thinking" in line for line in await generate(scripted, "deepseek-r1")) == 13

    simulate(program)


def test_a_drop_begins_at_its_time() -> None:
    """From 0.25 s into decoding the pace is a third, until the fault has lasted its time."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        scripted.inject(Fault(FaultKind.SLOW, after_seconds=0.49, seconds=10))
        assert stages(await final(scripted)) == took(decode=13 / PACE + 12 * 3 / PACE)
        assert stages(await final(scripted)) == took(prefill=0.75, decode=1.5)
        await asyncio.sleep(10)
        assert stages(await final(scripted)) == took()

    simulate(program)


def test_a_drop_after_tokens_goes_on_in_the_next_request() -> None:
    """A lasting fault begins in the first request that comes so far; `end` ends it."""

    async def program() -> None:
        scripted = engine(LLAMA, QWEN)
        await asyncio.gather(generate(scripted, prompt=""), generate(scripted, "qwen3:8b", prompt=""))
        fault = scripted.inject(Fault(FaultKind.SLOW, "llama3.1", after_tokens=16, factor=0.5))
        assert stages(await final(scripted, num_predict=10)) == took(decode=9 / PACE)
        assert stages(await final(scripted)) == took(decode=15 / PACE + 10 * 2 / PACE)
        assert stages(await final(scripted, num_predict=10)) == took(prefill=0.5, decode=9 * 2 / PACE)
        assert stages(await final(scripted, "qwen3:8b")) == took(), "another model is left alone"
        fault.end()
        assert stages(await final(scripted)) == took()

    simulate(program)


@pytest.mark.parametrize(
    ("fault", "share", "pace"),
    [
        (Fault(FaultKind.CPU), 0.0, CPU_RATE_SHARE),
        (Fault(FaultKind.CPU_HIDDEN), 1.0, CPU_RATE_SHARE),
        (Fault(FaultKind.PARTIAL_OFFLOAD, factor=0.5), 0.5, 1 / (0.5 + 0.5 / CPU_RATE_SHARE)),
    ],
)
def test_leaving_the_gpu_shows_in_the_pace_and_perhaps_in_the_claim(fault: Fault, share: float, pace: float) -> None:
    """The pace falls each time; what `/api/ps` claims need not."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        scripted.inject(fault)
        assert stages(await final(scripted)) == took(prefill=0.25 / pace, decode=0.5 / pace)
        found = scripted.find("llama3.1")
        assert found
        size, size_vram = found.resident_bytes()
        assert size_vram / size == pytest.approx(share)

    simulate(program)


def test_a_dead_model_is_listed_fails_what_runs_and_is_reloaded_next() -> None:
    """The runner dies 10 tokens into a request."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        scripted.inject(Fault(FaultKind.DEAD_MODEL, after_tokens=10))
        lines = stream(scripted)
        for _ in range(10):
            await anext(lines)
        with pytest.raises(OllamaError, match="unexpected EOF"):
            await anext(lines)
        assert len(await scripted.loaded()) == 1
        assert stages(await final(scripted)) == took(load=2)
        assert stages(await final(scripted)) == took()

    simulate(program)


def test_loads_by_scenes() -> None:
    """Cold: each request loads. For ever: until the fault ends. Out of memory: refused, as often as said."""

    async def program() -> None:
        scripted = engine()
        cold = scripted.inject(Fault(FaultKind.COLD))
        await generate(scripted, prompt="")
        assert await scripted.loaded() == []
        assert stages(await final(scripted)) == took(load=2)
        assert await scripted.loaded() == []
        cold.end()
        scripted.inject(Fault(FaultKind.LOAD_FOREVER, seconds=600))
        assert stages(await final(scripted)) == took(load=600 + 2)
        await asyncio.sleep(301)
        scripted.inject(Fault(FaultKind.OUT_OF_MEMORY, times=1, text="hipMalloc failed"))
        with pytest.raises(OllamaError, match="500 hipMalloc failed"):
            await generate(scripted, prompt="")
        await generate(scripted, prompt="")

    simulate(program)


def test_a_busy_neighbour_holds_the_slot_for_its_time() -> None:
    """At a time of the loop's, or at a token of ours; the fault's end sends the other_client home."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        scripted.inject(Fault(FaultKind.BUSY, seconds=4))
        await asyncio.sleep(1)
        assert stages(await final(scripted)) == took(queue=3)
        scripted.inject(Fault(FaultKind.BUSY, after_tokens=20, seconds=0.1))
        assert stages(await final(scripted)) == took()
        assert stages(await final(scripted)) == took(queue=0.1)
        wide = engine(num_parallel=2)
        wide.inject(Fault(FaultKind.BUSY, seconds=9))
        await final(wide)
        assert stages(await final(wide)) == took(), "one other_client in all"
        endless = scripted.inject(Fault(FaultKind.BUSY))
        await asyncio.sleep(100)
        endless.end()
        assert stages(await final(scripted)) == took()

    simulate(program)


def test_a_stall_moves_the_rest_of_the_stream() -> None:
    """What the fault held up comes after it at the model's own pace; it lasts from the token that it waited for."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        scripted.inject(Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=10, seconds=7.45))
        assert stages(await final(scripted)) == took(decode=0.5 + 7.45)

    simulate(program)


@pytest.mark.parametrize(
    ("kind", "durations"),
    [
        (FaultKind.ZERO_DURATIONS, lambda true: 0 * true),
        (FaultKind.NEGATIVE_DURATIONS, lambda true: -true),
        (FaultKind.ABSURD_DURATIONS, lambda _: 2**63 - 1),
        (FaultKind.NO_DURATIONS, lambda _: None),
    ],
)
def test_durations_that_no_clock_measured(kind: FaultKind, durations: Callable[[int], int | None]) -> None:
    """The final line's durations are zero, negative, absurd or left out; counts stay true; once, if so said."""

    async def program() -> None:
        scripted = engine()
        await generate(scripted, prompt="")
        scripted.inject(Fault(kind, times=1))
        odd, good = await final(scripted), await final(scripted)
        assert stages(good) == took()
        for key in ("total_duration", "prompt_eval_duration", "eval_duration"):
            assert odd.get(key) == durations(good[key])
        assert odd["eval_count"] == good["eval_count"]

    simulate(program)


def test_wall_clock_moments_are_as_go_prints_them() -> None:
    """Nine decimals at most, without trailing zeros."""
    assert rfc3339(1_795_532_847_000_000_000) == "2026-11-24T15:07:27Z"
    assert rfc3339(1_795_532_847_120_000_000) == "2026-11-24T15:07:27.12Z"
    assert rfc3339(1_795_532_847_000_000_001) == "2026-11-24T15:07:27.000000001Z"


LINES = {  # how many lines of a 24-token answer come, of the faults that let it end
    FaultKind.SLOW: 25,
    FaultKind.CPU: 25,
    FaultKind.CPU_HIDDEN: 25,
    FaultKind.PARTIAL_OFFLOAD: 25,
    FaultKind.COLD: 25,
    FaultKind.BUSY: 25,
    FaultKind.THINKING: 25,
    FaultKind.CLOUD: 25,
    FaultKind.DONE_TWICE: 26,
    FaultKind.JUNK_LINE: 26,
    FaultKind.LONG_LINE: 26,
    FaultKind.ERROR_LINE: 9,
    FaultKind.NO_DONE: 8,
    FaultKind.ZERO_DURATIONS: 25,
    FaultKind.NO_DURATIONS: 25,
    FaultKind.NEGATIVE_DURATIONS: 25,
    FaultKind.ABSURD_DURATIONS: 25,
    FaultKind.UNKNOWN_DONE_REASON: 25,
    FaultKind.DEAD_MODEL: 25,
}
REFUSED = {
    FaultKind.OUT_OF_MEMORY: (500, "out of memory"),
    FaultKind.UNAUTHORIZED: (401, ""),
    FaultKind.FORBIDDEN: (403, ""),
    FaultKind.SERVER_BUSY: (503, "server busy, please try again.  maximum pending requests exceeded"),
    FaultKind.EMBEDDING_ONLY: (400, '\\"llama3.1\\" does not support generate'),
}
BROKEN = {FaultKind.CUT: httpx.ReadError, FaultKind.HALF_CLOSED: httpx.RemoteProtocolError}
HANGING = {FaultKind.STALL_BEFORE_FIRST_TOKEN, FaultKind.STALL_IN_THE_MIDDLE, FaultKind.LOAD_FOREVER, FaultKind.TRICKLE}
IN_THE_MIDDLE = {*BROKEN, FaultKind.ERROR_LINE, FaultKind.NO_DONE, FaultKind.STALL_IN_THE_MIDDLE}


def staged(kind: FaultKind) -> Fault:
    """Return a fault for the tests over HTTP."""
    factor = {FaultKind.LONG_LINE: 2e6, FaultKind.ENDLESS_HEADERS: 0}.get(kind)
    seconds = 0.1 if kind is FaultKind.BUSY else None
    return Fault(kind, after_tokens=8 if kind in IN_THE_MIDDLE else 0, factor=factor, seconds=seconds)


@pytest.fixture
async def wire() -> AsyncIterator[tuple[FaultyEngine, httpx.AsyncClient]]:
    """Return a fast model behind the embedded server, and a client."""
    model = ScriptedModel(tokens_per_second=10_000, prefill_seconds=0, load_seconds=0)
    scripted = FaultyEngine([model])
    async with (
        OllamaServer(scripted) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20, verify=False) as client,
    ):
        yield scripted, client


async def post(client: httpx.AsyncClient) -> tuple[int, list[str]]:
    """Generate 24 tokens over HTTP."""
    body = {"model": "llama3.1", "prompt": "Why?", "options": {"num_predict": 24}}
    answer = await client.post("/api/generate", json=body)
    return answer.status_code, answer.text.splitlines()


def test_every_scene_is_played() -> None:
    """The tests below know each kind."""
    assert {*LINES, *REFUSED, *BROKEN, *HANGING, FaultKind.ENDLESS_HEADERS} == set(FaultKind)


@pytest.mark.parametrize("kind", LINES)
async def test_scenes_that_let_the_stream_end(wire: tuple[FaultyEngine, httpx.AsyncClient], kind: FaultKind) -> None:
    """HTTP 200 and a clean end, whatever the lines say; and the next request is as ever."""
    scripted, client = wire
    fault = scripted.inject(staged(kind))
    status, lines = await post(client)
    assert (status, len(lines)) == (200, LINES[kind])
    if kind is FaultKind.UNKNOWN_DONE_REASON:
        assert json.loads(lines[-1])["done_reason"] == "tired"
    if kind is FaultKind.CLOUD:
        assert json.loads(lines[0])["remote_host"]
    if kind is FaultKind.LONG_LINE:
        assert len(lines[0]) > 2_000_000
    if kind is FaultKind.JUNK_LINE:
        assert lines[0].startswith("<html>")
    fault.end()
    assert len((await post(client))[1]) == 25


@pytest.mark.parametrize("kind", REFUSED)
async def test_scenes_that_refuse(wire: tuple[FaultyEngine, httpx.AsyncClient], kind: FaultKind) -> None:
    """The status and the words are Ollama's."""
    scripted, client = wire
    fault = scripted.inject(staged(kind))
    status, lines = await post(client)
    assert status == REFUSED[kind][0]
    assert REFUSED[kind][1] in "".join(lines)
    fault.end()
    assert (await post(client))[0] == 200


@pytest.mark.parametrize("kind", BROKEN)
async def test_scenes_that_break_the_connection(wire: tuple[FaultyEngine, httpx.AsyncClient], kind: FaultKind) -> None:
    """A reset and a half close are two different errors to a client."""
    scripted, client = wire
    fault = scripted.inject(staged(kind))
    with pytest.raises(BROKEN[kind]):
        await post(client)
    fault.end()
    assert (await post(client))[0] == 200


@pytest.mark.parametrize("kind", sorted(HANGING))
async def test_scenes_that_hang_until_they_end(wire: tuple[FaultyEngine, httpx.AsyncClient], kind: FaultKind) -> None:
    """No end comes while the fault lasts, and a whole answer after it (or for a client that asks again)."""
    scripted, client = wire
    fault = scripted.inject(staged(kind))
    request = asyncio.create_task(post(client))
    done, _ = await asyncio.wait([request], timeout=0.1)
    assert not done
    fault.end()
    if kind is FaultKind.TRICKLE:  # the line that has begun goes on trickling
        request.cancel()
        request = asyncio.create_task(post(client))
    status, lines = await request
    assert (status, len(lines)) == (200, 25)


async def test_headers_that_never_end(wire: tuple[FaultyEngine, httpx.AsyncClient]) -> None:
    """A client gives up at its own limit, and is not followed."""
    scripted, client = wire
    fault = scripted.inject(staged(FaultKind.ENDLESS_HEADERS))
    with pytest.raises(httpx.RemoteProtocolError):
        await post(client)
    fault.end()
    assert (await post(client))[0] == 200


async def test_a_path_can_be_left_unanswered(wire: tuple[FaultyEngine, httpx.AsyncClient]) -> None:
    """A stall with a path is that path's: `/api/ps` hangs, generating does not."""
    scripted, client = wire
    fault = scripted.inject(Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN, path="/api/ps"))
    request = asyncio.create_task(client.get("/api/ps"))
    assert (await post(client))[0] == 200
    assert not request.done()
    fault.end()
    assert (await request).status_code == 200
