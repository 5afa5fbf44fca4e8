"""Records the GPUs of this machine during one probe. It runs on the worker thread and returns `Evidence`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from exporter.gpu.base import Card, CardReader, Counters, Sample
from exporter.gpu.evidence import CardEvidence, Evidence
from exporter.gpu.processes import Processes, model_digest

PROCESS_INTERVAL_SECONDS = 2.0
"""How often processes are listed: it takes 3 ms on NVIDIA, whose driver drops a process's compute time when it ends."""
SHARE_LAG_SECONDS = 0.25
"""Compute time is reported for periods of about 0.2 s: the first one may include work from before the probe."""
MIN_SHARE_SECONDS = 0.5
"""If no process was reported for at least this time, no process used the GPU."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Monotonic time for durations, and Unix time, by which drivers time processes. Both in seconds."""

    monotonic: Callable[[], float] = time.monotonic
    unix: Callable[[], float] = time.time


@dataclass(slots=True)
class _CardRecording:
    """What has been observed of one GPU so far."""

    before: Sample
    samples: list[Sample]
    start: Counters | None = None
    processes: dict[int, int | None] | None = None
    share_seconds: dict[int, float] = field(default_factory=dict)
    reported_seconds: float = 0.0
    """The time for which compute time was reported."""

    def add_processes(self, processes: Mapping[int, int | None] | None) -> None:
        """Add the processes that are on the GPU now; those that were seen earlier stay."""
        if processes is not None:
            self.processes = {**(self.processes or {}), **processes}

    def add_shares(self, shares: Mapping[int, float] | None, seconds: float) -> None:
        """Add the mean shares of the last `seconds`."""
        if shares is None:
            return
        self.reported_seconds += seconds
        for pid, share in shares.items():
            self.share_seconds[pid] = self.share_seconds.get(pid, 0.0) + share * seconds

    def shares(self) -> Mapping[int, float] | None:
        """Return the mean shares over the whole probe, None if too little was reported."""
        if self.reported_seconds <= 0 or (not self.share_seconds and self.reported_seconds < MIN_SHARE_SECONDS):
            return None
        return {pid: seconds / self.reported_seconds for pid, seconds in self.share_seconds.items()}


class Recording:
    """One probe's recording. It starts when it is created, just before the request is sent.

    `cards` are all GPUs of this machine; `blob` is the digest of the model's file, if known.
    """

    def __init__(self, cards: Mapping[Card, CardReader], processes: Processes, clock: Clock, blob: str | None) -> None:
        self._readers = cards
        self._processes = processes
        self._clock = clock
        self._blob = blob
        self._processes_read_at = clock.unix() + SHARE_LAG_SECONDS
        self._runners: dict[int, str] = {}
        self._visible: set[int] = set()
        self._inspected: set[int] = set()
        self._recordings: dict[Card, _CardRecording] = {}
        for card, reader in cards.items():
            before = reader.sample(clock.monotonic())
            self._recordings[card] = _CardRecording(before, [before])

    def first_token(self) -> None:
        """Start the period for which the state of the GPUs is reported."""
        for card, recording in self._recordings.items():
            recording.start = self._readers[card].counters(self._clock.monotonic)
            recording.samples = [self._readers[card].sample(self._clock.monotonic())]

    def add(self, samples: Mapping[Card, Sample]) -> None:
        """Add a sample of every GPU, and list processes when it is time."""
        for card, recording in self._recordings.items():
            recording.samples.append(samples[card])
        if self._clock.unix() - self._processes_read_at >= PROCESS_INTERVAL_SECONDS:
            self._read_processes()

    def end(self) -> Evidence:
        """Read everything for the last time and return what was observed."""
        ends = {card: reader.counters(self._clock.monotonic) for card, reader in self._readers.items()}
        for card, recording in self._recordings.items():
            recording.samples.append(self._readers[card].sample(self._clock.monotonic()))
        self._read_processes()
        if self._blob is not None and self._blob not in self._runners.values():
            self._runners.update(self._processes.runners())
        return Evidence(
            cards=tuple(
                CardEvidence(
                    card=card,
                    processes=recording.processes,
                    shares=recording.shares(),
                    before=recording.before,
                    samples=tuple(recording.samples),
                    start=recording.start,
                    end=ends[card],
                    memory_used_bytes=self._readers[card].memory_used(),
                )
                for card, recording in self._recordings.items()
            ),
            runners=self._runners,
            visible=frozenset(self._visible),
            machine_pids=self._processes.in_machine_namespace(),
        )

    def _read_processes(self) -> None:
        """Read which processes are on the GPUs, and how much compute time each used since the last time."""
        since, now = self._processes_read_at, self._clock.unix()
        for card, recording in self._recordings.items():
            listed = self._readers[card].processes()
            shares = self._readers[card].shares(since) if now > since else None
            recording.add_processes(listed)
            recording.add_shares(shares, now - since)
            self._inspect({*(listed or ()), *(shares or ())})
        self._processes_read_at = max(since, now)

    def _inspect(self, pids: set[int]) -> None:
        """Read the command lines of processes while they are running."""
        for pid in pids - self._inspected:
            self._inspected.add(pid)
            command_line = self._processes.command_line(pid)
            if command_line is None:
                continue
            self._visible.add(pid)
            if (digest := model_digest(command_line)) is not None:
                self._runners[pid] = digest
