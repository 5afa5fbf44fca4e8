"""Measurement values refuse impossible numbers, so that state and metrics never contain them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from support.readings import FULL

from exporter.reading import Figures, GpuState, LoadedModel, Reading, Stages, ThrottleReason

IMPOSSIBLE: list[Any] = [math.nan, math.inf, -math.inf, -1, -1e-9, 1e19, 10**400]
assert FULL.figures.stages is not None
assert FULL.gpu.state is not None
WHOLE = (FULL, FULL.figures, FULL.figures.stages, FULL.gpu.state)
NUMBERS = [
    (value, each.name)
    for value in WHOLE
    for each in fields(value)
    if isinstance(getattr(value, each.name), int | float) and each.name != "truncated"
]


def test_every_number_of_a_full_reading_is_tried() -> None:
    """Numbers of each of the four types are tried."""
    assert {type(value) for value, _ in NUMBERS} == {Reading, Figures, Stages, GpuState}


@pytest.mark.parametrize("number", IMPOSSIBLE, ids=[f"{number}"[:5] for number in IMPOSSIBLE])
@pytest.mark.parametrize(("value", "name"), NUMBERS, ids=[f"{type(value).__name__}.{name}" for value, name in NUMBERS])
def test_impossible_numbers_are_refused(value: Any, name: str, number: Any) -> None:
    """The error names the number that is negative, not finite or too large."""
    with pytest.raises(ValueError, match=rf"{type(value).__name__}\.{name}\b"):
        replace(value, **{name: number})


def test_impossible_numbers_in_mappings_are_refused() -> None:
    """The values of a mapping are checked too."""
    with pytest.raises(ValueError, match="throttled_ratio"):
        GpuState(throttled_ratio={ThrottleReason.HW_THERMAL: math.nan})


def test_impossible_quotients_are_refused() -> None:
    """A rate can be impossible although both of its numbers are possible."""
    with pytest.raises(ValueError, match="tokens_per_second"):
        replace(FULL.figures, words=10**17, elapsed_seconds=5e-324)
    with pytest.raises(ValueError, match="tokens_per_joule"):
        replace(FULL, gpu=replace(FULL.gpu, state=GpuState(energy_joules=5e-324)))
    with pytest.raises(ValueError, match="model_gpu_ratio"):
        replace(FULL, loaded=LoadedModel(name="m", size_bytes=8, size_vram_bytes=-8))


def test_quotients_without_a_divisor() -> None:
    """The reference program's rate is 0 when no time elapsed; other quotients are unknown."""
    assert replace(FULL.figures, elapsed_seconds=0).tokens_per_second == 0.0
    assert replace(FULL.figures, words=None).tokens_per_second is None
    assert replace(FULL, gpu=replace(FULL.gpu, state=GpuState(energy_joules=0))).tokens_per_joule is None
    assert replace(FULL, loaded=LoadedModel(name="m", size_bytes=0, size_vram_bytes=0)).model_gpu_ratio is None


def test_share_on_the_gpu_is_at_most_one() -> None:
    """Ollama can report more GPU memory than the model's size."""
    assert LoadedModel(name="m", size_bytes=8, size_vram_bytes=9).gpu_ratio == 1.0
