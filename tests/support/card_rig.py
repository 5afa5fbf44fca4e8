"""A monitor on real NVIDIA GPUs, loads for them, and what was observed of the loads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

from support.nvml_recording import Recorder
from support.recorded_gpus import MODEL, probed_model

from exporter.gpu.monitor import GpuMonitor
from exporter.plan import ModelKey
from exporter.reading import GpuObservation

LOAD = Path(__file__).parents[1] / "device" / "load.py"
PROBE_SECONDS = 2.0
FIRST_TOKEN_SECONDS = 0.05


class Load:
    """A child process that loads GPUs for a number of seconds when asked to."""

    running: ClassVar[list[Load]] = []

    def __init__(self, cards: str, model: str | None = None) -> None:
        """Start the child and wait until it is ready. With `model` it looks like an Ollama runner."""
        arguments = [] if model is None else ["--model", f"/models/blobs/sha256-{model}"]
        command = [sys.executable, str(LOAD), *arguments, "--cards", cards]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.running.append(self)
        self._read_line()

    def start(self, seconds: float) -> None:
        """Start to work."""
        assert self.child.stdin is not None
        self.child.stdin.write(f"{seconds}\n")

    def _read_line(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    async def done(self) -> None:
        """Wait until the work is done."""
        await asyncio.to_thread(self._read_line)

    def end(self) -> None:
        """End the child."""
        assert self.child.stdin is not None
        self.running.remove(self)
        self.child.stdin.close()
        self.child.wait(20)


class Check:
    """The monitor, and the results of the checks."""

    def __init__(self, monitor: GpuMonitor, recorder: Recorder) -> None:
        self.monitor = monitor
        self.recorder = recorder
        self.failed: list[str] = []
        self.scenes: dict[str, Any] = {}
        self.names = [card.name for card in monitor.cards()]

    def report(self, what: str, figure: object, *, passed: bool | None = None) -> None:
        """Print one line; with `passed` it is a check that can fail."""
        result = {None: "", True: "  ok", False: "  FAILED"}[passed]
        print(f"{what:<64} {figure}{result}", flush=True)  # noqa: T201 - the program's output
        if passed is False:
            self.failed.append(what)

    async def probe(
        self, runner: Load, *, seconds: float = PROBE_SECONDS, model: str = MODEL, monitor: GpuMonitor | None = None
    ) -> GpuObservation:
        """Do what a probe does: observe, start the work, signal the first token, finish."""
        watch = await (monitor or self.monitor).watch(probed_model(key=ModelKey("here", model[:4]), blob=model))
        runner.start(seconds)
        await asyncio.sleep(FIRST_TOKEN_SECONDS)
        watch.first_token()
        await runner.done()
        return await watch.finish()

    async def repeat(
        self,
        what: str,
        times: int,
        probe: Callable[[], Awaitable[GpuObservation]],
        right: Callable[[GpuObservation], bool],
        *,
        required: bool = True,
    ) -> list[GpuObservation]:
        """Probe several times and report how many observations are right; all have to be, if `required`."""
        observations = []
        for _ in range(times):
            await asyncio.sleep(0.4)
            observations.append(await probe())
        wrong = [observation for observation in observations if not right(observation)]
        self.report(what, f"{times - len(wrong)} of {times}", passed=not wrong if required else None)
        if wrong:
            self.report("  instead", Counter(f"{each.label} {dict(each.contended)}" for each in wrong))
        return observations

    async def record(self, scene: str, probe: Callable[[], Awaitable[GpuObservation]]) -> None:
        """Probe once and record every answer of NVML."""
        await asyncio.sleep(0.6)
        self.recorder.scene = scene
        observation = await probe()
        self.recorder.scene = None
        times = [at for answers in self.recorder.scenes[scene].values() for at, _ in answers]
        self.scenes[scene] = {
            "began": min(times),
            "first_token": round(min(times) + FIRST_TOKEN_SECONDS, 4),
            "ended": max(times),
            "cmdlines": {str(each.child.pid): " ".join(map(str, each.child.args)) for each in Load.running},  # type: ignore[arg-type]
            "seen": {"label": observation.label, "contended": dict(observation.contended)},
        }


def other_program(observation: GpuObservation) -> bool:
    """Return whether another program was observed, and no other model."""
    return observation.contended == {"model": False, "gpu": True}


def alone(observation: GpuObservation) -> bool:
    """Return whether no other process was observed."""
    return observation.contended == {"model": False, "gpu": False}
