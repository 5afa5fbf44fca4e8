"""Holds the GPU room against a real NVIDIA card, and prints what it saw.

    python tests/device/check_card.py

It needs an otherwise idle card, nvidia-ml-py and PyTorch, and takes about six minutes. Nothing on the card is changed.
`--record FILE` writes what the driver answered, for the tests that run without a card. Exit status 1: a bar was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parents[number]) for number in (1, 2)]

import pynvml  # noqa: E402
from support.card_rig import (  # noqa: E402
    FIRST_TOKEN_SECONDS,
    LOAD,
    MODEL,
    OTHER_MODEL,
    PROBE_SECONDS,
    Check,
    Load,
    alone,
    seen_as_gpu,
)
from support.nvml_recording import Recorder  # noqa: E402

from exporter.gpu.monitor import open_nvidia  # noqa: E402
from exporter.gpu.nvidia import INSTANT_POWER_FIELD, Nvml  # noqa: E402
from exporter.gpu.processes import Processes  # noqa: E402
from exporter.reading import CPU, GpuObservation  # noqa: E402

SHORT_SECONDS, LONG_SECONDS = 2.0, 10.0
PARTS = ("costs", "sharing", "energy", "cpu", "ended", "models", "fallback")
log = logging.getLogger("check_card")


async def check_costs(check: Check, nvml: Nvml) -> None:
    """Say what one call of each kind costs."""
    questions: dict[str, Callable[[], object]] = {
        "sample": lambda: nvml.sample(0, 0.0),
        "counters (fields)": lambda: nvml.counters(0, time.monotonic),
        "energy (own call)": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(nvml._handles[0].real),
        "process list": lambda: nvml.processes(0),
        "SM time by process": lambda: nvml.shares(0, time.time() - 1),
        "memory": lambda: nvml.memory_used(0),
    }
    for name, question in questions.items():
        times, cpu = [], time.thread_time()
        for _ in range(50):
            began = time.perf_counter()
            question()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)
        cpu = (time.thread_time() - cpu) / 50
        self_cost = f"median {median(times) * 1e6:.0f} us, max {max(times) * 1e6:.0f} us, CPU {cpu * 1e6:.0f} us"
        check.say(f"cost: {name}", self_cost)


async def check_steps(check: Check, nvml: Nvml) -> None:
    """Say how often the energy counter moves, by the field and by its own call."""
    moves: dict[str, list[float]] = {"field": [], "call": []}
    last = {"field": -1.0, "call": -1.0}
    until = time.monotonic() + 2
    while time.monotonic() < until:
        energy = nvml.counters(0, time.monotonic).energy_joules or 0.0
        called = pynvml.nvmlDeviceGetTotalEnergyConsumption(nvml._handles[0].real) / 1000
        for name, value in (("field", energy), ("call", called)):
            if value != last[name]:
                moves[name].append(time.monotonic())
                last[name] = value
    for name, at in moves.items():
        gaps = [b - a for a, b in pairwise(at)]
        check.say(
            f"energy counter moves every ({name})", f"median {median(gaps) * 1e3:.0f} ms, {len(gaps)} steps in 2 s"
        )


async def check_sharing(check: Check, runner: Load, foreign: Load) -> None:
    """The bars on contention."""
    card = check.names[0]
    seen = await check.many("alone: nobody else seen", 20, lambda: check.probe(runner), alone)
    check.say("alone: label", Counter(one.label for one in seen), good={one.label for one in seen} == {card})
    states = [one.state for one in seen if one.state]
    for name in ("energy_joules", "power_watts", "clock_hertz", "temperature_celsius", "utilization_ratio"):
        values = [value for one in states if (value := getattr(one, name)) is not None]
        check.say(f"alone: {name}", f"{min(values):.4g} to {max(values):.4g}, median {median(values):.4g}")
    check.say("alone: throttled", {k.value: round(v, 3) for k, v in states[-1].throttled_ratio.items()})
    check.say(
        "alone: clock maximum, peak bandwidth", (states[-1].clock_max_hertz, seen[-1].peak_bandwidth_bytes_per_second)
    )

    async def beside() -> GpuObservation:
        foreign.begin(PROBE_SECONDS + 0.6)
        await asyncio.sleep(0.3)
        observation = await check.probe(runner)
        await foreign.done()
        return observation

    async def within() -> GpuObservation:
        async def later() -> None:
            await asyncio.sleep(0.5)
            foreign.begin(0.8)
            await foreign.done()

        other = asyncio.create_task(later())
        observation = await check.probe(runner)
        await other
        return observation

    async def just_after() -> GpuObservation:
        foreign.begin(1.0)
        await foreign.done()
        return await check.probe(runner)

    await check.many("beside a second load: `gpu`", 20, beside, seen_as_gpu)
    # No bar: the driver names whoever had the SMs when it looked, five times a second, and may miss a short guest.
    await check.many("a load for 0.8 s within: `gpu`", 10, within, seen_as_gpu, bar=False)
    await check.many("right after a second load: nobody else seen", 10, just_after, alone)
    await check.record("alone", lambda: check.probe(runner))
    await check.record("beside_foreign", beside)


async def check_models(check: Check, runner: Load, other: Load) -> None:
    """Two runners of Ollama's on one card."""

    async def beside() -> GpuObservation:
        other.begin(PROBE_SECONDS + 0.6)
        await asyncio.sleep(0.3)
        observation = await check.probe(runner)
        await other.done()
        return observation

    only_model = {"model": True, "gpu": False}
    await check.many("beside another model's runner: `model`", 10, beside, lambda one: one.contended == only_model)
    wrong = 0
    for _ in range(10):  # no pause between them: what is left of the one must not be told of the other
        wrong += not alone(await check.probe(other, seconds=1.0, model=OTHER_MODEL))
        wrong += not alone(await check.probe(runner, seconds=1.0))
    check.say("two models in turn, 1 s each, no pause: nobody else seen", f"{20 - wrong} of 20", good=wrong == 0)
    for seconds in (0.3, 0.5, 0.7):
        seen = [await check.probe(runner, seconds=seconds) for _ in range(5)]
        utilizations = [one.state and one.state.utilization_ratio for one in seen]
        check.say(f"probes of {seconds} s", f"{Counter(str(dict(one.contended)) for one in seen)}, {utilizations}")
    await check.record("beside_model", beside)


