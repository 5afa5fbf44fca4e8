"""What was seen of the cards while a probe ran, in plain values, and what follows from the numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from exporter.reading import GpuState, ThrottleReason

SETTLING_SECONDS = 0.5
"""A card's utilisation and clocks-event reasons follow a load only after 0.25 to 0.5 s (seen on an H200)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One card at one moment."""

    at: float
    utilization_ratio: float | None = None
    clock_hertz: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    throttled: frozenset[ThrottleReason] | None = None

    @property
    def silent(self) -> bool:
        """Whether the card told nothing at all: it is lost."""
        told = (self.utilization_ratio, self.clock_hertz, self.temperature_celsius, self.power_watts, self.throttled)
        return all(value is None for value in told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """One card's cumulative counters, as read at one moment."""

    at: float
    energy_joules: float | None = None
    throttled_seconds: Mapping[ThrottleReason, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardEvidence:
    """One card during one probe."""

    name: str
    mig: bool = False
    processes: Mapping[int, int | None] | None = None
    """Every process seen on it, with its memory in bytes; None where the card does not tell."""
    shares: Mapping[int, float] | None = None
    """The mean share of the SMs' time of each process; None where it is not known."""
    before: Sample | None = None
    """Just before the request."""
    samples: Sequence[Sample] = ()
    """From the first token to the last."""
    start: Counters | None = None
    """At the first token."""
    end: Counters | None = None
    """At the last token."""
    memory_used_bytes: int | None = None
    clock_max_hertz: float | None = None
    peak_bandwidth_bytes_per_second: float | None = None

    @property
    def seconds(self) -> float:
        """How long the card was watched from the first token on."""
        return self.end.at - self.start.at if self.start and self.end else 0.0

    @property
    def energy_joules(self) -> float | None:
        """By the counter, else the integral of the sampled power, else None."""
        if self.start is None or self.end is None:
            return None
        if self.start.energy_joules is not None and self.end.energy_joules is not None:
            return self.end.energy_joules - self.start.energy_joules
        return integral(self.samples, self.start.at, self.end.at)

    @property
    def power_watts(self) -> float | None:
        """The mean power: energy over time."""
        energy = self.energy_joules
        return energy / self.seconds if energy is not None and self.seconds > 0 else None

    @property
    def utilization_ratio(self) -> float | None:
        """The mean utilisation, without the time in which the figure still follows the load."""
        if not self.samples:
            return None
        settled = [one for one in self.samples if one.at >= self.samples[0].at + SETTLING_SECONDS]
        return mean(one.utilization_ratio for one in settled)

    @property
    def throttled_ratio(self) -> Mapping[ThrottleReason, float]:
        """Each reason's share of the time: by its counter where the card has one, else by the samples."""
        told = [one.throttled for one in self.samples if one.throttled is not None]
        ratios = {reason: fmean(reason in one for one in told) for reason in ThrottleReason} if told else {}
        if self.start is not None and self.end is not None and self.seconds > 0:
            for reason, seconds in self.end.throttled_seconds.items():
                if reason in self.start.throttled_seconds:
                    share = (seconds - self.start.throttled_seconds[reason]) / self.seconds
                    ratios[reason] = min(1.0, max(0.0, share))
        return ratios

    @property
    def lost(self) -> bool:
        """Whether the card no longer answered at the end."""
        return bool(self.samples) and self.samples[-1].silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Every card during one probe, and the processes behind it."""

    cards: tuple[CardEvidence, ...]
    runners: Mapping[int, str] = field(default_factory=dict)
    """Ollama's runners seen in `/proc`: pid and digest of the model."""
    visible: frozenset[int] = frozenset()
    """Those pids named by the driver that exist in this `/proc`."""
    machine_pids: bool = False
    """Whether this `/proc` is the whole machine's."""


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def integral(samples: Sequence[Sample], start: float, end: float) -> float | None:
    """Return the energy in joules between two times, by trapezoids over the sampled power, held at both ends."""
    known = [(one.at, one.power_watts) for one in samples if one.power_watts is not None]
    if not known or end <= start:
        return None
    points = [(start, known[0][1]), *(point for point in known if start < point[0] < end), (end, known[-1][1])]
    return sum((b - a) * (power + following) / 2 for (a, power), (b, following) in pairwise(points))


def state(cards: Sequence[CardEvidence]) -> GpuState | None:
    """Return how the cards that ran a model fared, combined as `GpuState` says; None where one of them was lost."""
    if not cards or any(card.lost for card in cards):
        return None
    energies = [card.energy_joules for card in cards]
    powers = [card.power_watts for card in cards]
    clocks = [mean(one.clock_hertz for one in card.samples) for card in cards]
    temperatures = [one.temperature_celsius for card in cards for one in card.samples]
    throttled = [card.throttled_ratio for card in cards]
    reasons = {reason for ratios in throttled for reason in ratios}
    return GpuState(
        energy_joules=total(energies),
        power_watts=total(powers),
        clock_hertz=min((clock for clock in clocks if clock is not None), default=None),
        clock_max_hertz=min((card.clock_max_hertz for card in cards if card.clock_max_hertz is not None), default=None),
        temperature_celsius=max((degrees for degrees in temperatures if degrees is not None), default=None),
        utilization_ratio=mean(card.utilization_ratio for card in cards),
        throttled_ratio={reason: max(ratios.get(reason, 0.0) for ratios in throttled) for reason in sorted(reasons)},
    )


def total(values: Sequence[float | None]) -> float | None:
    """Return the sum, None where a part of it is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
