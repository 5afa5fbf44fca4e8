"""Probes of a server with each fault: their results, and that nothing remains when the fault is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
from support.faults import Fault, FaultKind
from support.probing import model_plan
from support.scripted import failure, read, scripted

from exporter.errors import Reason

GOOD, TRUNCATED = "good", "truncated"
FAULTS: list[tuple[Fault, str | Reason]] = [
    (Fault(FaultKind.SLOW, factor=0.5), GOOD),
    (Fault(FaultKind.CPU), TRUNCATED),
    (Fault(FaultKind.CPU_HIDDEN), TRUNCATED),
    (Fault(FaultKind.PARTIAL_OFFLOAD, factor=0.99), GOOD),
    (Fault(FaultKind.COLD), GOOD),
    (Fault(FaultKind.BUSY, seconds=0.3), GOOD),
    (Fault(FaultKind.LOAD_FOREVER), Reason.LOAD_TIMEOUT),
    (Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN), Reason.NO_FIRST_TOKEN),
    (Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=20), Reason.STALLED),
    (Fault(FaultKind.CUT, after_tokens=20), Reason.PROTOCOL),
    (Fault(FaultKind.CUT), Reason.PROTOCOL),
    (Fault(FaultKind.HALF_CLOSED, after_tokens=20), Reason.PROTOCOL),
    (Fault(FaultKind.NO_DONE, after_tokens=20), TRUNCATED),
    (Fault(FaultKind.NO_DONE, after_tokens=10), Reason.PROTOCOL),
    (Fault(FaultKind.DONE_TWICE), GOOD),
    (Fault(FaultKind.JUNK_LINE, after_tokens=5), Reason.PROTOCOL),
    (Fault(FaultKind.ERROR_LINE, after_tokens=5), Reason.HTTP),
    (Fault(FaultKind.DEAD_MODEL, after_tokens=5, seconds=1), Reason.HTTP),
    (Fault(FaultKind.OUT_OF_MEMORY), Reason.OUT_OF_MEMORY),
    (Fault(FaultKind.OUT_OF_MEMORY, after_tokens=5), Reason.OUT_OF_MEMORY),
    (Fault(FaultKind.UNAUTHORIZED), Reason.DENIED),
    (Fault(FaultKind.FORBIDDEN), Reason.DENIED),
    (Fault(FaultKind.SERVER_BUSY), Reason.BUSY),
    (Fault(FaultKind.THINKING), GOOD),
    (Fault(FaultKind.EMBEDDING_ONLY), Reason.UNSUPPORTED),
    (Fault(FaultKind.TRICKLE, factor=0.05), Reason.NO_FIRST_TOKEN),
    (Fault(FaultKind.LONG_LINE), Reason.PROTOCOL),
    (Fault(FaultKind.ENDLESS_HEADERS), Reason.NO_FIRST_TOKEN),
    (Fault(FaultKind.ENDLESS_HEADERS, factor=0.0), Reason.PROTOCOL),
    (Fault(FaultKind.ZERO_DURATIONS), Reason.PROTOCOL),
    (Fault(FaultKind.NO_DURATIONS), Reason.PROTOCOL),
    (Fault(FaultKind.NEGATIVE_DURATIONS), Reason.PROTOCOL),
    (Fault(FaultKind.ABSURD_DURATIONS), Reason.PROTOCOL),
    (Fault(FaultKind.UNKNOWN_DONE_REASON), GOOD),
]


def names(faults: Iterable[tuple[Fault, str | Reason]]) -> list[str]:
    """Return a name for each fault."""
    return [f"{fault.kind}-{fault.after_tokens}-{end}" for fault, end in faults]


@pytest.mark.parametrize(("fault", "end"), FAULTS, ids=names(FAULTS))
async def test_each_fault_has_its_result_and_the_next_probe_is_good(fault: Fault, end: str | Reason) -> None:
    """No fault outlasts its deadline, each failure has its own reason, and nothing remains when the fault is over."""
    injected = replace(fault)
    plan = model_plan(timeout_seconds=2.6, load_timeout_seconds=1.0)
    async with scripted() as (prober, engine, _):
        if fault.kind not in {FaultKind.LOAD_FOREVER, FaultKind.OUT_OF_MEMORY}:
            await read(prober, plan)
        engine.inject(injected)
        if isinstance(end, Reason):
            assert (await failure(prober, plan)).reason is end
        else:
            reading = await asyncio.wait_for(read(prober, plan), 10)
            assert reading.figures.truncated is (end == TRUNCATED)
        injected.end()

        assert not (await read(prober, model_plan(timeout_seconds=20))).figures.truncated
