"""The monitor as a probe uses it, on what NVML answered on real GPUs (tests/recordings/nvml-*.json)."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pynvml
import pytest
from support.recorded_gpus import H100, MODEL, OTHER_MODEL, Machine, fails, probed_model

from exporter.gpu.base import Sample
from exporter.gpu.monitor import GpuMonitor
from exporter.reading import CPU, UNKNOWN, GpuObservation, ThrottleReason

ALONE = {"model": False, "gpu": False}
COUNTERS = "nvmlDeviceGetFieldValues(0,[83, 74, 269, 270, 271])"
NOT_SUPPORTED = fails(pynvml.NVML_ERROR_NOT_SUPPORTED)
GB = 10**9


async def test_alone_on_one_gpu(one: Machine, monitor: GpuMonitor) -> None:
    """The GPU with the runner's pid, its state from the first token to the last, and no contention."""
    observation = await one.probe(monitor, "alone")
    assert (observation.label, observation.uuids) == (H100, (monitor.cards()[0].uuid,))
    assert observation.contended == ALONE
    assert observation.peak_bandwidth_bytes_per_second == pytest.approx(5120 * 2619e6 * 2 / 8)
    (started, first), (ended, last) = one.scenes["alone"]["calls"][COUNTERS][-2:]
    state = observation.state
    assert state is not None
    assert state.energy_joules == pytest.approx((last[0]["value"] - first[0]["value"]) / 1000)
    assert state.power_watts == pytest.approx(state.energy_joules / (ended - started), rel=0.03)
    capped = (last[1]["value"] - first[1]["value"]) / 1e9 / (ended - started)
    assert state.throttled_ratio[ThrottleReason.SW_POWER_CAP] == pytest.approx(min(1, capped), rel=0.03)
    assert set(state.throttled_ratio) == set(ThrottleReason)
    assert state.clock_hertz is not None
    assert 1.4e9 < state.clock_hertz < 1.7e9
    assert state.clock_max_hertz == 1.98e9
    assert state.temperature_celsius is not None
    assert 55 < state.temperature_celsius < 75
    assert state.utilization_ratio == pytest.approx(0.98, abs=0.03)


async def test_a_hot_gpu() -> None:
    """Thermal slowdown and the power cap each by their own counter; a reason without a counter by the samples."""
    hot = Machine("nvml-h100-hot.json")
    monitor = hot.open()
    state = (await hot.probe(monitor, "alone")).state
    await monitor.close()
    assert state is not None
    (started, first), (ended, last) = hot.scenes["alone"]["calls"][COUNTERS][-2:]
    reasons = ("sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake")
    for number, reason in enumerate(reasons, start=1):
        share = (last[number]["value"] - first[number]["value"]) / 1e9 / (ended - started)
        assert state.throttled_ratio[ThrottleReason(reason)] == pytest.approx(share, rel=0.03)
    assert state.throttled_ratio[ThrottleReason.SW_THERMAL] > 0.7
    assert 0.05 < state.throttled_ratio[ThrottleReason.HW_THERMAL] < 0.1
    assert 0.05 < state.throttled_ratio[ThrottleReason.HW_SLOWDOWN] < 0.2


@pytest.mark.parametrize(
    ("scene", "contended"),
    [("beside_foreign", {"model": False, "gpu": True}), ("beside_model", {"model": True, "gpu": False})],
)
async def test_contention(one: Machine, monitor: GpuMonitor, scene: str, contended: dict[str, bool]) -> None:
    """Another program on the GPU is `gpu`, another Ollama runner is `model`."""
    observation = await one.probe(monitor, scene)
    assert (observation.label, observation.contended) == (H100, contended)


async def test_a_model_on_two_gpus(two: Machine, monitor_of_two: GpuMonitor) -> None:
    """`2x NAME`, the sum of the power, the bandwidth of one GPU."""
    observation = await two.probe(monitor_of_two, "two_cards")
    assert observation.label == f"2x {H100}"
    assert observation.uuids == tuple(card.uuid for card in monitor_of_two.cards())
    assert observation.contended == ALONE
    assert observation.peak_bandwidth_bytes_per_second == pytest.approx(3.35232e12)
    assert observation.state is not None
    assert observation.state.power_watts is not None
    assert 900 < observation.state.power_watts < 1300
    assert observation.state.utilization_ratio == pytest.approx(0.49, abs=0.05)


