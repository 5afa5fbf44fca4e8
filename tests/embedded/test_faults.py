"""The faults of `support.faulty_ollama`, in simulated time: their effects on durations and on the scheduler."""

import asyncio
from collections.abc import Callable

import pytest
from support.faults import Fault, FaultKind
from support.generation import LLAMA, QWEN, RATE, final, generate, make_engine, simulate, stages, stream, took

from exporter.embedded.scripted import CPU_RATE_SHARE, ScriptedModel
from exporter.embedded.values import OllamaError


def test_a_drop_begins_and_ends_at_its_time() -> None:
    """From the 13th token on the rate is a third, until `seconds` have passed."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        engine.inject(Fault(FaultKind.SLOW, after_seconds=0.49, seconds=10))
        assert stages(await final(engine)) == took(decode=13 / RATE + 12 * 3 / RATE)
        assert stages(await final(engine)) == took(prefill=0.75, decode=1.5)
        await asyncio.sleep(10)
        assert stages(await final(engine)) == took()

    simulate(program)


def test_a_drop_after_tokens_continues_in_the_next_request() -> None:
    """A lasting fault begins in the first request that has generated its `after_tokens`; `end` ends it."""

    async def program() -> None:
        engine = make_engine(LLAMA, QWEN)
        await asyncio.gather(generate(engine, prompt=""), generate(engine, "qwen3:8b", prompt=""))
        fault = engine.inject(Fault(FaultKind.SLOW, "llama3.1", after_tokens=16, factor=0.5))
        assert stages(await final(engine, num_predict=10)) == took(decode=9 / RATE)
        assert stages(await final(engine)) == took(decode=15 / RATE + 10 * 2 / RATE)
        assert stages(await final(engine, num_predict=10)) == took(prefill=0.5, decode=9 * 2 / RATE)
        assert stages(await final(engine, "qwen3:8b")) == took(), "another model is not affected"
        fault.end()
        assert stages(await final(engine)) == took()

    simulate(program)


@pytest.mark.parametrize(
    ("kind", "factor", "gpu_share", "rate_share"),
    [
        (FaultKind.CPU, None, 0.0, CPU_RATE_SHARE),
        (FaultKind.CPU_HIDDEN, None, 1.0, CPU_RATE_SHARE),
        (FaultKind.PARTIAL_OFFLOAD, 0.5, 0.5, 1 / (0.5 + 0.5 / CPU_RATE_SHARE)),
    ],
)
def test_a_model_on_the_cpu_is_slow(kind: FaultKind, factor: float | None, gpu_share: float, rate_share: float) -> None:
    """The rate drops in each case; CPU_HIDDEN does not change what `/api/ps` reports."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        engine.inject(Fault(kind, factor=factor))
        assert stages(await final(engine)) == took(prefill=0.25 / rate_share, decode=0.5 / rate_share)
        found = engine.find("llama3.1")
        assert found
        size, size_vram = found.resident_bytes()
        assert size_vram / size == pytest.approx(gpu_share)

    simulate(program)


def test_a_dead_model_is_listed_fails_requests_and_is_reloaded() -> None:
    """The runner dies after 10 tokens of a request."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        engine.inject(Fault(FaultKind.DEAD_MODEL, after_tokens=10))
        lines = stream(engine)
        for _ in range(10):
            await anext(lines)
        with pytest.raises(OllamaError, match="unexpected EOF"):
            await anext(lines)
        assert len(await engine.loaded()) == 1
        assert stages(await final(engine)) == took(load=2)
        assert stages(await final(engine)) == took()

    simulate(program)


def test_a_cold_model_is_loaded_by_each_request() -> None:
    """It is unloaded as soon as it is idle."""

    async def program() -> None:
        engine = make_engine()
        engine.inject(Fault(FaultKind.COLD))
        await generate(engine, prompt="")
        assert await engine.loaded() == []
        assert stages(await final(engine)) == took(load=2)
        assert await engine.loaded() == []

    simulate(program)


def test_a_load_without_end_ends_with_its_fault() -> None:
    """Loading waits for the end of the fault and then takes its usual time."""

    async def program() -> None:
        engine = make_engine()
        engine.inject(Fault(FaultKind.LOAD_FOREVER, seconds=600))
        assert stages(await final(engine)) == took(load=600 + 2)

    simulate(program)


def test_a_load_without_memory_fails_as_often_as_configured() -> None:
    """With `times=1` the second load succeeds."""

    async def program() -> None:
        engine = make_engine()
        engine.inject(Fault(FaultKind.OUT_OF_MEMORY, times=1, text="hipMalloc failed"))
        with pytest.raises(OllamaError, match="500 hipMalloc failed"):
            await generate(engine, prompt="")
        await generate(engine, prompt="")

    simulate(program)


def test_another_client_holds_the_slot_for_its_time() -> None:
    """BUSY starts it at a time or at a token of ours; the end of the fault cancels it."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        engine.inject(Fault(FaultKind.BUSY, seconds=4))
        await asyncio.sleep(1)
        assert stages(await final(engine)) == took(queue=3)
        engine.inject(Fault(FaultKind.BUSY, after_tokens=20, seconds=0.1))
        assert stages(await final(engine)) == took()
        assert stages(await final(engine)) == took(queue=0.1)
        parallel = make_engine(num_parallel=2)
        parallel.inject(Fault(FaultKind.BUSY, seconds=9))
        await final(parallel)
        assert stages(await final(parallel)) == took(), "one other client in all"
        endless = engine.inject(Fault(FaultKind.BUSY))
        await asyncio.sleep(100)
        endless.end()
        assert stages(await final(engine)) == took()

    simulate(program)


def test_a_stall_delays_the_rest_of_the_stream() -> None:
    """It lasts from the token it waits for, and the tokens after it come at the model's rate."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        engine.inject(Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=10, seconds=7.45))
        assert stages(await final(engine)) == took(decode=0.5 + 7.45)

    simulate(program)


def test_a_model_can_be_made_to_think() -> None:
    """Half of the tokens are thinking, although the request does not enable it."""

    async def program() -> None:
        engine = make_engine(ScriptedModel())
        engine.inject(Fault(FaultKind.THINKING))
        assert sum("thinking" in line for line in await generate(engine)) == 13

    simulate(program)


@pytest.mark.parametrize(
    ("kind", "distorted"),
    [
        (FaultKind.ZERO_DURATIONS, lambda true: 0 * true),
        (FaultKind.NEGATIVE_DURATIONS, lambda true: -true),
        (FaultKind.ABSURD_DURATIONS, lambda _: 2**63 - 1),
        (FaultKind.NO_DURATIONS, lambda _: None),
    ],
)
def test_durations_of_one_answer_are_distorted(kind: FaultKind, distorted: Callable[[int], int | None]) -> None:
    """The final line's durations are zero, negative, absurd or left out; counts stay correct."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        engine.inject(Fault(kind, times=1))
        faulty, good = await final(engine), await final(engine)
        assert stages(good) == took()
        for key in ("total_duration", "prompt_eval_duration", "eval_duration"):
            assert faulty.get(key) == distorted(good[key])
        assert faulty["eval_count"] == good["eval_count"]

    simulate(program)
