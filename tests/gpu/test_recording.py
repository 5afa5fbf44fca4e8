"""What a recording reads from a GPU and when, with a simulated GPU that two processes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from support.recorded_gpus import CONTAINER, MODEL, OTHER_MODEL, card

from exporter.gpu.base import Card, Counters, Sample
from exporter.gpu.evidence import CardEvidence, Evidence
from exporter.gpu.processes import CommandLine, Processes
from exporter.gpu.recording import Clock, Recording

START = 1000.0
NO_PROCESSES = Processes(lambda: (), lambda _: None, CONTAINER)


@dataclass
class Gpu:
    """A GPU that times processes in periods of 0.2 s, as real drivers do, and reports nothing else."""

    now: float = START
    busy: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By pid: from when to when it used all of the GPU."""
    ended: set[int] = field(default_factory=set)
    share_reads: list[tuple[float, float]] = field(default_factory=list)
    """When shares were read, and since when."""
    card: Card = field(default_factory=card)

    def sample(self, at: float) -> Sample:
        """Report nothing."""
        return Sample(at=at)

    def counters(self, clock: Callable[[], float]) -> Counters:
        """Count nothing."""
        return Counters(at=clock())

    def processes(self) -> Mapping[int, int | None]:
        """Return the processes that are running, with their pids as memory."""
        return {pid: pid for pid in self.busy if pid not in self.ended}

    def shares(self, since: float) -> Mapping[int, float]:
        """Return the mean share of each running process over the periods that ended after `since`."""
        self.share_reads.append((round(self.now - START, 3), round(since - START, 3)))
        ends = [START + 0.2 * step for step in range(-10, 1000) if since < START + 0.2 * step <= self.now]
        shares = {
            pid: sum(begin < end - 0.1 < finish for end in ends) / max(1, len(ends))
            for pid, (begin, finish) in self.busy.items()
            if pid not in self.ended
        }
        return {pid: share for pid, share in shares.items() if share}

    def memory_used(self) -> None:
        """Report nothing."""


def record(
    gpu: Gpu,
    seconds: float,
    ends: Mapping[int, float] | None = None,
    processes: Processes = NO_PROCESSES,
    blob: str | None = None,
) -> Evidence:
    """Record a probe of so many seconds; `ends` are the times at which processes end."""
    clock = Clock(lambda: gpu.now, lambda: gpu.now)
    recording = Recording({gpu.card: gpu}, processes, clock, blob)
    recording.first_token()
    start, step = gpu.now, 0.25
    while gpu.now + step < start + seconds:
        gpu.now += step
        gpu.ended |= {pid for pid, at in (ends or {}).items() if at <= gpu.now}
        recording.add({gpu.card: gpu.sample(gpu.now)})
    gpu.now = start + seconds
    return recording.end()


def recorded(gpu: Gpu, seconds: float, ends: Mapping[int, float] | None = None) -> CardEvidence:
    """Record a probe and return the evidence of its only GPU."""
    return record(gpu, seconds, ends).cards[0]


def test_shares_are_means_over_the_whole_probe() -> None:
    """The mean does not depend on how often the shares were read."""
    shares = recorded(Gpu(busy={1: (0, 2000), 2: (1002.5, 1005.0)}), 5.0).shares
    assert shares is not None
    assert shares[1] == pytest.approx(1, abs=0.01)
    assert shares[2] == pytest.approx(2.5 / 4.75, abs=0.06)


def test_shares_are_read_every_two_seconds() -> None:
    """Each reading covers the time since the previous one. The first covers periods that began within the probe."""
    gpu = Gpu(busy={1: (0, 2000)})
    recorded(gpu, 5.0)
    assert gpu.share_reads == [(2.25, 0.25), (4.25, 2.25), (5.0, 4.25)]


def test_work_before_the_probe_is_not_counted() -> None:
    """The period in which the probe began includes what ran before it."""
    gpu = Gpu(now=1000.05, busy={1: (1000.05, 2000), 2: (0, 1000.04)})
    shares = recorded(gpu, 2.0).shares
    assert shares is not None
    assert set(shares) == {1}
    assert shares[1] == pytest.approx(1, abs=0.01)


def test_a_process_that_ended_is_kept() -> None:
    """The driver no longer reports it, but it was seen while it ran."""
    evidence = recorded(Gpu(busy={1: (0, 2000), 2: (1001, 1002.4)}), 4.0, ends={2: 1002.5})
    assert evidence.shares is not None
    assert evidence.shares[2] > 0.1
    assert evidence.processes == {1: 1, 2: 2}


def test_no_shares_over_a_short_time_prove_nothing() -> None:
    """Only after half a second do empty shares mean that no process used the GPU."""
    assert recorded(Gpu(), 0.2).shares is None
    assert recorded(Gpu(), 0.6).shares is None
    assert recorded(Gpu(), 1.5).shares == {}


def test_runners_are_identified_while_they_run() -> None:
    """The command line of a process that has ended by the end of the probe was read before."""
    gpu = Gpu(busy={1: (0, 2000), 2: (1000, 1002.4)})
    lines: dict[int, CommandLine] = dict.fromkeys((1, 2), ("ollama", "--model", f"sha256-{MODEL}"))
    processes = Processes(lambda: (), lambda pid: None if pid in gpu.ended else lines.get(pid), CONTAINER)
    evidence = record(gpu, 4.0, {2: 1002.5}, processes, MODEL)
    assert evidence.runners == {1: MODEL, 2: MODEL}
    assert evidence.visible == {1, 2}


@pytest.mark.parametrize(("blob", "found"), [(OTHER_MODEL, {7: OTHER_MODEL}), (None, {})])
def test_a_runner_on_no_gpu_is_searched_for(blob: str | None, found: Mapping[int, str]) -> None:
    """Among all processes, but only if the digest of the model's file is known."""
    line: CommandLine = ("ollama", "--model", f"sha256-{OTHER_MODEL}")
    processes = Processes(lambda: [(7, line)], lambda _: None, CONTAINER)
    assert record(Gpu(), 1.0, processes=processes, blob=blob).runners == found
