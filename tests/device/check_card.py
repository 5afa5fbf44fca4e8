"""Check the GPU monitor against real NVIDIA GPUs, and print the figures.

    python tests/device/check_card.py

It needs idle GPUs, nvidia-ml-py and PyTorch, and takes about six minutes. It changes no setting of a GPU.
`--record FILE` writes what NVML answered, for the tests that run without a GPU. The exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parents[number]) for number in (1, 2)]

import pynvml  # noqa: E402 - after sys.path is set
from support.card_rig import (  # noqa: E402 - after sys.path is set
    FIRST_TOKEN_SECONDS,
    LOAD,
    PROBE_SECONDS,
    Check,
    Load,
    alone,
    other_program,
)
from support.nvml_recording import Recorder  # noqa: E402 - after sys.path is set
from support.recorded_gpus import CONTAINER, MODEL, OTHER_MODEL  # noqa: E402 - after sys.path is set

from exporter.gpu.monitor import GpuMonitor  # noqa: E402 - after sys.path is set
from exporter.gpu.nvidia import INSTANT_POWER_FIELD, NvidiaCardReader, NvidiaReader  # noqa: E402 - as above
from exporter.gpu.processes import Processes  # noqa: E402 - after sys.path is set
from exporter.logs import configure_logging  # noqa: E402 - after sys.path is set
from exporter.reading import CPU, GpuObservation  # noqa: E402 - after sys.path is set

SHORT_SECONDS, LONG_SECONDS = 2.0, 10.0
PARTS = ("costs", "sharing", "energy", "cpu", "ended", "models", "fallback")
UNMATCHED = Processes(lambda: (), lambda _: None, CONTAINER)
"""No process is visible, as in a container."""


async def check_costs(check: Check, card: NvidiaCardReader) -> None:
    """Report what one call of each kind costs."""
    calls: dict[str, Callable[[], object]] = {
        "sample": lambda: card.sample(0.0),
        "counters (fields)": lambda: card.counters(time.monotonic),
        "energy (own call)": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(card._handle.real),
        "process list": card.processes,
        "compute time by process": lambda: card.shares(time.time() - 1),
        "memory": card.memory_used,
    }
    for name, call in calls.items():
        times, cpu = [], time.thread_time()
        for _ in range(50):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
            await asyncio.sleep(0.005)
        cpu = (time.thread_time() - cpu) / 50
        figure = f"median {median(times) * 1e6:.0f} us, max {max(times) * 1e6:.0f} us, CPU {cpu * 1e6:.0f} us"
        check.report(f"cost: {name}", figure)


async def check_steps(check: Check, card: NvidiaCardReader) -> None:
    """Report how often the energy counter is updated, as a field and by its own call."""
    updates: dict[str, list[float]] = {"field": [], "call": []}
    last = {"field": -1.0, "call": -1.0}
    until = time.monotonic() + 2
    while time.monotonic() < until:
        energy = card.counters(time.monotonic).energy_joules or 0.0
        called = pynvml.nvmlDeviceGetTotalEnergyConsumption(card._handle.real) / 1000
        for name, value in (("field", energy), ("call", called)):
            if value != last[name]:
                updates[name].append(time.monotonic())
                last[name] = value
    for name, times in updates.items():
        gaps = [b - a for a, b in pairwise(times)]
        figure = f"median {median(gaps) * 1e3:.0f} ms, {len(gaps)} steps in 2 s"
        check.report(f"energy counter is updated every ({name})", figure)


async def probe_with_load(check: Check, other: Load, runner: Load, model: str = MODEL) -> GpuObservation:
    """Probe while another load works, from before the probe until after it."""
    other.start(PROBE_SECONDS + 0.6)
    await asyncio.sleep(0.3)
    observation = await check.probe(runner, model=model)
    await other.done()
    return observation


async def check_sharing(check: Check, runner: Load, other: Load) -> None:
    """Another program shares the GPU, or does not."""
    card = check.names[0]
    observations = await check.repeat("alone: no other process", 20, lambda: check.probe(runner), alone)
    labels = Counter(each.label for each in observations)
    check.report("alone: label", labels, passed=set(labels) == {card})
    states = [each.state for each in observations if each.state]
    for name in ("energy_joules", "power_watts", "clock_hertz", "temperature_celsius", "utilization_ratio"):
        values = [value for state in states if (value := getattr(state, name)) is not None]
        check.report(f"alone: {name}", f"{min(values):.4g} to {max(values):.4g}, median {median(values):.4g}")
    check.report("alone: throttled", {k.value: round(v, 3) for k, v in states[-1].throttled_ratio.items()})
    maxima = (states[-1].clock_max_hertz, observations[-1].peak_bandwidth_bytes_per_second)
    check.report("alone: maximum clock, peak bandwidth", maxima)

    async def within() -> GpuObservation:
        async def later() -> None:
            await asyncio.sleep(0.5)
            other.start(0.8)
            await other.done()

        task = asyncio.create_task(later())
        observation = await check.probe(runner)
        await task
        return observation

    async def just_after() -> GpuObservation:
        other.start(1.0)
        await other.done()
        return await check.probe(runner)

    await check.repeat("a second load: `gpu`", 20, lambda: probe_with_load(check, other, runner), other_program)
    # Not required: the driver samples five times a second which process uses the SMs, and can miss a short load.
    await check.repeat("a load for 0.8 s during the probe: `gpu`", 10, within, other_program, required=False)
    await check.repeat("right after a second load: no other process", 10, just_after, alone)
    await check.record("alone", lambda: check.probe(runner))
    await check.record("beside_foreign", lambda: probe_with_load(check, other, runner))


async def check_models(check: Check, runner: Load, other: Load) -> None:
    """Two Ollama runners on one GPU."""

    def other_model(observation: GpuObservation) -> bool:
        return observation.contended == {"model": True, "gpu": False}

    await check.repeat(
        "another model's runner: `model`", 10, lambda: probe_with_load(check, other, runner), other_model
    )
    wrong = 0
    for _ in range(10):  # without a pause: the first model's compute time must not count for the second
        wrong += not alone(await check.probe(other, seconds=1.0, model=OTHER_MODEL))
        wrong += not alone(await check.probe(runner, seconds=1.0))
    check.report("two models in turn, 1 s each: no other process", f"{20 - wrong} of 20", passed=wrong == 0)
    for seconds in (0.3, 0.5, 0.7):
        observations = [await check.probe(runner, seconds=seconds) for _ in range(5)]
        utilizations = [each.state and each.state.utilization_ratio for each in observations]
        contended = Counter(str(dict(each.contended)) for each in observations)
        check.report(f"probes of {seconds} s", f"{contended}, {utilizations}")
    await check.record("beside_model", lambda: probe_with_load(check, other, runner))


async def check_energy(check: Check, runner: Load) -> None:
    """The energy counter against the integral of the instantaneous power at 50 Hz."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    for _ in range(3):
        power: list[tuple[float, float]] = []
        stop = threading.Event()

        def sample(power: list[tuple[float, float]] = power, stop: threading.Event = stop) -> None:
            while not stop.wait(0.02):
                value = pynvml.nvmlDeviceGetFieldValues(handle, [INSTANT_POWER_FIELD])[0].value.uiVal / 1000
                power.append((time.monotonic(), value))

        thread = threading.Thread(target=sample)
        thread.start()
        started = time.monotonic() + FIRST_TOKEN_SECONDS
        observation = await check.probe(runner, seconds=8.0)
        ended = time.monotonic()
        stop.set()
        thread.join()
        inside = [(at, watts) for at, watts in power if started <= at <= ended]
        joules = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(inside))
        state = observation.state
        assert state is not None
        assert state.energy_joules is not None
        off = state.energy_joules / joules - 1
        figure = f"{state.energy_joules:.0f} J by the counter, {joules:.0f} J integrated at 50 Hz: {off:+.2%}"
        check.report("energy over 8 s", figure, passed=abs(off) < 0.05)
        await asyncio.sleep(0.5)


