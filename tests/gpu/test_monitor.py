"""The NVIDIA room as a probe uses it, on what a real driver answered (tests/recordings/nvml-*.json)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pynvml
import pytest
from support.gpu_stage import H100, MODEL, OTHER_MODEL, Stage, fails, subject

from exporter.gpu.base import Explanation
from exporter.gpu.monitor import NvidiaMonitor
from exporter.reading import CPU, UNKNOWN, ThrottleReason

ALONE = {"model": False, "gpu": False}
COUNTERS = "nvmlDeviceGetFieldValues(0,[83, 74, 269, 270, 271])"


NOT_SUPPORTED = fails(pynvml.NVML_ERROR_NOT_SUPPORTED)
LOST = fails(pynvml.NVML_ERROR_GPU_IS_LOST)


@pytest.fixture
def one(tmp_path: Path) -> Stage:
    """One H100."""
    return Stage("nvml-h100.json", tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> Stage:
    """Two H100s."""
    return Stage("nvml-2xh100.json", tmp_path)


@pytest.fixture
async def gpus(one: Stage) -> AsyncIterator[NvidiaMonitor]:
    """The room of the one H100."""
    room = await one.open()
    yield room
    await room.close()


@pytest.fixture
async def pair_gpus(two: Stage) -> AsyncIterator[NvidiaMonitor]:
    """The room of the two H100s."""
    room = await two.open()
    yield room
    await room.close()


async def test_alone_on_one_card(one: Stage, gpus: NvidiaMonitor) -> None:
    """The card that holds the runner's pid; its state from the first token to the last; nobody else there."""
    seen = await one.probe(gpus, "alone")
    assert (seen.label, seen.uuids) == (H100, (gpus.cards()[0].uuid,))
    assert seen.contended == ALONE
    assert seen.peak_bandwidth_bytes_per_second == pytest.approx(5120 * 2619e6 * 2 / 8)
    (began, first), (ended, last) = one.scenes["alone"]["calls"][COUNTERS][-2:]
    state = seen.state
    assert state is not None
    assert state.energy_joules == pytest.approx((last[0]["value"] - first[0]["value"]) / 1000)
    assert state.power_watts == pytest.approx(state.energy_joules / (ended - began), rel=0.03)
    capped = (last[1]["value"] - first[1]["value"]) / 1e9 / (ended - began)
    assert state.throttled_ratio[ThrottleReason.SW_POWER_CAP] == pytest.approx(min(1, capped), rel=0.03)
    assert set(state.throttled_ratio) == set(ThrottleReason)
    assert state.clock_hertz is not None
    assert 1.4e9 < state.clock_hertz < 1.7e9
    assert state.clock_max_hertz == 1.98e9
    assert state.temperature_celsius is not None
    assert 55 < state.temperature_celsius < 75
    assert state.utilization_ratio == pytest.approx(0.98, abs=0.03)


async def test_a_hot_card(tmp_path: Path) -> None:
    """Thermal slowdown apart from the power cap, each by its counter; what has none by the samples."""
    hot = Stage("nvml-h100-hot.json", tmp_path)
    gpus = await hot.open()
    state = (await hot.probe(gpus, "alone")).state
    await gpus.close()
    assert state is not None
    (began, first), (ended, last) = hot.scenes["alone"]["calls"][COUNTERS][-2:]
    reasons = ("sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake")
    for number, reason in enumerate(reasons, start=1):
        share = (last[number]["value"] - first[number]["value"]) / 1e9 / (ended - began)
        assert state.throttled_ratio[ThrottleReason(reason)] == pytest.approx(share, rel=0.03)
    assert state.throttled_ratio[ThrottleReason.SW_THERMAL] > 0.7
    assert 0.05 < state.throttled_ratio[ThrottleReason.HW_THERMAL] < 0.1
    assert 0.05 < state.throttled_ratio[ThrottleReason.HW_SLOWDOWN] < 0.2


