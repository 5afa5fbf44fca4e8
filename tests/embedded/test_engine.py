"""The scheduler: loads, reloads, slots and keep-alive timers, in simulated time."""

import asyncio
from datetime import datetime

import pytest
from support.generation import (
    LLAMA,
    QWEN,
    expires_at,
    final,
    generate,
    make_engine,
    now,
    simulate,
    stages,
    stream,
    took,
)


def test_only_the_total_includes_the_wait_for_a_slot() -> None:
    """The second of two requests waits for the first; with two slots none waits."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        first, second = await asyncio.gather(final(engine), final(engine))
        assert stages(first) == took()
        assert stages(second) == took(queue=0.75)
        parallel = make_engine(num_parallel=2)
        await generate(parallel, prompt="")
        both = await asyncio.gather(final(parallel), final(parallel))
        assert [stages(each) for each in both] == [took(), took()]

    simulate(program)


def test_a_request_joins_a_load_in_progress() -> None:
    """Another client is 1.5 s into loading: ours waits for the last half second, and the model is loaded once."""

    async def program() -> None:
        engine = make_engine()
        engine.other_client()
        await asyncio.sleep(1.5)
        assert await engine.loaded() == [], "not listed while it loads"
        began = now()
        assert (await final(engine, prompt=""))["done_reason"] == "load"
        assert now() - began == pytest.approx(0.5)
        assert engine.loads == 1
        await engine.close()

    simulate(program)


def test_another_num_ctx_reloads_after_running_requests() -> None:
    """load_duration includes the wait for the running request and the load. The same num_ctx does not reload."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        await generate(engine, num_ctx=4096)
        assert engine.loads == 1
        both = await asyncio.gather(final(engine), final(engine, num_ctx=8192))
        assert stages(both[1]) == took(load=0.75 + 2)
        assert [runner.context_length for runner in await engine.loaded()] == [8192]
        await generate(engine, num_ctx=8192, num_thread=1)
        assert engine.loads == 3
        await generate(engine)
        assert engine.loads == 4, "without num_ctx after an explicit one"
        await generate(engine, num_ctx=10**6)
        assert [runner.context_length for runner in await engine.loaded()] == [LLAMA.context_length]

    simulate(program)


def test_the_keep_alive_timer_starts_when_the_last_request_ends() -> None:
    """It lasts 300 s or the latest keep_alive of a request, and does not move while a request runs."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        expires = await expires_at(engine)
        assert expires == pytest.approx(now() + 300)
        await asyncio.sleep(10)
        async for _ in stream(engine):
            assert await expires_at(engine) == expires
        assert await expires_at(engine) == pytest.approx(now() + 300)
        await engine.other_client(tokens=5, keep_alive="47m")
        await generate(engine)
        assert await expires_at(engine) == pytest.approx(now() + 47 * 60)
        await generate(engine, keep_alive="3m")
        assert await expires_at(engine) == pytest.approx(now() + 180)
        await asyncio.sleep(179)
        assert len(await engine.loaded()) == 1
        await asyncio.sleep(2)
        assert await engine.loaded() == []

    simulate(program)


def test_the_timer_shows_a_client_that_waits_at_the_end_of_ours() -> None:
    """It has not moved since our load, so it is short by our whole request."""

    async def program() -> None:
        engine = make_engine()
        (load,) = await generate(engine, prompt="")
        remaining = await expires_at(engine) - datetime.fromisoformat(load["created_at"]).timestamp()
        engine.other_client(seconds=3, after_seconds=0.5)
        line = await final(engine)
        assert stages(line) == took()
        ended = datetime.fromisoformat(line["created_at"]).timestamp()
        assert await expires_at(engine) - ended == pytest.approx(remaining - 0.75)
        await engine.close()

    simulate(program)


def test_only_the_queue_shows_a_client_before_us() -> None:
    """A client that ended during our request leaves the timer unchanged."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        engine.other_client(seconds=0.552)
        await asyncio.sleep(0.002)
        line = await final(engine)
        assert stages(line) == took(queue=0.55)
        assert await expires_at(engine) == pytest.approx(now() + 300)

    simulate(program)


def test_unloading_waits_for_the_running_request() -> None:
    """`keep_alive: 0` from another client: the answer is complete, then the model is unloaded."""

    async def program() -> None:
        engine = make_engine()
        await generate(engine, prompt="")
        running = asyncio.create_task(final(engine))
        await asyncio.sleep(0.5)
        await engine.expire(LLAMA)
        assert len(await engine.loaded()) == 1
        assert (await running)["eval_count"] == 26
        assert await engine.loaded() == []

    simulate(program)


def test_a_load_evicts_an_idle_model_and_waits_for_a_busy_one() -> None:
    """With max_loaded_models 1, a load replaces the other model when its requests have ended."""

    async def program() -> None:
        engine = make_engine(LLAMA, QWEN, max_loaded_models=1)
        await generate(engine)
        running = asyncio.create_task(final(engine))
        await asyncio.sleep(0)
        other = await final(engine, "qwen3:8b")
        assert running.done()
        assert stages(other) == took(load=0.75 + 2)
        assert [runner.model.name for runner in await engine.loaded()] == ["qwen3:8b"]

    simulate(program)


def test_a_client_that_disconnects_frees_its_slot_or_load() -> None:
    """The next request does not wait for a client that left while loading or in the middle of its answer."""

    async def program() -> None:
        engine = make_engine()
        loading = asyncio.create_task(generate(engine))
        await asyncio.sleep(1)
        loading.cancel()
        assert stages(await final(engine)) == took(load=2)
        lines = stream(engine)
        await anext(lines)
        await lines.aclose()  # type: ignore[attr-defined]
        assert stages(await final(engine)) == took()

    simulate(program)
