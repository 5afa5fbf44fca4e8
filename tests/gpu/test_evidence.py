"""What is computed from samples and counters alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recorded_gpus import card

from exporter.gpu.base import Counters, Sample
from exporter.gpu.evidence import CardEvidence, gpu_state, power_integral
from exporter.reading import GpuState, ThrottleReason

CAP, THERMAL = ThrottleReason.SW_POWER_CAP, ThrottleReason.HW_THERMAL


def sample(at: float, watts: float | None = 100.0, utilization: float = 0.9) -> Sample:
    """Return one sample of a GPU that generates."""
    return Sample(
        at=at,
        utilization_ratio=utilization,
        clock_hertz=1.5e9,
        temperature_celsius=60 + at,
        power_watts=watts,
        throttled=frozenset({CAP} if at < 1 else ()),
    )


CARD = CardEvidence(
    card=card(clock_max_hertz=2e9),
    samples=[sample(at / 4) for at in range(9)],
    start=Counters(at=0.0, energy_joules=1000.0, throttled_seconds={CAP: 5.0}),
    end=Counters(at=2.0, energy_joules=1500.0, throttled_seconds={CAP: 6.0}),
)


@given(st.floats(1, 1000), st.lists(st.floats(0.01, 9.9), max_size=20))
def test_constant_power_integrates_to_power_times_time(watts: float, times: list[float]) -> None:
    """Whenever the samples were taken."""
    assert power_integral([sample(at, watts) for at in sorted([0.0, *times])], 0.0, 10.0) == pytest.approx(10 * watts)


def test_a_ramp_is_integrated_between_the_ends() -> None:
    """By the trapezoidal rule; samples outside of the time and samples without power are ignored."""
    ramp = [sample(2, 0), sample(3, None), sample(4, 200)]
    assert power_integral(ramp, 2, 4) == pytest.approx(200)
    around = [sample(1, 0), *ramp, sample(5, 999)]
    assert power_integral(around, 2, 4.5) == pytest.approx((0 + 200) / 2 * 2 + (200 + 999) / 2 * 0.5)
    assert power_integral([sample(1, None)], 0, 2) is None
    assert power_integral([], 0, 2) is None


def test_the_state_by_counters() -> None:
    """Energy and throttling are differences, power is energy / time; a reason without a counter is sampled."""
    assert gpu_state([CARD]) == GpuState(
        energy_joules=500,
        power_watts=250,
        clock_hertz=1.5e9,
        clock_max_hertz=2e9,
        temperature_celsius=62,
        utilization_ratio=0.9,
        throttled_ratio={CAP: 0.5, **{reason: 0.0 for reason in ThrottleReason if reason is not CAP}},
    )


def test_throttling_by_samples_where_there_is_no_counter() -> None:
    """The share of the samples that had the reason."""
    ratios = replace(CARD, start=Counters(at=0.0), end=Counters(at=2.0)).throttled_ratio
    assert ratios[CAP] == pytest.approx(4 / 9)
    assert ratios[THERMAL] == 0


def test_the_throttled_ratio_is_at_most_one() -> None:
    """A counter that is updated in steps may increase by more than the time of the probe."""
    end = Counters(at=2.0, throttled_seconds={CAP: 7.2})
    assert replace(CARD, end=end).throttled_ratio[CAP] == 1


def test_utilization_excludes_the_time_it_lags() -> None:
    """Utilisation follows the load by up to half a second: the samples until then do not count."""
    lagging = [sample(at / 4, utilization=0.0 if at < 2 else 0.8) for at in range(9)]
    assert replace(CARD, samples=lagging).utilization_ratio == pytest.approx(0.8)
    assert replace(CARD, samples=lagging[:2]).utilization_ratio is None


def test_two_gpus_combined() -> None:
    """Sum of energy and power, mean utilisation, lower clock, higher temperature and throttled ratio."""
    other = CardEvidence(
        card=card(clock_max_hertz=1.9e9),
        samples=[Sample(at=at, utilization_ratio=0.1, clock_hertz=1e9, temperature_celsius=90) for at in (0, 1)],
        start=Counters(at=0.0, energy_joules=0.0, throttled_seconds={CAP: 0.0}),
        end=Counters(at=2.0, energy_joules=100.0, throttled_seconds={CAP: 2.0}),
    )
    both = gpu_state([CARD, other])
    assert both is not None
    assert (both.energy_joules, both.power_watts) == (600, 300)
    assert (both.clock_hertz, both.clock_max_hertz, both.temperature_celsius) == (1e9, 1.9e9, 90)
    assert both.utilization_ratio == pytest.approx(0.5)
    assert both.throttled_ratio[CAP] == 1


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    """If one of two GPUs does not report its energy, the energy is unknown."""
    partial = CardEvidence(
        card=card(), samples=[Sample(at=0, temperature_celsius=50)], start=Counters(at=0), end=Counters(at=2)
    )
    both = gpu_state([CARD, partial])
    assert both is not None
    assert both.energy_joules is None
    assert both.power_watts is None
    assert both.temperature_celsius == 62


def test_a_counter_that_was_reset_is_not_used() -> None:
    """A driver that is reloaded starts at 0 again: the power is integrated instead, and no figure is negative."""
    reset = replace(CARD, end=Counters(at=2.0, energy_joules=10.0, throttled_seconds={CAP: 0.5}))
    state = gpu_state([reset])
    assert state is not None
    assert state.energy_joules == pytest.approx(200)
    assert state.power_watts == pytest.approx(100)
    assert state.throttled_ratio[CAP] == 0


def test_no_gpu_and_a_lost_gpu_have_no_state() -> None:
    """Figures up to the moment when a GPU was lost are not those of the whole probe."""
    assert gpu_state([]) is None
    assert gpu_state([CARD, replace(CARD, samples=[*CARD.samples, Sample(at=2.0)])]) is None


def test_without_a_first_token_there_is_no_energy() -> None:
    """The time for which energy is reported never began."""
    unstarted = replace(CARD, start=None)
    assert (unstarted.energy_joules, unstarted.power_watts, unstarted.seconds) == (None, None, 0)