async def check_energy(check: Check, runner: Load) -> None:
    """The counter against instantaneous power, integrated at 50 Hz and as the samples would be."""
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
        began = time.monotonic() + FIRST_TOKEN_SECONDS
        observation = await check.probe(runner, seconds=8.0)
        ended = time.monotonic()
        stop.set()
        thread.join()
        inside = [one for one in power if began <= one[0] <= ended]
        pairs = pairwise(inside)
        joules = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs)
        state = observation.state
        assert state is not None
        assert state.energy_joules is not None
        off = state.energy_joules / joules - 1
        told = f"{state.energy_joules:.0f} J by the counter, {joules:.0f} J integrated at 50 Hz: {off:+.2%}"
        check.say("energy over 8 s", told, good=abs(off) < 0.05)
        await asyncio.sleep(0.5)


async def check_cpu_share(check: Check, runner: Load) -> None:
    """What watching costs this process, all threads of it, for each card: at both ends, and for each second between."""
    seen: dict[float, float] = {}
    for seconds in (SHORT_SECONDS, LONG_SECONDS):
        spent = []
        for _ in range(3):
            await asyncio.sleep(0.3)
            cpu = time.process_time()
            await check.probe(runner, seconds=seconds)
            spent.append((time.process_time() - cpu) / len(check.names))
        seen[seconds] = median(spent)
        check.say(f"CPU of watching for {seconds:g} s, for each card", f"{seen[seconds] * 1e3:.1f} ms")
    sampling = (seen[LONG_SECONDS] - seen[SHORT_SECONDS]) / (LONG_SECONDS - SHORT_SECONDS)
    check.say("CPU of sampling, for each card", f"{sampling:.2%} of a core", good=sampling < 0.01)
    ends = seen[SHORT_SECONDS] - sampling * SHORT_SECONDS
    check.say("CPU at both ends, for each card (the energy counter)", f"{ends * 1e3:.1f} ms")


async def check_ended(check: Check, runner: Load) -> None:
    """A program that comes and ends within a probe."""
    for _ in range(3):
        foreign = Load("0")

        async def work(foreign: Load = foreign) -> None:
            await asyncio.sleep(0.9)
            foreign.begin(2.0)
            await foreign.done()
            await asyncio.to_thread(foreign.end)

        other = asyncio.create_task(work())  # it works from 0.5 to 2.5 s of the probe, and then ends
        await check.many("a program that ends within: `gpu`", 1, lambda: check.probe(runner, seconds=4.5), seen_as_gpu)
        await other