async def test_a_program_on_another_gpu_is_no_contention(two: Machine, monitor_of_two: GpuMonitor) -> None:
    """Of two equal GPUs only the runner's counts."""
    observation = await two.probe(monitor_of_two, "foreign_on_other_card", probed_model(blob=OTHER_MODEL))
    assert (observation.label, observation.uuids) == (H100, (monitor_of_two.cards()[0].uuid,))
    assert observation.contended == ALONE


@pytest.mark.parametrize("size_vram", [0, 8 * GB, None], ids=["right", "wrong", "absent"])
@pytest.mark.parametrize("scene", ["cpu_idle", "cpu_beside_foreign"])
@pytest.mark.parametrize("configured", [None, "my card"])
async def test_a_runner_on_no_gpu_is_on_the_cpu(
    one: Machine, monitor: GpuMonitor, size_vram: int | None, scene: str, configured: str | None
) -> None:
    """Whatever `/api/ps` reports, the configuration says, or other programs do on the GPU."""
    model = probed_model(blob=OTHER_MODEL, size_vram_bytes=size_vram, configured=configured)
    assert await one.probe(monitor, scene, model) == GpuObservation(label=CPU)


@pytest.mark.parametrize("size_vram", [0, 8 * GB], ids=["right", "wrong"])
async def test_where_pids_do_not_match_idle_gpus_mean_the_cpu(
    one: Machine, monitor: GpuMonitor, size_vram: int
) -> None:
    """In a container, a GPU that stayed idle is evidence enough."""
    model = probed_model(blob=OTHER_MODEL, size_vram_bytes=size_vram)
    assert (await one.probe(monitor, "cpu_idle", model, processes=False)).label == CPU


async def test_a_configured_label_names_the_observed_gpus(two: Machine, monitor_of_two: GpuMonitor) -> None:
    """The label is the configured one, the uuids are those of the GPUs that ran the model."""
    observation = await two.probe(monitor_of_two, "two_cards", probed_model(configured="both H100s"))
    assert (observation.label, len(observation.uuids)) == ("both H100s", 2)


async def test_where_pids_do_not_match_active_gpus_count(two: Machine, monitor_of_two: GpuMonitor) -> None:
    """In a container, one busy pid on each GPU is the model's own runner."""
    model = probed_model(size_vram_bytes=5 * GB)
    observation = await two.probe(monitor_of_two, "two_cards", model, processes=False)
    assert (observation.label, observation.contended) == (f"2x {H100}", ALONE)


async def test_where_pids_do_not_match_active_gpus_need_enough_memory(two: Machine, monitor_of_two: GpuMonitor) -> None:
    """GPUs that cannot hold the model did other work."""
    model = probed_model(size_vram_bytes=40 * GB)
    observation = await two.probe(monitor_of_two, "two_cards", model, processes=False)
    assert (observation.label, observation.uuids) == (UNKNOWN, ())


async def test_where_pids_do_not_match_two_busy_processes_are_contention(one: Machine, monitor: GpuMonitor) -> None:
    """One of two busy pids is not the model's runner; which kind of program it is, is unknown."""
    assert (await one.probe(monitor, "beside_foreign", processes=False)).contended == {"gpu": True}


async def test_a_container_in_which_only_the_process_list_is_translated(one: Machine, monitor: GpuMonitor) -> None:
    """Recent drivers list the container's pids but report shares by the host's: the runner is still alone."""
    one.replay.changes["nvmlDeviceGetComputeRunningProcesses"] = lambda _: [{"pid": 7, "usedGpuMemory": 0}]
    one.command_lines[7] = ("ollama", "runner", "--model", f"/blobs/sha256-{MODEL}")
    observation = await one.probe(monitor, "alone", processes=False)
    assert (observation.label, observation.contended) == (H100, ALONE)


async def test_a_gpu_that_is_lost_during_a_probe(one: Machine, monitor: GpuMonitor) -> None:
    """The observation has no state, the probe does not fail, and the label stays."""
    assert (await one.probe(monitor, "alone")).state is not None
    observation = await one.probe(monitor, "alone", midway=one.lose_gpus)
    assert (observation.label, observation.state) == (H100, None)
    observation = await one.probe(monitor, "alone")
    assert (observation.label, observation.state, observation.contended) == (H100, None, {})


