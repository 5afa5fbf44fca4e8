"""The scripted engine: its answers are known in advance, and its durations are exact."""

import asyncio

import pytest
from support.generation import (
    LLAMA,
    QWEN,
    RATE,
    clock,
    final,
    generate,
    make_engine,
    now,
    simulate,
    stages,
    stream,
    took,
)

from exporter.embedded.scripted import CPU_RATE_SHARE, OffloadingEngine, ScriptedModel


def test_answers_are_known_in_advance() -> None:
    """The model's name determines the text, a longer answer starts like a shorter one, and words are not tokens."""
    assert LLAMA.answer(40).startswith(LLAMA.answer(20))
    assert LLAMA.answer() == ScriptedModel("llama3.1:latest", length=100).answer()
    assert LLAMA.answer(40) != QWEN.answer(40)
    assert len(LLAMA.tokens(40)) == 40
    assert 0 < len(LLAMA.answer(40).split()) < 40
    assert ScriptedModel("x", text="Say it  again\nnow").tokens() == ("Say", " it", "  again", "\nnow")
    assert len(QWEN.tokens(-1)) == QWEN.length


def test_a_model_with_a_thinking_ratio_can_think() -> None:
    """The ratio implies the capability."""
    assert ScriptedModel("r1", thinking_ratio=0.5).capabilities == ("completion", "thinking")
    assert LLAMA.capabilities == ("completion",)


def test_part_of_a_model_on_the_cpu_sets_its_rate() -> None:
    """Each token takes the time of both parts, and `/api/ps` reports the share."""
    half = LLAMA.with_gpu_share(0.5)
    slowdown = 0.5 + 0.5 / CPU_RATE_SHARE
    assert half.tokens_per_second == pytest.approx(RATE / slowdown)
    assert half.prefill_seconds == pytest.approx(0.25 * slowdown)
    size, size_vram = half.resident_bytes()
    assert size_vram / size == pytest.approx(0.5)
    assert LLAMA.with_gpu_share(1.0) == LLAMA


def test_durations_are_exact_and_a_line_is_a_token() -> None:
    """Load, prefill and 26 tokens at 50 a second take what the model says, on both clocks."""

    async def program() -> None:
        engine = make_engine()
        began = now()
        lines, times = [], []
        async for line in stream(engine):
            lines.append(line)
            times.append(now() - began)
        *chunks, last = lines
        assert times[:-1] == pytest.approx([2.25 + index / RATE for index in range(26)])
        assert tuple(chunk["response"] for chunk in chunks if isinstance(chunk, dict)) == LLAMA.tokens(26)
        assert isinstance(last, dict)
        assert (last["eval_count"], last["done_reason"]) == (26, "length")
        assert stages(last) == took(load=2)
        assert "load_duration" not in (again := await final(engine)), "zero is left out"
        assert stages(again) == took()
        assert (await final(engine, num_predict=-1))["done_reason"] == "stop"

    simulate(program)


def test_a_slow_reader_does_not_delay_later_tokens() -> None:
    """Due times are absolute: after a pause of the reader, the tokens that are due come at once."""

    async def program() -> None:
        began, count = now(), 0
        async for _ in stream(make_engine()):
            count += 1
            if count == 5:
                await asyncio.sleep(0.2)
        assert now() - began == pytest.approx(2 + 0.25 + 25 / RATE)

    simulate(program)


def test_thinking_counts_as_output() -> None:
    """Thinking comes first, in its own field, and only if it is requested."""

    async def program() -> None:
        thinker = ScriptedModel("deepseek-r1", thinking_ratio=0.5)
        engine = make_engine(thinker)
        lines = await generate(engine, "deepseek-r1", think=True)
        thoughts = [line["thinking"] for line in lines if "thinking" in line]
        assert tuple(thoughts) == thinker.tokens(13)
        assert [line["response"] for line in lines[:13]] == [""] * 13
        assert lines[-1]["eval_count"] == 26
        assert not any("thinking" in line for line in await generate(engine, "deepseek-r1"))

    simulate(program)


def test_a_model_that_always_thinks_ignores_the_request() -> None:
    """Thinking cannot be disabled."""

    async def program() -> None:
        engine = make_engine(ScriptedModel(thinking_ratio=0.5, always_thinks=True))
        assert sum("thinking" in line for line in await generate(engine)) == 13

    simulate(program)


def test_an_offloading_engine_drops_at_its_time() -> None:
    """From the given time on, also within an answer, the rate is the CPU's for a part of the model."""

    async def program() -> None:
        engine = OffloadingEngine([LLAMA], gpu_share=0.5, after_seconds=2 + 0.25 + 9.5 / RATE, clock=clock)
        slowdown = 0.5 + 0.5 / CPU_RATE_SHARE
        assert stages(await final(engine)) == took(load=2, decode=(10 + 15 * slowdown) / RATE)
        assert stages(await final(engine)) == took(prefill=0.25 * slowdown, decode=25 * slowdown / RATE)
        (model,) = engine.models()
        size, size_vram = model.resident_bytes()
        assert size_vram / size == pytest.approx(0.5)

    simulate(program)