async def test_beside_another_program(one: Stage, gpus: NvidiaMonitor) -> None:
    """A foreign process with SM time during the probe is `gpu`, not `model`."""
    seen = await one.probe(gpus, "beside_foreign")
    assert (seen.label, seen.contended) == (H100, {"model": False, "gpu": True})


async def test_beside_another_model(one: Stage, gpus: NvidiaMonitor) -> None:
    """Another Ollama runner with SM time during the probe is `model`, not `gpu`."""
    seen = await one.probe(gpus, "beside_model")
    assert (seen.label, seen.contended) == (H100, {"model": True, "gpu": False})


async def test_over_two_cards(two: Stage, pair_gpus: NvidiaMonitor) -> None:
    """One pid on both cards: `2x NAME`, energy summed, bandwidth of one."""
    seen = await two.probe(pair_gpus, "two_cards")
    assert seen.label == f"2x {H100}"
    assert seen.uuids == tuple(card.uuid for card in pair_gpus.cards())
    assert seen.contended == ALONE
    assert seen.peak_bandwidth_bytes_per_second == pytest.approx(3.35232e12)
    assert seen.state is not None
    assert seen.state.power_watts is not None
    assert 900 < seen.state.power_watts < 1300
    assert seen.state.utilization_ratio == pytest.approx(0.49, abs=0.05)


async def test_another_program_on_the_other_card(two: Stage, pair_gpus: NvidiaMonitor) -> None:
    """Of two identical cards the runner's is named, and a load on the other one is no contention."""
    seen = await two.probe(pair_gpus, "foreign_on_other_card", subject(blob=OTHER_MODEL))
    assert (seen.label, seen.uuids) == (H100, (pair_gpus.cards()[0].uuid,))
    assert seen.contended == ALONE


@pytest.mark.parametrize("claim", [0, 8 * 10**9, None], ids=["honest", "lying", "silent"])
@pytest.mark.parametrize("scene", ["cpu_idle", "cpu_beside_foreign"])
@pytest.mark.parametrize("configured", [None, "my card"])
async def test_fall_to_the_cpu(
    one: Stage, gpus: NvidiaMonitor, claim: int | None, scene: str, configured: str | None
) -> None:
    """A runner on no card is `cpu`, whatever `/api/ps` claims, the configuration says, or others do on the card."""
    model = subject(blob=OTHER_MODEL, size_vram_bytes=claim, configured=configured)
    seen = await one.probe(gpus, scene, model)
    assert (seen.label, seen.uuids, seen.state, seen.contended) == (CPU, (), None, {})


@pytest.mark.parametrize("claim", [0, 8 * 10**9], ids=["honest", "lying"])
async def test_fall_to_the_cpu_where_pids_do_not_map(one: Stage, gpus: NvidiaMonitor, claim: int) -> None:
    """In a container an idle card is evidence enough."""
    model = subject(blob=OTHER_MODEL, size_vram_bytes=claim)
    assert (await one.probe(gpus, "cpu_idle", model, processes=False)).label == CPU


async def test_a_configured_label_names_what_was_observed(two: Stage, pair_gpus: NvidiaMonitor) -> None:
    """The operator's name stands, for the cards that were seen."""
    seen = await two.probe(pair_gpus, "two_cards", subject(configured="both H100s"))
    assert (seen.label, len(seen.uuids)) == ("both H100s", 2)


async def test_where_pids_do_not_map_the_cards_that_rose_are_told(two: Stage, pair_gpus: NvidiaMonitor) -> None:
    """A container: activity decides, and one busy pid on each card is the model's own."""
    seen = await two.probe(pair_gpus, "two_cards", subject(size_vram_bytes=5 * 10**9), processes=False)
    assert (seen.label, seen.contended) == (f"2x {H100}", ALONE)


async def test_where_pids_do_not_map_memory_has_the_last_word(two: Stage, pair_gpus: NvidiaMonitor) -> None:
    """Cards that rose but cannot have held the model are not taken for it."""
    seen = await two.probe(pair_gpus, "two_cards", subject(size_vram_bytes=40 * 10**9), processes=False)
    assert (seen.label, seen.uuids) == (UNKNOWN, ())


