"""Which GPUs ran the model, given the evidence of a probe. Noise does not change a label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import recorded_gpus
from support.recorded_gpus import MODEL, OTHER_MODEL, probed_model

from exporter.gpu.attribution import Attribution, attribute, became_active, is_idle
from exporter.gpu.base import Counters, ProbedModel, Sample
from exporter.gpu.evidence import CardEvidence, Evidence
from exporter.gpu.labels import AttributionHistory, choose_label
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
    """Return a GPU with this utilisation and power during a probe, and just before it."""
    times = [seconds * step / 8 for step in range(9)]
    energy = None if watts is None else watts * seconds
    base = CardEvidence(
        card=recorded_gpus.card(),
        processes={},
        shares={},
        before=Sample(at=0.0, utilization_ratio=utilization_before, power_watts=watts_before),
        samples=tuple(Sample(at=at, utilization_ratio=utilization, power_watts=watts) for at in times),
        start=Counters(at=0.0, energy_joules=None if energy is None else 0.0),
        end=Counters(at=seconds, energy_joules=energy),
        memory_used_bytes=10 * GIB,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def busy(**changes: object) -> CardEvidence:
    """Return a GPU that generated during the probe and was idle before it."""
    return card(utilization=0.9, watts=440.0, watts_before=124.0, **changes)  # type: ignore[arg-type]


def machine(*cards: CardEvidence, **changes: object) -> Evidence:
    """Return a machine on which the model's runner, another model's and another program are visible; GPUs from 0 up."""
    base = Evidence(
        cards=tuple(replace(one, card=replace(one.card, index=index)) for index, one in enumerate(cards)),
        runners={RUNNER: MODEL, OTHER_RUNNER: OTHER_MODEL},
        visible=frozenset({RUNNER, OTHER_RUNNER, FOREIGN}),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def attributed(evidence: Evidence, model: ProbedModel | None = None) -> tuple[tuple[int, ...] | None, int | None]:
    """Return the indexes of the GPUs that ran the model, and the runner."""
    attribution = attribute(evidence, model or probed_model())
    cards = attribution.cards
    return None if cards is None else tuple(card.index for card in cards), attribution.runner


def gpus(evidence: Evidence, model: ProbedModel | None = None) -> tuple[int, ...] | None:
    """Return the indexes of the GPUs that ran the model."""
    return attributed(evidence, model)[0]


def test_the_runner_comes_before_activity() -> None:
    """The GPU with the runner's pid ran the model, even if another one became active too."""
    evidence = machine(busy(processes={FOREIGN: GIB}), busy(processes={RUNNER: 9 * GIB}))
    assert attributed(evidence) == ((1,), RUNNER)


def test_a_runner_seen_only_by_its_compute_time_is_on_the_gpu() -> None:
    """The process list of NVML contains compute contexts only; a Vulkan runner appears by its compute time."""
    assert gpus(machine(busy(shares={RUNNER: 0.8}))) == (0,)


