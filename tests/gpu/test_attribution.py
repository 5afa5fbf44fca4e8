"""Who ran the model, by rules over what was seen; and a label that noise does not move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gpu_stage import MODEL, OTHER_MODEL, subject

from exporter.gpu.attribution import attribute, quiet, rose
from exporter.gpu.evidence import CardEvidence, Counters, Evidence, Sample
from exporter.gpu.labels import Labels, choose
from exporter.reading import CPU

RUNNER, OTHER_RUNNER, FOREIGN, HIDDEN = 100, 101, 102, 100_000
GIB = 2**30


def card(
    *,
    seconds: float = 2.0,
    utilization: float | None = 0.0,
    utilization_before: float | None = 0.0,
    watts: float | None = 70.0,
    watts_before: float | None = 70.0,
    **changes: object,
) -> CardEvidence:
    """Return a card that did so much during a probe, and so much just before it."""
    times = [seconds * step / 8 for step in range(9)]
    energy = None if watts is None else watts * seconds
    base = CardEvidence(
        name="X",
        processes={},
        shares={},
        before=Sample(at=-0.1, utilization_ratio=utilization_before, power_watts=watts_before),
        samples=tuple(Sample(at=at, utilization_ratio=utilization, power_watts=watts) for at in times),
        start=Counters(at=0.0, energy_joules=None if energy is None else 0.0),
        end=Counters(at=seconds, energy_joules=energy),
        memory_used_bytes=10 * GIB,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def busy(**changes: object) -> CardEvidence:
    """Return a card that generated during the probe and idled before it."""
    return card(utilization=0.9, watts=440.0, watts_before=124.0, **changes)  # type: ignore[arg-type]


def machine(*cards: CardEvidence, **changes: object) -> Evidence:
    """Return a machine on which the model's runner, another model's and a foreign program can be seen in `/proc`."""
    base = Evidence(
        cards=cards,
        runners={RUNNER: MODEL, OTHER_RUNNER: OTHER_MODEL},
        visible=frozenset({RUNNER, OTHER_RUNNER, FOREIGN}),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_the_runner_decides_before_any_activity() -> None:
    """The card that holds the runner's pid, although the other one rose as well."""
    verdict = attribute(machine(busy(processes={FOREIGN: GIB}), busy(processes={RUNNER: 9 * GIB})), subject())
    assert (verdict.cards, verdict.runner) == ((1,), RUNNER)


def test_a_runner_seen_only_by_its_sm_time_is_on_the_card() -> None:
    """The process list holds compute contexts alone; a Vulkan runner shows by its SM time."""
    assert attribute(machine(busy(shares={RUNNER: 0.8})), subject()).cards == (0,)