async def test_where_pids_do_not_map_two_busy_ones_are_contention(one: Stage, gpus: NvidiaMonitor) -> None:
    """Of two busy pids one is not the model's; which kind of program it is cannot be told."""
    assert (await one.probe(gpus, "beside_foreign", processes=False)).contended == {"gpu": True}


async def test_container_with_translated_process_list_but_not_sm_times(one: Stage, gpus: NvidiaMonitor) -> None:
    """New drivers list a container's own pids, yet time the host's: the runner is not its own foreigner."""
    one.replay.changes["nvmlDeviceGetComputeRunningProcesses"] = lambda _: [{"pid": 7, "usedGpuMemory": 0}]
    (one.proc / "7").mkdir()
    (one.proc / "7" / "cmdline").write_bytes(f"ollama\0runner\0--model\0/blobs/sha256-{MODEL}\0".encode())
    seen = await one.probe(gpus, "alone", processes=False)
    assert (seen.label, seen.contended) == (H100, ALONE)


async def test_a_card_that_falls_off_the_bus(one: Stage, gpus: NvidiaMonitor) -> None:
    """A reading without the GPU's state, not a failed probe; the label stays."""
    assert (await one.probe(gpus, "alone")).state is not None

    def fall() -> None:
        for name in dir(pynvml):
            if name.startswith("nvmlDevice"):
                one.replay.changes[name] = LOST

    seen = await one.probe(gpus, "alone", midway=fall)
    assert (seen.label, seen.state) == (H100, None)
    seen = await one.probe(gpus, "alone")
    assert (seen.label, seen.state, seen.contended) == (H100, None, {})