def test_a_context_on_another_gpu_does_not_count() -> None:
    """Old runners open a context on every GPU and work on one."""
    cards = busy(processes={RUNNER: 9 * GIB}), card(processes={RUNNER: GIB // 2})
    assert gpus(machine(*cards)) == (0,)
    context = card(processes={RUNNER: None}, shares={RUNNER: 0.0})
    assert gpus(machine(busy(processes={RUNNER: None}, shares={RUNNER: 0.9}), context)) == (0,)


def test_a_runner_with_only_a_context_is_on_the_cpu() -> None:
    """Without compute time on a GPU that stayed idle, nothing of the model ran there."""
    evidence = machine(card(processes={RUNNER: GIB // 2}, shares={RUNNER: 0.0}))
    assert attributed(evidence) == ((), RUNNER)


def test_a_starved_runner_is_still_on_its_gpu() -> None:
    """A runner without measurable compute time on a GPU that other work keeps fully busy is not on the CPU."""
    loaded = card(
        utilization=1.0,
        utilization_before=1.0,
        watts=700,
        watts_before=690,
        processes={RUNNER: 9 * GIB, FOREIGN: GIB},
        shares={RUNNER: 0.0, FOREIGN: 0.99},
    )
    assert gpus(machine(loaded)) == (0,)


def test_of_two_runners_of_one_model_the_busier_one_counts() -> None:
    """Two servers on one machine have loaded the same file, each on another GPU."""
    cards = card(processes={RUNNER: 9 * GIB}, shares={RUNNER: 0.01}), busy(processes={7: 9 * GIB}, shares={7: 0.8})
    assert attributed(machine(*cards, runners={RUNNER: MODEL, 7: MODEL})) == ((1,), 7)


def test_a_runner_on_no_gpu_is_on_the_cpu_whatever_the_gpus_do() -> None:
    """The pids match, and the runner's is not on the GPU."""
    evidence = machine(busy(processes={FOREIGN: GIB}))
    assert attributed(evidence, probed_model(size_vram_bytes=9 * GIB)) == ((), RUNNER)


@pytest.mark.parametrize("listed", [{HIDDEN: GIB}, {HIDDEN: GIB, FOREIGN: GIB}, {}, None])
def test_where_pids_do_not_match_activity_decides(listed: dict[int, int] | None) -> None:
    """If a listed pid does not exist here, or none is listed, an unlisted runner may still be on the GPU."""
    assert gpus(machine(card(), busy(processes=listed))) == (1,)


def test_in_the_machines_own_pid_namespace_an_empty_list_is_evidence() -> None:
    """On a desktop, whose GPU is busy with windows, a runner that is not listed is on the CPU."""
    drawing = card(utilization=0.3, processes={})
    assert gpus(machine(drawing, machine_pids=True)) == ()
    assert gpus(machine(replace(drawing, processes=None), machine_pids=True)) == (0,)


def test_an_active_gpu_needs_enough_memory_for_the_model() -> None:
    """A GPU that became active but uses less memory than `/api/ps` reports for the model did other work."""
    unseen = machine(busy(processes=None), runners={})
    assert gpus(unseen, probed_model(size_vram_bytes=10 * GIB)) == (0,)
    assert gpus(unseen, probed_model(size_vram_bytes=20 * GIB)) is None
    assert gpus(unseen, probed_model(size_vram_bytes=0)) is None
    unknown = machine(busy(processes=None, memory_used_bytes=None), runners={})
    assert gpus(unknown, probed_model(size_vram_bytes=10 * GIB)) == (0,)


def test_a_gpu_that_is_much_less_active_than_another_did_other_work() -> None:
    """The layers of a model are distributed about evenly over its GPUs."""
    slightly = card(utilization=0.2, watts=440.0, watts_before=124.0, processes=None)
    equally = busy(processes=None)
    assert gpus(machine(equally, slightly, runners={})) == (0,)
    assert gpus(machine(equally, equally, runners={})) == (0, 1)


def test_idle_gpus_are_evidence_of_the_cpu_only_after_a_second() -> None:
    """Utilisation lags and energy is updated in steps, so a short probe proves nothing."""
    assert gpus(machine(card(), card(), runners={}), probed_model(size_vram_bytes=9 * GIB)) == ()
    assert gpus(machine(card(seconds=0.8), runners={})) is None


def test_a_lost_gpu_is_not_idle() -> None:
    """A GPU that fell off the bus does not show that the model ran on the CPU."""
    lost = replace(card(), samples=(Sample(at=0.0, utilization_ratio=0.0), Sample(at=2.0)))
    assert gpus(machine(lost, runners={})) is None


def test_a_partitioned_gpu_is_undetermined() -> None:
    """A machine with a GPU in MIG mode is undetermined, unless the runner is on another GPU."""
    partitioned = busy(card=recorded_gpus.card(partitioned=True), processes={RUNNER: 9 * GIB})
    assert gpus(machine(partitioned)) is None
    assert gpus(machine(partitioned, card())) is None
    assert gpus(machine(replace(partitioned, processes={}), busy(processes={RUNNER: GIB}))) == (1,)


def test_what_counts_as_active() -> None:
    """Utilisation or power increased; if the GPU was busy before, the power has to increase much more."""
    assert became_active(card(utilization=0.2))
    assert became_active(card(utilization=None, watts=100.0))
    assert not became_active(card(utilization=0.05, watts=80.0))
    assert not became_active(card(utilization=1.0, utilization_before=0.95, watts=690, watts_before=520))
    assert became_active(card(utilization=0.9, utilization_before=0.89, watts=440, watts_before=124))
    assert not became_active(card(before=None, utilization=0.9))


def test_what_counts_as_idle() -> None:
    """Idle noise counts as idle; a GPU that reports neither utilisation nor power does not."""
    assert is_idle(card(utilization=0.04, watts=73))
    assert is_idle(card(utilization=None, watts=12.0, watts_before=7.0))
    assert not is_idle(card(utilization=0.0, watts=100))
    assert not is_idle(card(utilization=None, watts=None))


def test_the_reason_names_the_gpus_and_the_runner() -> None:
    """By the index that `gpus` lists, which need not be the position."""
    evidence = Evidence(
        cards=(
            busy(card=recorded_gpus.card(4), processes={RUNNER: GIB}),
            busy(card=recorded_gpus.card(6), processes={}),
        ),
        runners={RUNNER: MODEL},
    )
    reason = attribute(evidence, probed_model()).reason
    assert f"pid {RUNNER}" in reason
    assert "GPU 4" in reason
    assert "GPU 6" not in reason


@dataclass(frozen=True)
class System:
    """A machine that does not change between probes of a model."""

    cards: int
    model_on: frozenset[int]
    foreign_on: frozenset[int]
    occasional_on: frozenset[int]
    """GPUs on which something draws now and then."""
    pids_match: bool
    energy_reported: bool
    shares_reported: bool
    size_vram_bytes: int | None
    idle_watts: float


@st.composite
def systems(draw: st.DrawFn) -> System:
    """Return a machine of one to four GPUs, with the model on some of them or on none."""
    count = draw(st.integers(1, 4))
    numbers = st.frozensets(st.integers(0, count - 1))
    model_on = draw(numbers)
    pids_match = draw(st.booleans())
    others, occasional = draw(numbers), draw(numbers) - model_on
    if not pids_match:  # other work cannot be distinguished from the model's
        others, occasional = (others - model_on, occasional) if model_on else (frozenset(), frozenset())
    return System(
        cards=count,
        model_on=model_on,
        foreign_on=others,
        occasional_on=occasional,
        pids_match=pids_match,
        energy_reported=draw(st.booleans()),
        shares_reported=draw(st.booleans()),
        size_vram_bytes=draw(st.sampled_from([None, 9 * GIB])),
        idle_watts=draw(st.floats(10, 130)),
    )


def observed(noise: Random, system: System) -> Evidence:
    """Return what one probe of a system observes, with noise as on real GPUs."""
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
            if system.energy_reported and noise.random() < 0.5:
                before = 0.89  # utilisation lags: the previous probe's
        if foreign:
            before, during = noise.uniform(0.9, 1), noise.uniform(0.9, 1)
            watts_before, watts = 600 * noise.uniform(0.8, 1.2), 650 * noise.uniform(0.95, 1.05)
        hidden = 0 if system.pids_match else HIDDEN
        pids = {RUNNER + hidden: 5 * GIB} if ours else {}
        pids |= {FOREIGN + hidden: GIB} if foreign else {}
        shares = {pid: noise.uniform(0.05, 0.9) for pid in pids if noise.random() < 0.7}
        cards.append(
            card(
                card=recorded_gpus.card(number),
                seconds=seconds,
                utilization=during,
                utilization_before=before,
                watts=watts if system.energy_reported else None,
                watts_before=watts_before if system.energy_reported else None,
                processes=pids,
                shares=shares if system.shares_reported and noise.random() < 0.8 else None,
                memory_used_bytes=10 * GIB if ours or foreign else GIB,
            )
        )
    if not system.pids_match:
        return Evidence(cards=tuple(cards))
    return Evidence(
        cards=tuple(cards), runners={RUNNER: MODEL}, visible=frozenset({RUNNER, FOREIGN}), machine_pids=True
    )


@given(systems(), st.integers(0, 2**32))
def test_the_label_of_an_unchanged_system_does_not_change(system: System, seed: int) -> None:
    """However noisy the samples, the label is right from the first probe on."""
    history, noise = AttributionHistory(), Random(seed)
    model = probed_model(size_vram_bytes=system.size_vram_bytes)
    labels = set()
    for _ in range(8):
        evidence = observed(noise, system)
        attribution: Attribution = history.update(model.key, attribute(evidence, model))
        labels.add(choose_label(attribution, model, [each.card for each in evidence.cards]).label)
    assert labels == {" + ".join(f"card {number}" for number in sorted(system.model_on)) or CPU}