async def check_fallback(check: Check, runner: Load, foreign: Load, fallen: Load) -> None:
    """A runner on the CPU, with and without somebody else on the card; and a place where pids mean nothing."""

    async def beside() -> GpuObservation:
        foreign.begin(PROBE_SECONDS + 0.6)
        await asyncio.sleep(0.3)
        observation = await check.probe(fallen, model=OTHER_MODEL)
        await foreign.done()
        return observation

    def idle() -> Awaitable[GpuObservation]:
        return check.probe(fallen, model=OTHER_MODEL)

    await check.many("a runner on the CPU, the card idle: cpu", 5, idle, lambda one: one.label == CPU)
    await check.many("a runner on the CPU beside a load: cpu", 5, beside, lambda one: one.label == CPU)
    await check.record("cpu_beside_foreign", beside)
    blind = await open_nvidia(log, lambda: pynvml, processes=Processes(Path("/nowhere")))

    def by_activity() -> Awaitable[GpuObservation]:
        return check.probe(runner, gpus=blind)

    def by_quiet() -> Awaitable[GpuObservation]:
        return check.probe(fallen, model=OTHER_MODEL, gpus=blind)

    names = check.names
    await check.many("pids mean nothing: the card by its activity", 5, by_activity, lambda one: one.label == names[0])
    await check.many("pids mean nothing: nobody else seen", 5, by_activity, alone)
    await check.many("pids mean nothing, a runner on the CPU: cpu", 5, by_quiet, lambda one: one.label == CPU)
    await check.record("cpu_idle", idle)


async def check_two(check: Check) -> None:
    """A model over two cards, and a load on the other card."""
    first, both = Load("0", OTHER_MODEL), Load("0,1", MODEL)
    foreign = Load("1")
    pair = f"2x {check.names[0]}"

    async def beside() -> GpuObservation:
        foreign.begin(PROBE_SECONDS + 0.6)
        await asyncio.sleep(0.3)
        observation = await check.probe(first, model=OTHER_MODEL)
        await foreign.done()
        return observation

    await check_cpu_share(check, first)
    await check_ended(check, both)
    seen = await check.many("over two cards", 10, lambda: check.probe(both), lambda one: one.label == pair)
    check.say("over two cards: nobody else seen", sum(map(alone, seen)), good=all(map(alone, seen)))
    check.say("over two cards: state", seen[-1].state)

    def other_card(one: GpuObservation) -> bool:
        return one.label == check.names[0] and alone(one)

    await check.many("a load on the other card does not count", 10, beside, other_card)
    blind = await open_nvidia(log, lambda: pynvml, processes=Processes(Path("/nowhere")))
    by_activity = await check.many(
        "pids mean nothing: two cards by activity",
        5,
        lambda: check.probe(both, gpus=blind),
        lambda one: one.label == pair,
    )
    check.say("  nobody else seen", sum(map(alone, by_activity)))
    await check.record("two_cards", lambda: check.probe(both))
    await check.record("foreign_on_other_card", beside)
    for child in (first, both, foreign):
        child.end()


async def check_one(check: Check, nvml: Nvml, parts: Collection[str]) -> None:
    """Everything that one card can show, or the named parts of it."""
    runner, foreign = Load("0", MODEL), Load("0")
    if "costs" in parts:
        await check_costs(check, nvml)
        await check_steps(check, nvml)
    if "sharing" in parts:
        await check_sharing(check, runner, foreign)
    if "energy" in parts:
        await check_energy(check, runner)
    if "cpu" in parts:
        await check_cpu_share(check, runner)
    if "ended" in parts:
        await check_ended(check, runner)
    if "models" in parts:
        other = Load("0", OTHER_MODEL)
        await check_models(check, runner, other)
        other.end()
    if "fallback" in parts:
        fallen = Load("none", OTHER_MODEL)
        await check_fallback(check, runner, foreign, fallen)
        fallen.end()
    for child in (runner, foreign):
        child.end()


def anonymous(text: str, check: Check) -> str:
    """Return the recording without what would name this card and this machine."""
    for number, card in enumerate(check.gpus.cards()):
        text = text.replace(card.uuid, f"GPU-00000000-0000-4000-8000-{number:012d}")
    return text.replace(sys.executable, "python").replace(str(LOAD), "load.py")


async def main() -> int:
    """Check, print, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="of the parts for one card")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print("the machine's own pids:", Processes().of_the_machine(), flush=True)  # noqa: T201
    recorder = Recorder(pynvml)
    gpus = await open_nvidia(log, lambda: recorder)
    recorder.scene = None
    check = Check(gpus, recorder)
    if len(gpus.cards()) > 1:
        await check_two(check)
    else:
        await check_one(check, gpus._nvml, options.only)
    if options.record:
        scenes = {name: {**check.scenes.get(name, {}), "calls": calls} for name, calls in recorder.scenes.items()}
        driver = gpus.cards()[0].driver_version
        about = (
            f"By tests/device/check_card.py on {len(check.names)} x {check.names[0]}, driver {driver}; uuids replaced."
        )
        text = json.dumps({"about": about, "scenes": scenes}, separators=(",", ":"))
        options.record.write_text(anonymous(text, check) + "\n")
    check.say("bars missed", check.missed or "none")
    await gpus.close()
    return 1 if check.missed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
