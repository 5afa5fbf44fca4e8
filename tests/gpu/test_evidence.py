"""What follows from samples and counters alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.gpu.evidence import CardEvidence, Counters, Sample, integral, state
from exporter.reading import GpuState, ThrottleReason

CAP, THERMAL = ThrottleReason.SW_POWER_CAP, ThrottleReason.HW_THERMAL


def sample(at: float, watts: float | None = 100.0, utilization: float = 0.9) -> Sample:
    """Return one sample of a working card."""
    return Sample(
        at=at,
        utilization_ratio=utilization,
        clock_hertz=1.5e9,
        temperature_celsius=60 + at,
        power_watts=watts,
        throttled=frozenset({CAP} if at < 1 else ()),
    )


CARD = CardEvidence(
    name="X",
    samples=[sample(at / 4) for at in range(9)],
    start=Counters(at=0.0, energy_joules=1000.0, throttled_seconds={CAP: 5.0}),
    end=Counters(at=2.0, energy_joules=1500.0, throttled_seconds={CAP: 6.0}),
    clock_max_hertz=2e9,
)


@given(st.floats(1, 1000), st.lists(st.floats(0.01, 9.9), max_size=20))
def test_constant_power_integrates_to_power_times_time(watts: float, times: list[float]) -> None:
    """Whenever the samples were taken."""
    assert integral([sample(at, watts) for at in sorted([0.0, *times])], 0.0, 10.0) == pytest.approx(10 * watts)


def test_a_ramp_integrates_by_trapezoids_between_the_ends() -> None:
    """Samples outside of the time do not count, and those that tell nothing are passed over."""
    samples = [sample(-1, 0), sample(0, 0), sample(1, None), sample(2, 200), sample(3, 999)]
    assert integral([sample(0, 0), sample(1, None), sample(2, 200)], 0, 2) == pytest.approx(200)
    assert integral(samples, 0, 2.5) == pytest.approx((0 + 200) / 2 * 2 + (200 + 999) / 2 * 0.5)
    assert integral([sample(1, None)], 0, 2) is None
    assert integral([], 0, 2) is None


def test_a_card_by_its_counters() -> None:
    """Energy and throttling by difference, power by energy over time; a reason without a counter by the samples."""
    assert state([CARD]) == GpuState(
        energy_joules=500,
        power_watts=250,
        clock_hertz=1.5e9,
        clock_max_hertz=2e9,
        temperature_celsius=62,
        utilization_ratio=0.9,
        throttled_ratio={CAP: 0.5, **{reason: 0.0 for reason in ThrottleReason if reason is not CAP}},
    )


def test_throttling_by_samples_where_there_is_no_counter() -> None:
    """The share of the samples that named the reason."""
    card = replace(CARD, start=Counters(at=0.0), end=Counters(at=2.0))
    assert card.throttled_ratio[CAP] == pytest.approx(4 / 9)
    assert card.throttled_ratio[THERMAL] == 0


def test_a_counter_cannot_claim_more_than_all_of_the_time() -> None:
    """A counter that moves in steps may jump over the ends of a probe."""
    end = Counters(at=2.0, throttled_seconds={CAP: 7.2})
    assert replace(CARD, end=end).throttled_ratio[CAP] == 1


def test_utilization_without_the_time_it_lags() -> None:
    """The figure follows a load by up to half a second: what it said until then does not count."""
    lagging = [sample(at / 4, utilization=0.0 if at < 2 else 0.8) for at in range(9)]
    assert replace(CARD, samples=lagging).utilization_ratio == pytest.approx(0.8)
    assert replace(CARD, samples=lagging[:2]).utilization_ratio is None


def test_two_cards_together() -> None:
    """Energy and power summed, utilisation meant, the lower clock, the higher temperature and throttled share."""
    other = CardEvidence(
        name="X",
        samples=[Sample(at=at, utilization_ratio=0.1, clock_hertz=1e9, temperature_celsius=90) for at in (0, 1)],
        start=Counters(at=0.0, energy_joules=0.0, throttled_seconds={CAP: 0.0}),
        end=Counters(at=2.0, energy_joules=100.0, throttled_seconds={CAP: 2.0}),
        clock_max_hertz=1.9e9,
    )
    both = state([CARD, other])
    assert both is not None
    assert (both.energy_joules, both.power_watts) == (600, 300)
    assert (both.clock_hertz, both.clock_max_hertz, both.temperature_celsius) == (1e9, 1.9e9, 90)
    assert both.utilization_ratio == pytest.approx(0.5)
    assert both.throttled_ratio[CAP] == 1


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    """Two cards of which one does not tell its energy have no energy."""
    silent = CardEvidence(
        name="X", samples=[Sample(at=0, temperature_celsius=50)], start=Counters(at=0), end=Counters(at=2)
    )
    both = state([CARD, silent])
    assert both is not None
    assert both.energy_joules is None
    assert both.power_watts is None
    assert both.temperature_celsius == 62


def test_no_card_and_a_lost_card_have_no_state() -> None:
    """Figures up to the moment when a card was lost would be told as if they were of the whole probe."""
    assert state([]) is None
    assert state([CARD, replace(CARD, samples=[*CARD.samples, Sample(at=2.0)])]) is None


def test_a_watch_without_a_first_token_has_no_energy() -> None:
    """Nothing was marked, so nothing is told of the time."""
    card = replace(CARD, start=None)
    assert (card.energy_joules, card.power_watts, card.seconds) == (None, None, 0)
