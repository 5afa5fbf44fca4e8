"""One probe's recording of the cards. It lives on the room's thread; what it gives back is plain `Evidence`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.gpu.evidence import CardEvidence, Counters, Evidence, Sample
from exporter.gpu.nvidia import Fixed, Nvml
from exporter.gpu.processes import Processes

LOOK_SECONDS = 2.0
"""How often processes are looked for: it costs 3 ms, but the driver forgets a process's SM times when it ends."""
SHARE_LAG_SECONDS = 0.25
"""SM time is told for periods of about 0.2 s: the first one began before the probe, and may be another model's."""
SHARES_TOLD_SECONDS = 0.5
"""From then on a driver that names nobody means that nobody was there."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks: one for durations, and Unix time, in which the driver stamps SM times."""

    monotonic: Callable[[], float] = time.monotonic
    unix: Callable[[], float] = time.time


@dataclass(slots=True)
class CardRecording:
    """What has been seen so far of one card."""

    before: Sample
    samples: list[Sample]
    start: Counters | None = None
    processes: dict[int, int | None] | None = None
    share_seconds: dict[int, float] = field(default_factory=dict)
    told_seconds: float = 0.0
    """Over how long SM times were told."""

    def add_shares(self, shares: Mapping[int, float], seconds: float) -> None:
        """Add the mean shares of so many seconds."""
        self.told_seconds += seconds
        for pid, share in shares.items():
            self.share_seconds[pid] = self.share_seconds.get(pid, 0.0) + share * seconds

    def shares(self) -> Mapping[int, float] | None:
        """Return the mean shares since the beginning, None where too little was told."""
        if self.told_seconds <= 0 or (not self.share_seconds and self.told_seconds < SHARES_TOLD_SECONDS):
            return None
        return {pid: seconds / self.told_seconds for pid, seconds in self.share_seconds.items()}

    def evidence(self, fixed: Fixed, end: Counters, memory_used_bytes: int | None) -> CardEvidence:
        """Return what was seen of this card."""
        return CardEvidence(
            name=fixed.card.name,
            mig=fixed.mig,
            processes=self.processes,
            shares=self.shares(),
            before=self.before,
            samples=tuple(self.samples),
            start=self.start,
            end=end,
            memory_used_bytes=memory_used_bytes,
            clock_max_hertz=fixed.clock_max_hertz,
            peak_bandwidth_bytes_per_second=fixed.peak_bandwidth_bytes_per_second,
        )


class Recording:
    """Begins with its construction, just before the request is sent."""

    def __init__(self, nvml: Nvml, processes: Processes, clock: Clock, blob: str | None) -> None:
        self._nvml = nvml
        self._processes = processes
        self._clock = clock
        self._blob = blob
        self._looked = clock.unix() + SHARE_LAG_SECONDS
        self._runners: dict[int, str] = {}
        self._visible: set[int] = set()
        self._met: set[int] = set()
        self._cards: list[CardRecording] = []
        for number in range(len(nvml.fixed)):
            before = nvml.sample(number, clock.monotonic())
            self._cards.append(CardRecording(before, [before]))

    def first_token(self) -> None:
        """Begin what is reported as the state."""
        for number, card in enumerate(self._cards):
            card.start = self._nvml.counters(number, self._clock.monotonic)
            card.samples = [self._nvml.sample(number, self._clock.monotonic())]

    def add(self, samples: Sequence[Sample]) -> None:
        """Take a sample of every card, and look for processes when it is time."""
        for card, sample in zip(self._cards, samples, strict=True):
            card.samples.append(sample)
        if self._clock.unix() - self._looked >= LOOK_SECONDS:
            self._look()

    def end(self) -> Evidence:
        """Read everything for the last time and return what was seen."""
        ends = [self._nvml.counters(number, self._clock.monotonic) for number in range(len(self._cards))]
        for number, card in enumerate(self._cards):
            card.samples.append(self._nvml.sample(number, self._clock.monotonic()))
        self._look()
        if self._blob is not None and self._blob not in self._runners.values():
            self._runners.update(self._processes.runners())
        return Evidence(
            cards=tuple(
                card.evidence(self._nvml.fixed[number], ends[number], self._nvml.memory_used(number))
                for number, card in enumerate(self._cards)
            ),
            runners=self._runners,
            visible=frozenset(self._visible),
            machine_pids=self._processes.of_the_machine(),
        )

    def _look(self) -> None:
        """Ask who is on the cards, and whose SM time it was since the last look."""
        since, now = self._looked, self._clock.unix()
        for number, card in enumerate(self._cards):
            listed = self._nvml.processes(number)
            if listed is not None:
                card.processes = {**(card.processes or {}), **listed}
            shares = self._nvml.shares(number, since) if now > since else None
            if shares is not None:
                card.add_shares(shares, now - since)
            self._meet({*(listed or ()), *(shares or ())})
        self._looked = max(since, now)

    def _meet(self, pids: set[int]) -> None:
        """Read the command lines of processes while they are alive."""
        for pid in pids - self._met:
            self._met.add(pid)
            if self._processes.visible(pid):
                self._visible.add(pid)
            if (blob := self._processes.blob(pid)) is not None:
                self._runners[pid] = blob