async def check_cpu_share(check: Check, runner: Load) -> None:
    """CPU time of all threads of this process per GPU: at the start and end of a probe, and per second between."""
    costs: dict[float, float] = {}
    for seconds in (SHORT_SECONDS, LONG_SECONDS):
        spent = []
        for _ in range(3):
            await asyncio.sleep(0.3)
            cpu = time.process_time()
            await check.probe(runner, seconds=seconds)
            spent.append((time.process_time() - cpu) / len(check.names))
        costs[seconds] = median(spent)
        check.report(f"CPU of a probe of {seconds:g} s, per GPU", f"{costs[seconds] * 1e3:.1f} ms")
    sampling = (costs[LONG_SECONDS] - costs[SHORT_SECONDS]) / (LONG_SECONDS - SHORT_SECONDS)
    check.report("CPU of sampling, per GPU", f"{sampling:.2%} of a core", passed=sampling < 0.01)
    ends = costs[SHORT_SECONDS] - sampling * SHORT_SECONDS
    check.report("CPU at start and end (the energy counter), per GPU", f"{ends * 1e3:.1f} ms")


async def check_ended(check: Check, runner: Load) -> None:
    """A program that starts to work and ends during a probe."""
    for _ in range(3):
        other = Load("0")

        async def work(other: Load = other) -> None:
            await asyncio.sleep(0.9)
            other.start(2.0)
            await other.done()
            await asyncio.to_thread(other.end)

        task = asyncio.create_task(work())  # it works from 0.5 to 2.5 s of the probe, and then ends
        what = "a program that ends during the probe: `gpu`"
        await check.repeat(what, 1, lambda: check.probe(runner, seconds=4.5), other_program)
        await task


