"""What was observed of the GPUs during a probe, as frozen values, and what is computed from these numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from exporter.gpu.base import Card, Counters, Sample
from exporter.reading import GpuState, ThrottleReason

SETTLING_SECONDS = 0.5
"""Utilisation and throttle reasons follow a change of load only after 0.25 to 0.5 s (measured on an H200)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardEvidence:
    """What was observed of one GPU during one probe."""

    card: Card
    processes: Mapping[int, int | None] | None = None
    """Memory in bytes of every process that was seen on it, by pid; None if it does not list processes."""
    shares: Mapping[int, float] | None = None
    """Mean share of its compute time that each process used, by pid; None if unknown."""
    before: Sample | None = None
    """Just before the request."""
    samples: Sequence[Sample] = ()
    """From the first token to the last."""
    start: Counters | None = None
    """At the first token."""
    end: Counters | None = None
    """At the last token."""
    memory_used_bytes: int | None = None

    @property
    def seconds(self) -> float:
        """How long it was observed from the first token on."""
        return self.end.at - self.start.at if self.start and self.end else 0.0

    @property
    def energy_joules(self) -> float | None:
        """Increase of the energy counter; without one, or if it was reset, the integral of the sampled power."""
        if self.start is None or self.end is None:
            return None
        first, last = self.start.energy_joules, self.end.energy_joules
        if first is not None and last is not None and last >= first:
            return last - first
        return power_integral(self.samples, self.start.at, self.end.at)

    @property
    def power_watts(self) -> float | None:
        """Mean power: energy / time."""
        energy = self.energy_joules
        return energy / self.seconds if energy is not None and self.seconds > 0 else None

    @property
    def utilization_ratio(self) -> float | None:
        """Mean utilisation, without the first samples, which still show the previous load."""
        settled = [sample for sample in self.samples if sample.at >= self.samples[0].at + SETTLING_SECONDS]
        return mean(sample.utilization_ratio for sample in settled)

    @property
    def throttled_ratio(self) -> Mapping[ThrottleReason, float]:
        """Share of the time for each reason: from its counter if there is one, else from the samples."""
        reported = [sample.throttled for sample in self.samples if sample.throttled is not None]
        ratios = {reason: fmean(reason in reasons for reasons in reported) for reason in ThrottleReason if reported}
        if self.start is not None and self.end is not None and self.seconds > 0:
            for reason, seconds in self.end.throttled_seconds.items():
                if reason in self.start.throttled_seconds:
                    share = (seconds - self.start.throttled_seconds[reason]) / self.seconds
                    ratios[reason] = min(1.0, max(0.0, share))
        return ratios

    @property
    def lost(self) -> bool:
        """Whether the GPU no longer answered at the end."""
        return bool(self.samples) and self.samples[-1].empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was observed of all GPUs of this machine during one probe."""

    cards: tuple[CardEvidence, ...]
    runners: Mapping[int, str] = field(default_factory=dict)
    """Ollama's runners that were found: pid and digest of the model."""
    visible: frozenset[int] = frozenset()
    """The pids reported by the GPU libraries that exist in this pid namespace."""
    machine_pids: bool = False
    """Whether this program runs in the machine's own pid namespace."""


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values, None if there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def power_integral(samples: Sequence[Sample], start: float, end: float) -> float | None:
    """Return the energy in joules from `start` to `end`, by the trapezoidal rule over the sampled power.

    The first and the last known power extend to the ends.
    """
    known = [(sample.at, sample.power_watts) for sample in samples if sample.power_watts is not None]
    if not known or end <= start:
        return None
    points = [(start, known[0][1]), *(point for point in known if start < point[0] < end), (end, known[-1][1])]
    return sum((b - a) * (power + following) / 2 for (a, power), (b, following) in pairwise(points))


def gpu_state(cards: Sequence[CardEvidence]) -> GpuState | None:
    """Return the state of the GPUs that ran a model, combined as `GpuState` documents; None if one of them was lost."""
    if not cards or any(card.lost for card in cards):
        return None
    clocks = [mean(sample.clock_hertz for sample in card.samples) for card in cards]
    temperatures = [sample.temperature_celsius for card in cards for sample in card.samples]
    throttled = [card.throttled_ratio for card in cards]
    reasons = {reason for ratios in throttled for reason in ratios}
    return GpuState(
        energy_joules=total([card.energy_joules for card in cards]),
        power_watts=total([card.power_watts for card in cards]),
        clock_hertz=lowest(clocks),
        clock_max_hertz=lowest([card.card.clock_max_hertz for card in cards]),
        temperature_celsius=max((degrees for degrees in temperatures if degrees is not None), default=None),
        utilization_ratio=mean(card.utilization_ratio for card in cards),
        throttled_ratio={reason: max(ratios.get(reason, 0.0) for ratios in throttled) for reason in sorted(reasons)},
    )


def lowest(values: Sequence[float | None]) -> float | None:
    """Return the lowest of the known values, None if there are none."""
    return min((value for value in values if value is not None), default=None)


def total(values: Sequence[float | None]) -> float | None:
    """Return the sum, None if one of the values is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
