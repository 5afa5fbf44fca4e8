"""Loading a model for a probe and giving it back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import model_plan, target_plan
from support.readings import FULL

from exporter.embedded.protocol import OllamaServer
from exporter.errors import ProbeError, Reason, SkipReason
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, WhenUnloaded
from exporter.probing.loading import Load, give_back, is_unused, load_model, reason_to_skip
from exporter.reading import Answer, LoadedModel, Stages

MINUTES = timedelta(minutes=5)
MILLISECOND = timedelta(milliseconds=1)
LOADED_AT = datetime(2026, 1, 1, tzinfo=UTC)
ENDED_AT = LOADED_AT + timedelta(seconds=2)
STAGES = Stages(queue_seconds=0.005, load_seconds=0, prefill_seconds=0.1, decode_seconds=1)


@pytest.mark.parametrize(
    ("when_unloaded", "others", "reason"),
    [
        ("skip", False, SkipReason.UNLOADED),
        ("skip", True, SkipReason.UNLOADED),
        ("borrow", False, None),
        ("borrow", True, SkipReason.OCCUPIED),
        ("load", True, None),
    ],
)
def test_a_model_is_loaded_only_as_configured(
    when_unloaded: WhenUnloaded, others: bool, reason: SkipReason | None
) -> None:
    """`borrow` never evicts another model, `skip` never loads, `load` always does."""
    loaded = (LoadedModel(name="other"),) if others else ()

    assert reason_to_skip(model_plan(when_unloaded=when_unloaded), loaded) is reason


def unused(
    *,
    load_seconds: float = 0.5,
    loaded_at: datetime | None = LOADED_AT,
    before: datetime | None = LOADED_AT + MINUTES,
    ended_at: str | None = ENDED_AT.isoformat(),
    after: datetime | None = ENDED_AT + MINUTES,
    stages: Stages | None = STAGES,
    still_loaded: bool = True,
) -> bool:
    """Return `is_unused` for a probe that no other client disturbed, but for what is given."""
    answer = Answer(
        started_at=0,
        sent_at=0,
        ended_at=2,
        chunk_times=(),
        chunk_texts=(),
        final={"created_at": ended_at} if ended_at else None,
        thinking="",
        cut=False,
    )
    return is_unused(
        Load(seconds=load_seconds, created_at=loaded_at),
        answer,
        replace(FULL.figures, stages=stages),
        LoadedModel(name="m", expires_at=before),
        LoadedModel(name="m", expires_at=after) if still_loaded else None,
    )


def test_a_model_that_no_other_client_used_is_unused() -> None:
    """Its timer runs from the end of the probe, to 50 ms."""
    assert unused()
    assert unused(after=ENDED_AT + MINUTES + 49 * MILLISECOND)
    assert unused(after=ENDED_AT + MINUTES - 49 * MILLISECOND)


@pytest.mark.parametrize(
    "sign",
    [
        {"after": ENDED_AT + MINUTES + 51 * MILLISECOND},  # a request ended after the probe
        {"after": ENDED_AT + MINUTES - 51 * MILLISECOND},  # one was waiting or running
        {"stages": replace(STAGES, queue_seconds=0.55)},  # one ran before the probe's turn
        {"load_seconds": 0.007},  # another client was loading it already
        {"loaded_at": None},
        {"before": None},
        {"ended_at": None},
        {"ended_at": "soon"},
        {"after": None},
        {"stages": None},
        {"still_loaded": False},
    ],
)
def test_each_sign_of_another_client_is_enough(sign: dict[str, Any]) -> None:
    """So is each fact that is missing."""
    assert not unused(**sign)


async def test_a_load_is_timed() -> None:
    """Its time is that of the client, its `created_at` that of the server."""
    async with OllamaServer(FaultyEngine()) as server, OllamaClient(target_plan(server.url)) as client:
        load = await load_model(client, model_plan())

    assert load.seconds >= 0.2  # what the scripted model takes
    assert load.created_at is not None


async def test_a_load_that_does_not_end_is_a_load_timeout() -> None:
    """The plan's `load_timeout` applies."""
    engine = FaultyEngine()
    async with OllamaServer(engine) as server, OllamaClient(target_plan(server.url)) as client:
        engine.inject(Fault(FaultKind.LOAD_FOREVER))
        with pytest.raises(ProbeError) as caught:
            await load_model(client, model_plan(load_timeout_seconds=0.1))

    assert caught.value.reason is Reason.LOAD_TIMEOUT


async def test_giving_back_unloads_and_a_failure_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The reading is good whether or not the server answers, and the keep-alive unloads the model later."""
    engine = FaultyEngine()
    async with OllamaServer(engine) as server, OllamaClient(target_plan(server.url)) as client:
        await load_model(client, model_plan())
        await give_back(client, model_plan(), ModelKey("t", "llama3.1"))
        await asyncio.sleep(0)
        assert await client.loaded() == ()
        engine.inject(Fault(FaultKind.SERVER_BUSY))
        await give_back(client, model_plan(), ModelKey("t", "llama3.1"))

    [record] = caplog.records
    assert record.__dict__["fields"].items() >= {"target": "t", "model": "llama3.1", "reason": Reason.BUSY}.items()