async def check_fallback(check: Check, runner: Load, other: Load, on_cpu: Load) -> None:
    """A runner on the CPU, with and without other work on the GPU; and pids that cannot be matched."""
    unmatched = unmatched_monitor()

    def on_cpu_with_load() -> Awaitable[GpuObservation]:
        return probe_with_load(check, other, on_cpu, OTHER_MODEL)

    def on_cpu_alone() -> Awaitable[GpuObservation]:
        return check.probe(on_cpu, model=OTHER_MODEL)

    def by_activity() -> Awaitable[GpuObservation]:
        return check.probe(runner, monitor=unmatched)

    def by_idleness() -> Awaitable[GpuObservation]:
        return check.probe(on_cpu, model=OTHER_MODEL, monitor=unmatched)

    def is_cpu(observation: GpuObservation) -> bool:
        return observation.label == CPU

    def is_first(observation: GpuObservation) -> bool:
        return observation.label == check.names[0]

    await check.repeat("a runner on the CPU, idle GPU: cpu", 5, on_cpu_alone, is_cpu)
    await check.repeat("a runner on the CPU, busy GPU: cpu", 5, on_cpu_with_load, is_cpu)
    await check.record("cpu_beside_foreign", on_cpu_with_load)
    await check.repeat("pids do not match: the GPU by its activity", 5, by_activity, is_first)
    await check.repeat("pids do not match: no other process", 5, by_activity, alone)
    await check.repeat("pids do not match, a runner on the CPU: cpu", 5, by_idleness, is_cpu)
    await check.record("cpu_idle", on_cpu_alone)
    await unmatched.close()


