"""Contention, as far as the server shows it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.readings import FULL

from exporter.probing.contention import QUEUE_SECONDS, contended_by, others_ran
from exporter.reading import GpuObservation, LoadedModel, Stages

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
OTHER = LoadedModel(name="o", expires_at=MOMENT)
MOVED = replace(OTHER, expires_at=MOMENT + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("before", "after", "ran"),
    [
        ((), (), False),
        ((OTHER,), (OTHER,), None),
        ((OTHER,), (MOVED,), True),
        ((), (OTHER,), True),
        ((OTHER,), (), None),
        ((OTHER,), None, None),
        ((), None, None),
    ],
)
def test_only_a_moved_timer_or_a_new_model_shows_that_another_model_ran(
    before: tuple[LoadedModel, ...], after: tuple[LoadedModel, ...] | None, ran: bool | None
) -> None:
    """A timer moves when a request ends, so an unmoved one proves nothing; without other models none ran."""
    assert others_ran(before, after) is ran


@pytest.mark.parametrize(
    ("observed", "others", "contended"),
    [
        ({}, None, {}),
        ({}, False, {"model": False}),
        ({}, True, {"model": True}),
        ({"model": True, "gpu": False}, False, {"model": True, "gpu": False}),
        ({"model": False}, True, {"model": True}),
        ({"model": False}, None, {"model": False}),
    ],
)
def test_what_the_gpu_monitor_saw_is_not_contradicted_by_the_server(
    observed: dict[str, bool], others: bool | None, contended: dict[str, bool]
) -> None:
    """Either one that saw another model is enough; what could not be determined is absent."""
    figures = replace(FULL.figures, stages=None)
    observation = GpuObservation(label="g", contended=observed)  # type: ignore[arg-type]

    assert contended_by(observation, figures, others=others) == contended


@pytest.mark.parametrize(("seconds", "contended"), [(0.006, False), (QUEUE_SECONDS, False), (0.44, True)])
def test_a_wait_for_the_slot_is_contention_by_the_queue(seconds: float, contended: bool) -> None:
    """The few milliseconds of an idle server are not."""
    stages = Stages(queue_seconds=seconds, load_seconds=0, prefill_seconds=0.1, decode_seconds=1)
    figures = replace(FULL.figures, stages=stages)

    assert contended_by(GpuObservation(label="g"), figures, others=None) == {"queue": contended}