async def test_a_gpu_without_an_energy_counter(one: Machine, monitor: GpuMonitor) -> None:
    """The integral of the sampled power is close to what the counter reports."""
    by_counter = (await one.probe(monitor, "alone")).state
    one.replay.changes["nvmlDeviceGetFieldValues"] = lambda fields: [
        {**each, "return": 3} if each["fieldId"] == 83 else each for each in fields
    ]
    one.replay.changes["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
    by_samples = (await one.probe(monitor, "alone")).state
    assert by_counter is not None
    assert by_samples is not None
    assert by_samples.energy_joules != by_counter.energy_joules
    assert by_samples.energy_joules == pytest.approx(by_counter.energy_joules, rel=0.08)


async def test_an_old_gpu_without_counters(one: Machine, monitor: GpuMonitor) -> None:
    """Power is the mean of the samples, and throttling is the share of the samples that report it."""
    one.replay.changes["nvmlDeviceGetFieldValues"] = NOT_SUPPORTED
    one.replay.changes["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
    one.replay.changes["nvmlDeviceGetPowerUsage"] = lambda _: 250_000
    state = (await one.probe(monitor, "alone")).state
    assert state is not None
    assert state.power_watts == pytest.approx(250)
    assert 0.5 < state.throttled_ratio[ThrottleReason.SW_POWER_CAP] <= 1


async def test_a_gpu_that_reports_neither_memory_nor_processes(one: Machine, monitor: GpuMonitor) -> None:
    """What is missing is absent, and the only GPU is still the label."""
    for name in ("MemoryInfo", "ComputeRunningProcesses", "ProcessUtilization", "Temperature"):
        one.replay.changes[f"nvmlDeviceGet{name}"] = NOT_SUPPORTED
    observation = await one.probe(monitor, "alone")
    assert (observation.label, observation.contended) == (H100, {})
    assert observation.state is not None
    assert observation.state.temperature_celsius is None
    assert observation.state.energy_joules is not None


@pytest.mark.parametrize("bad", [-1, float("nan")])
async def test_numbers_that_are_not_valid_fail_no_probe(one: Machine, monitor: GpuMonitor, bad: float) -> None:
    """The observation lacks what NVML reports wrongly, and has the rest."""
    one.replay.changes["nvmlDeviceGetTemperature"] = lambda _: bad
    one.replay.changes["nvmlDeviceGetFieldValues"] = lambda fields: [
        {**each, "type": 0, "value": bad} for each in fields
    ]
    one.replay.changes["nvmlDeviceGetTotalEnergyConsumption"] = lambda _: bad
    one.replay.changes["nvmlDeviceGetPowerUsage"] = lambda _: bad
    observation = await one.probe(monitor, "alone")
    assert observation.label == H100
    assert observation.state is not None
    assert observation.state.temperature_celsius is None
    assert observation.state.energy_joules is None
    assert observation.state.clock_hertz is not None


async def test_a_partitioned_gpu_is_unknown(one: Machine) -> None:
    """MIG: which of its partitions ran the model is not known, unless the label is configured."""
    one.replay.changes["nvmlDeviceGetMigMode"] = lambda _: [1, 1]
    monitor = one.open()
    assert (await one.probe(monitor, "alone")).label == UNKNOWN
    assert "MIG" in (await monitor.explain(probed_model())).reason
    assert (await one.probe(monitor, "alone", probed_model(configured="1g.10gb"))).label == "1g.10gb"
    await monitor.close()


@pytest.mark.parametrize(("with_gpu", "local"), [(True, False), (False, True), (False, False)])
async def test_where_no_gpu_can_be_read(one: Machine, with_gpu: bool, local: bool) -> None:
    """On a machine without GPUs, and for servers elsewhere, only the label is known, and no library is called."""
    monitor = one.open() if with_gpu else GpuMonitor()
    threads = threading.active_count()
    for size_vram, configured, label in ((0, "A", CPU), (5, "A", "A"), (None, None, UNKNOWN)):
        model = probed_model(local=local, size_vram_bytes=size_vram, configured=configured)
        watch = await monitor.watch(model)
        watch.first_token()
        assert await watch.finish() == GpuObservation(label=label)
        watch.abandon()
        assert (await monitor.explain(model)).label == label
        monitor.forget(model.key)
    assert threading.active_count() == threads
    await monitor.close()


async def test_a_change_of_the_label_is_logged_once(
    one: Machine, monitor: GpuMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """With the model, the label and the reason."""
    with caplog.at_level(logging.INFO):
        await one.probe(monitor, "alone")
        await one.probe(monitor, "alone")
    (record,) = caplog.records
    fields = record.fields  # type: ignore[attr-defined]
    assert (fields["target"], fields["model"], fields["gpu"]) == ("here", "llama3.1", H100)
    assert f"pid {one.runner('alone')}" in fields["reason"]


async def test_the_label_of_a_forgotten_model_is_logged_again(
    one: Machine, monitor: GpuMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that returns to the configuration is a new one."""
    with caplog.at_level(logging.INFO):
        await one.probe(monitor, "alone")
        monitor.forget(probed_model().key)
        await one.probe(monitor, "alone")
    assert len(caplog.records) == 2


async def test_a_forgotten_model_starts_again(two: Machine, monitor_of_two: GpuMonitor) -> None:
    """The attribution of a model is dropped with the model."""
    model = probed_model()
    await two.probe(monitor_of_two, "two_cards", model)
    two.lose_gpus()
    assert (await two.probe(monitor_of_two, "two_cards", model)).label == f"2x {H100}"
    monitor_of_two.forget(model.key)
    assert (await two.probe(monitor_of_two, "two_cards", model)).label == UNKNOWN


async def test_explain(one: Machine, monitor: GpuMonitor) -> None:
    """The label by what is on the GPUs now, without a probe, and why."""
    one.play("alone")
    choice = await monitor.explain(probed_model())
    assert (choice.label, choice.cards) == (H100, monitor.cards())
    assert f"pid {one.runner('alone')}" in choice.reason
    unloaded = await monitor.explain(probed_model(blob="c" * 64))
    assert unloaded.label == H100
    assert "only one GPU" in unloaded.reason
    one.play("cpu_idle")
    assert (await monitor.explain(probed_model(blob=OTHER_MODEL))).label == CPU


async def test_gpus_are_sampled_only_during_probes(one: Machine) -> None:
    """Sampling goes on while a probe is observed, and ends with it, finished or abandoned."""
    reads = 0
    enough = threading.Event()

    def count(answer: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads > 5:
            enough.set()
        return answer

    one.replay.changes["nvmlDeviceGetUtilizationRates"] = count
    monitor = one.open(sample_seconds=0.0)
    one.play("alone")
    for end in ("abandon", "finish"):
        reads = 0
        enough.clear()
        watch = await monitor.watch(probed_model())
        watch.first_token()
        assert await asyncio.to_thread(enough.wait, 30)
        if end == "abandon":
            watch.abandon()
        else:
            await watch.finish()
        assert monitor._sampling is not None
        await asyncio.wait_for(monitor._sampling, 30)
        before = reads
        await asyncio.wrap_future(monitor._worker.submit(lambda: None))
        assert reads == before
    await monitor.close()


async def test_sampling_ends_when_a_library_fails(one: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """The library is not called again during this probe, and the error is logged once; the next probe samples again."""
    monitor = one.open(sample_seconds=0.0)
    one.play("alone")
    watch = await monitor.watch(probed_model())
    one.replay.changes["nvmlDeviceGetUtilizationRates"] = lambda _: {"unexpected": 0}
    assert monitor._sampling is not None
    await asyncio.wait_for(monitor._sampling, 30)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    watch.abandon()
    del one.replay.changes["nvmlDeviceGetUtilizationRates"]
    watch = await monitor.watch(probed_model())
    assert not monitor._sampling.done()
    await monitor.close()


async def test_closing_during_a_probe(one: Machine) -> None:
    """Sampling ends and NVML is shut down."""
    shut: list[None] = []
    one.replay.changes["nvmlShutdown"] = shut.append
    monitor = one.open()
    one.play("alone")
    await monitor.watch(probed_model())
    await monitor.close()
    assert shut == [None]
    assert monitor._sampling is not None
    assert monitor._sampling.done()


def test_a_sample_without_any_value_is_empty() -> None:
    """One value is enough for a GPU to count as present."""
    assert Sample(at=0.0).empty
    assert not Sample(at=0.0, throttled=frozenset()).empty