async def check_two(check: Check) -> None:
    """A model on two GPUs, and a load on the other GPU."""
    first, both, other = Load("0", OTHER_MODEL), Load("0,1", MODEL), Load("1")
    unmatched = unmatched_monitor()

    def is_both(observation: GpuObservation) -> bool:
        return observation.label == f"2x {check.names[0]}"

    def is_first_alone(observation: GpuObservation) -> bool:
        return observation.label == check.names[0] and alone(observation)

    def first_with_load() -> Awaitable[GpuObservation]:
        return probe_with_load(check, other, first, OTHER_MODEL)

    def by_activity() -> Awaitable[GpuObservation]:
        return check.probe(both, monitor=unmatched)

    await check_cpu_share(check, first)
    await check_ended(check, both)
    observations = await check.repeat("on two GPUs", 10, lambda: check.probe(both), is_both)
    count = sum(map(alone, observations))
    check.report("on two GPUs: no other process", count, passed=count == len(observations))
    check.report("on two GPUs: state", observations[-1].state)
    await check.repeat("a load on the other GPU does not count", 10, first_with_load, is_first_alone)
    observations = await check.repeat("pids do not match: two GPUs by activity", 5, by_activity, is_both)
    check.report("  no other process", sum(map(alone, observations)))
    await check.record("two_cards", lambda: check.probe(both))
    await check.record("foreign_on_other_card", first_with_load)
    await unmatched.close()
    for child in (first, both, other):
        child.end()


def unmatched_monitor() -> GpuMonitor:
    """Return a monitor that cannot match pids."""
    return GpuMonitor([NvidiaReader(pynvml)], processes=UNMATCHED)


async def check_one(check: Check, card: NvidiaCardReader, parts: Collection[str]) -> None:
    """Check everything that one GPU can show, or parts of it."""
    runner, other = Load("0", MODEL), Load("0")
    if "costs" in parts:
        await check_costs(check, card)
        await check_steps(check, card)
    if "sharing" in parts:
        await check_sharing(check, runner, other)
    if "energy" in parts:
        await check_energy(check, runner)
    if "cpu" in parts:
        await check_cpu_share(check, runner)
    if "ended" in parts:
        await check_ended(check, runner)
    if "models" in parts:
        other_runner = Load("0", OTHER_MODEL)
        await check_models(check, runner, other_runner)
        other_runner.end()
    if "fallback" in parts:
        on_cpu = Load("none", OTHER_MODEL)
        await check_fallback(check, runner, other, on_cpu)
        on_cpu.end()
    for child in (runner, other):
        child.end()


def write_recording(path: Path, check: Check) -> None:
    """Write what NVML answered, without what would identify these GPUs and this machine."""
    recorded = check.recorder.scenes
    scenes = {name: {**check.scenes.get(name, {}), "calls": calls} for name, calls in recorded.items()}
    cards = check.monitor.cards()
    machine = f"{len(cards)} x {cards[0].name}, driver {cards[0].driver_version}"
    about = f"By tests/device/check_card.py on {machine}; uuids replaced."
    text = json.dumps({"about": about, "scenes": scenes}, separators=(",", ":"))
    for number, card in enumerate(cards):
        text = text.replace(card.uuid, f"GPU-00000000-0000-4000-8000-{number:012d}")
    path.write_text(text.replace(sys.executable, "python").replace(str(LOAD), "load.py") + "\n")


async def main() -> int:
    """Check, print, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path, help="Write what NVML answered to this file.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="Parts to run, of those for one GPU.")
    options = parser.parse_args()
    configure_logging("info", "logfmt")
    recorder = Recorder(pynvml)
    reader = NvidiaReader(recorder)
    monitor = GpuMonitor([reader])
    recorder.scene = None
    check = Check(monitor, recorder)
    check.report("in the machine's pid namespace", Processes().in_machine_namespace())
    if len(reader.cards) > 1:
        await check_two(check)
    else:
        await check_one(check, reader.cards[0], options.only)
    if options.record:
        write_recording(options.record, check)
    check.report("failed checks", check.failed or "none")
    await monitor.close()
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