async def test_a_card_without_an_energy_counter(one: Stage, gpus: NvidiaMonitor) -> None:
    """Its energy is the integral of the sampled power, near what the counter would have said."""
    by_counter = (await one.probe(gpus, "alone")).state
    counters = "nvmlDeviceGetFieldValues"
    one.replay.changes[counters] = lambda fields: [
        {**one, "return": 3} if one["fieldId"] == 83 else one for one in fields
    ]
    one.replay.changes["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
    by_samples = (await one.probe(gpus, "alone")).state
    assert by_counter is not None
    assert by_samples is not None
    assert by_samples.energy_joules != by_counter.energy_joules
    assert by_samples.energy_joules == pytest.approx(by_counter.energy_joules, rel=0.08)


async def test_an_old_card_without_fields(one: Stage, gpus: NvidiaMonitor) -> None:
    """No field values at all: average power is integrated, and throttling is the share of the samples that say so."""
    one.replay.changes["nvmlDeviceGetFieldValues"] = NOT_SUPPORTED
    one.replay.changes["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
    for scene in one.scenes.values():
        scene["calls"].update(
            {
                "nvmlDeviceGetPowerUsage(0)": [[0.0, 250_000]],
                "nvmlDeviceGetTotalEnergyConsumption(0)": [[0.0, 0]],
            }
        )
    state = (await one.probe(gpus, "alone")).state
    assert state is not None
    assert state.power_watts == pytest.approx(250)
    assert 0.5 < state.throttled_ratio[ThrottleReason.SW_POWER_CAP] <= 1


async def test_a_card_that_tells_neither_memory_nor_processes(one: Stage, gpus: NvidiaMonitor) -> None:
    """What is missing is absent; the only card is still the only card, and its state is told."""
    for name in ("MemoryInfo", "ComputeRunningProcesses", "ProcessUtilization", "Temperature", "MemoryBusWidth"):
        one.replay.changes[f"nvmlDeviceGet{name}"] = NOT_SUPPORTED
    seen = await one.probe(gpus, "alone")
    assert (seen.label, seen.contended) == (H100, {})
    assert seen.state is not None
    assert seen.state.temperature_celsius is None
    assert seen.state.energy_joules is not None


async def test_mig_is_unknown_with_its_reason(one: Stage) -> None:
    """A card in MIG mode is not guessed at; the operator's word is no guess."""
    one.replay.changes["nvmlDeviceGetMigMode"] = lambda _: [1, 1]
    gpus = await one.open()
    assert (await one.probe(gpus, "alone")).label == UNKNOWN
    assert "MIG" in (await gpus.explain(subject())).reason
    assert (await one.probe(gpus, "alone", subject(configured="1g.10gb"))).label == "1g.10gb"
    await gpus.close()


async def test_a_server_elsewhere_has_no_card_here(one: Stage, gpus: NvidiaMonitor) -> None:
    """The claim alone counts, and the driver is not asked."""
    one.replay.calls = {}
    for claim, configured, label in ((0, "A", CPU), (5, "A", "A"), (None, None, UNKNOWN)):
        model = subject(local=False, size_vram_bytes=claim, configured=configured)
        watch = await gpus.watch(model)
        watch.first_token()
        seen = await watch.finish()
        watch.abandon()
        assert (seen.label, seen.contended, seen.state) == (label, {}, None)
        assert (await gpus.explain(model)).label == label


async def test_a_change_of_the_label_is_logged_once(
    one: Stage, gpus: NvidiaMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Who wonders about a label finds its reason in the log."""
    with caplog.at_level(logging.INFO):
        await one.probe(gpus, "alone")
        await one.probe(gpus, "alone")
    assert [record.getMessage() for record in caplog.records] == [
        f"gpu of llama3.1 on here: {H100} (its runner (pid {one.runner('alone')}) is on card 0)"
    ]


async def test_a_forgotten_pair_starts_anew(two: Stage, pair_gpus: NvidiaMonitor) -> None:
    """What is remembered of a pair ends with it."""
    model = subject()
    await two.probe(pair_gpus, "two_cards", model)
    for name in dir(pynvml):
        if name.startswith("nvmlDevice"):
            two.replay.changes[name] = LOST
    assert (await two.probe(pair_gpus, "two_cards", model)).label == f"2x {H100}"
    pair_gpus.forget(model.pair)
    assert (await two.probe(pair_gpus, "two_cards", model)).label == UNKNOWN


async def test_explanations(one: Stage, gpus: NvidiaMonitor) -> None:
    """What `gpus` prints: by what is on the cards now, without a probe."""
    one.play("alone")
    reason = f"its runner (pid {one.runner('alone')}) is on card 0"
    assert await gpus.explain(subject()) == Explanation(label=H100, reason=reason)
    unloaded = await gpus.explain(subject(blob="c" * 64))
    assert unloaded.label == H100
    assert unloaded.reason.startswith("the only card; no runner of the model is seen on a card")
    one.play("cpu_idle")
    assert (await gpus.explain(subject(blob=OTHER_MODEL))).label == CPU


async def test_the_driver_is_asked_during_probes_alone(one: Stage) -> None:
    """Samples are taken by themselves while a probe is watched, and end with it, abandoned or finished."""
    asked = 0
    enough = threading.Event()

    def count(answer: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 5:
            enough.set()
        return answer

    one.replay.changes["nvmlDeviceGetUtilizationRates"] = count
    gpus = await one.open()
    gpus._sample_seconds = 0.0
    one.play("alone")
    for end in ("abandon", "finish"):
        asked = 0
        enough.clear()
        watch = await gpus.watch(subject())
        watch.first_token()
        assert await asyncio.to_thread(enough.wait, 30)
        if end == "abandon":
            watch.abandon()
        else:
            await watch.finish()
        assert gpus._sampling is not None
        await asyncio.wait_for(gpus._sampling, 30)
        before = asked
        await asyncio.wrap_future(gpus._worker.submit(lambda: None))
        assert asked == before
    await gpus.close()


async def test_closing_in_the_middle_of_a_probe(one: Stage) -> None:
    """The sampling ends and the driver is let go."""
    shut: list[None] = []
    one.replay.changes["nvmlShutdown"] = shut.append
    gpus = await one.open()
    one.play("alone")
    await gpus.watch(subject())
    await gpus.close()
    assert shut == [None]
    assert gpus._sampling is not None
    assert gpus._sampling.done()
