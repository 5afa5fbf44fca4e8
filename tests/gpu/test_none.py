"""A machine without a card that can be read."""

from __future__ import annotations

import pytest
from support.gpu_stage import subject

from exporter.gpu.none import NoGpuMonitor
from exporter.reading import CPU, UNKNOWN, GpuObservation


@pytest.mark.parametrize(
    ("claim", "configured", "label"),
    [(0, "mine", CPU), (5, "mine", "mine"), (None, "mine", "mine"), (None, None, UNKNOWN), (5, None, UNKNOWN)],
)
async def test_the_claim_is_all_there_is(claim: int | None, configured: str | None, label: str) -> None:
    """`cpu` where the server says so, else the operator's word, else unknown; and no state."""
    model, gpus = subject(size_vram_bytes=claim, configured=configured), NoGpuMonitor()
    watch = await gpus.watch(model)
    watch.first_token()
    assert await watch.finish() == GpuObservation(label=label)
    watch.abandon()
    explanation = await gpus.explain(model)
    assert explanation.label == label
    assert explanation.reason
    gpus.forget(model.pair)
    assert gpus.cards() == ()
    await gpus.close()