def test_a_context_on_another_card_does_not_make_it_two() -> None:
    """An old runner opens a context on every card, and works on one."""
    cards = busy(processes={RUNNER: 9 * GIB}), card(processes={RUNNER: GIB // 2})
    assert attribute(machine(*cards), subject()).cards == (0,)
    idle = card(processes={RUNNER: None}, shares={RUNNER: 0.0})
    assert attribute(machine(busy(processes={RUNNER: None}, shares={RUNNER: 0.9}), idle), subject()).cards == (0,)


def test_a_runner_that_only_holds_a_context_fell_to_the_cpu() -> None:
    """No SM time on a card that stayed idle: nothing of the model ran there."""
    verdict = attribute(machine(card(processes={RUNNER: GIB // 2}, shares={RUNNER: 0.0})), subject())
    assert (verdict.cards, verdict.runner) == ((), RUNNER)


def test_a_starved_runner_is_still_on_its_card() -> None:
    """A runner that got no sample beside a full foreign load has not fallen to the CPU."""
    loaded = card(
        utilization=1.0,
        utilization_before=1.0,
        watts=700,
        watts_before=690,
        processes={RUNNER: 9 * GIB, FOREIGN: GIB},
        shares={RUNNER: 0.0, FOREIGN: 0.99},
    )
    assert attribute(machine(loaded), subject()).cards == (0,)


def test_of_two_servers_that_run_one_model_the_busier_runner_counts() -> None:
    """Two servers on one machine have loaded the same file on a card each."""
    cards = card(processes={RUNNER: 9 * GIB}, shares={RUNNER: 0.01}), busy(processes={7: 9 * GIB}, shares={7: 0.8})
    both = machine(*cards, runners={RUNNER: MODEL, 7: MODEL})
    assert (attribute(both, subject()).cards, attribute(both, subject()).runner) == ((1,), 7)


def test_a_runner_on_no_card_is_on_the_cpu_whatever_the_cards_do() -> None:
    """The driver's pids are this machine's, and the model's is not among them."""
    verdict = attribute(machine(busy(processes={FOREIGN: GIB})), subject(size_vram_bytes=9 * GIB))
    assert (verdict.cards, verdict.runner) == ((), RUNNER)


@pytest.mark.parametrize("listed", [{HIDDEN: GIB}, {HIDDEN: GIB, FOREIGN: GIB}, {}, None])
def test_where_pids_do_not_map_activity_decides(listed: dict[int, int] | None) -> None:
    """A pid that is not in this `/proc`, an empty list or none: a runner that is not listed may yet be there."""
    assert attribute(machine(card(), busy(processes=listed)), subject()).cards == (1,)


def test_where_proc_is_the_whole_machine_an_empty_list_is_evidence() -> None:
    """On a desktop, whose card is busy with windows, a runner that is on no list fell to the CPU."""
    drawing = card(utilization=0.3, processes={})
    assert attribute(machine(drawing, machine_pids=True), subject()).cards == ()
    assert attribute(machine(replace(drawing, processes=None), machine_pids=True), subject()).cards == (0,)


def test_activity_needs_memory_for_the_claim() -> None:
    """A card that rose but does not use what `/api/ps` claims, or of which it claims nothing, is somebody else's."""
    blind = machine(busy(processes=None), runners={})
    assert attribute(blind, subject(size_vram_bytes=10 * GIB)).cards == (0,)
    assert attribute(blind, subject(size_vram_bytes=20 * GIB)).cards is None
    assert attribute(blind, subject(size_vram_bytes=0)).cards is None
    unknown = machine(busy(processes=None, memory_used_bytes=None), runners={})
    assert attribute(unknown, subject(size_vram_bytes=10 * GIB)).cards == (0,)


def test_quiet_cards_are_evidence_of_the_cpu_only_after_a_second() -> None:
    """Utilisation lags and energy steps: a short probe tells nothing."""
    assert attribute(machine(card(), card(), runners={}), subject(size_vram_bytes=9 * GIB)).cards == ()
    assert attribute(machine(card(seconds=0.8), runners={}), subject()).cards is None


def test_a_lost_card_is_no_quiet_card() -> None:
    """A card that fell off the bus is no evidence of the CPU."""
    lost = replace(card(), samples=(Sample(at=0.0, utilization_ratio=0.0), Sample(at=2.0)))
    assert attribute(machine(lost, runners={}), subject()).cards is None


def test_mig_is_not_guessed() -> None:
    """Nothing is said of a machine with a card in MIG mode, unless the runner is on another card."""
    mig = busy(mig=True, processes={RUNNER: 9 * GIB})
    assert attribute(machine(mig), subject()).cards is None
    assert attribute(machine(mig, card()), subject()).cards is None
    assert attribute(machine(card(mig=True), busy(processes={RUNNER: GIB})), subject()).cards == (1,)


def test_what_rises() -> None:
    """By utilisation or by power; a busy card's power moves by half, and stale utilisation hides no steep rise."""
    assert rose(card(utilization=0.2))
    assert rose(card(utilization=None, watts=100.0))
    assert not rose(card(utilization=0.05, watts=80.0))
    assert not rose(card(utilization=1.0, utilization_before=0.95, watts=690, watts_before=520))
    assert rose(card(utilization=0.9, utilization_before=0.89, watts=440, watts_before=124))
    assert not rose(card(before=None, utilization=0.9))


def test_what_is_quiet() -> None:
    """Idle noise is; a card of which nothing is told is not."""
    assert quiet(card(utilization=0.04, watts=73))
    assert quiet(card(utilization=None, watts=12.0, watts_before=7.0))
    assert not quiet(card(utilization=0.0, watts=100))
    assert not quiet(card(utilization=None, watts=None))


@dataclass(frozen=True)
class System:
    """A machine that does not change between two probes of a model."""

    cards: int
    model_on: frozenset[int]
    foreign_on: frozenset[int]
    occasional_on: frozenset[int]
    """Cards on which something draws a little now and then."""
    pids_map: bool
    energy_told: bool
    shares_told: bool
    claim: int | None
    idle_watts: float


@st.composite
def systems(draw: st.DrawFn) -> System:
    """Return a machine of one to four cards, with the model on some of them or on none."""
    count = draw(st.integers(1, 4))
    numbers = st.frozensets(st.integers(0, count - 1))
    model_on = draw(numbers)
    pids_map = draw(st.booleans())
    others, occasional = draw(numbers), draw(numbers) - model_on
    if not pids_map:  # then others' work can be told neither from a model's on the same card, nor from one on the CPU
        others, occasional = (others - model_on, occasional) if model_on else (frozenset(), frozenset())
    return System(
        cards=count,
        model_on=model_on,
        foreign_on=others,
        occasional_on=occasional,
        pids_map=pids_map,
        energy_told=draw(st.booleans()),
        shares_told=draw(st.booleans()),
        claim=draw(st.sampled_from([None, 9 * GIB])),
        idle_watts=draw(st.floats(10, 130)),
    )


def watched(noise: Random, system: System) -> Evidence:
    """Return what one probe of a system sees, with the noise seen on real cards."""
    seconds = noise.uniform(1, 20)
    spread = max(1, len(system.model_on))
    cards = []
    for number in range(system.cards):
        ours, foreign = number in system.model_on, number in system.foreign_on
        before, during = noise.uniform(0, 0.02), noise.uniform(0, 0.04)
        watts_before, watts = (system.idle_watts * noise.uniform(0.98, 1.02) for _ in range(2))
        if number in system.occasional_on:
            before, during = noise.uniform(0, 0.3), noise.uniform(0, 0.2 / spread)
        if ours:
            during = noise.uniform(0.8, 0.95) / spread
            watts = system.idle_watts * noise.uniform(2.2, 4)
            if system.energy_told and noise.random() < 0.5:
                before = 0.89  # it lags: what the probe before left
        if foreign:
            before, during = noise.uniform(0.9, 1), noise.uniform(0.9, 1)
            watts_before, watts = 600 * noise.uniform(0.8, 1.2), 650 * noise.uniform(0.95, 1.05)
        hidden = 0 if system.pids_map else HIDDEN
        pids = {RUNNER + hidden: 5 * GIB} if ours else {}
        pids |= {FOREIGN + hidden: GIB} if foreign else {}
        shares = {pid: noise.uniform(0.05, 0.9) for pid in pids if noise.random() < 0.7}
        cards.append(
            card(
                seconds=seconds,
                utilization=during,
                utilization_before=before,
                watts=watts if system.energy_told else None,
                watts_before=watts_before if system.energy_told else None,
                processes=pids,
                shares=shares if system.shares_told and noise.random() < 0.8 else None,
                memory_used_bytes=10 * GIB if ours or foreign else GIB,
            )
        )
    if not system.pids_map:
        return Evidence(cards=tuple(cards))
    return Evidence(
        cards=tuple(cards), runners={RUNNER: MODEL}, visible=frozenset({RUNNER, FOREIGN}), machine_pids=True
    )


@given(systems(), st.integers(0, 2**32))
def test_the_label_of_an_unchanged_system_never_flips(system: System, seed: int) -> None:
    """However noisy the samples, the label is the true one from the first probe on."""
    labels, model, noise = Labels(), subject(size_vram_bytes=system.claim), Random(seed)
    names = [f"card {number}" for number in range(system.cards)]
    seen = set()
    for _ in range(8):
        verdict = labels.settle(model.pair, attribute(watched(noise, system), model))
        seen.add(choose(verdict, model, names, mig=False).label)
    assert seen == {" + ".join(f"card {number}" for number in sorted(system.model_on)) or CPU}
