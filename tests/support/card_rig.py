"""The room on the real driver, loads for its cards, and what was seen of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

from support.nvml_recording import Recorder

from exporter.gpu.base import ProbedModel
from exporter.gpu.monitor import NvidiaMonitor
from exporter.plan import ModelKey
from exporter.reading import GpuObservation

LOAD = Path(__file__).parents[1] / "device" / "load.py"
PROBE_SECONDS = 2.0
FIRST_TOKEN_SECONDS = 0.05
MODEL, OTHER_MODEL = "a" * 64, "b" * 64


class Load:
    """A child that loads cards for so many seconds when told to."""

    alive: ClassVar[list[Load]] = []

    def __init__(self, cards: str, model: str | None = None) -> None:
        named = [] if model is None else ["--model", f"/models/blobs/sha256-{model}"]
        command = [sys.executable, str(LOAD), *named, "--cards", cards]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.alive.append(self)
        self._hear()

    def begin(self, seconds: float) -> None:
        """Start to work."""
        assert self.child.stdin is not None
        self.child.stdin.write(f"{seconds}\n")

    def _hear(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    async def done(self) -> None:
        """Wait for the end of the work."""
        await asyncio.to_thread(self._hear)

    def end(self) -> None:
        """Let the child go."""
        assert self.child.stdin is not None
        self.alive.remove(self)
        self.child.stdin.close()
        self.child.wait(20)


class Check:
    """The room on the real driver, the loads, and what was seen."""

    def __init__(self, gpus: NvidiaMonitor, recorder: Recorder) -> None:
        self.gpus = gpus
        self.recorder = recorder
        self.missed: list[str] = []
        self.scenes: dict[str, Any] = {}
        self.names = [card.name for card in gpus.cards()]

    def say(self, what: str, figure: object, *, good: bool | None = None) -> None:
        """Print one line, and remember a missed bar."""
        verdict = "" if good is None else ("  ok" if good else "  MISSED")
        print(f"{what:<64} {figure}{verdict}", flush=True)  # noqa: T201
        if good is False:
            self.missed.append(what)

    async def probe(
        self, runner: Load, *, seconds: float = PROBE_SECONDS, model: str = MODEL, gpus: NvidiaMonitor | None = None
    ) -> GpuObservation:
        """Do what a probe does: watch, have the model work, tell the first token, finish."""
        subject = ProbedModel(
            pair=ModelKey("here", model[:4]),
            local=True,
            configured=None,
            blob=model,
            size_bytes=None,
            size_vram_bytes=None,
        )
        watch = await (gpus or self.gpus).watch(subject)
        runner.begin(seconds)
        await asyncio.sleep(FIRST_TOKEN_SECONDS)
        watch.first_token()
        await runner.done()
        return await watch.finish()

    async def many(
        self,
        what: str,
        times: int,
        one: Callable[[], Awaitable[GpuObservation]],
        good: Callable[[GpuObservation], bool],
        *,
        bar: bool = True,
    ) -> list[GpuObservation]:
        """Probe several times and say how many came out right; all must, if that is the bar."""
        seen = []
        for _ in range(times):
            await asyncio.sleep(0.4)
            seen.append(await one())
        right = sum(good(observation) for observation in seen)
        self.say(what, f"{right} of {times}", good=right == times if bar else None)
        if right < times:
            self.say("  instead", Counter(f"{one.label} {dict(one.contended)}" for one in seen if not good(one)))
        return seen

    async def record(self, scene: str, one: Callable[[], Awaitable[GpuObservation]]) -> None:
        """Probe once and keep every answer of the driver."""
        await asyncio.sleep(0.6)
        self.recorder.scene = scene
        seen = await one()
        self.recorder.scene = None
        times = [at for answers in self.recorder.scenes[scene].values() for at, _ in answers]
        self.scenes[scene] = {
            "began": min(times),
            "first_token": round(min(times) + FIRST_TOKEN_SECONDS, 4),
            "ended": max(times),
            "cmdlines": {str(one.child.pid): " ".join(map(str, one.child.args)) for one in Load.alive},  # type: ignore[arg-type]
            "seen": {"label": seen.label, "contended": dict(seen.contended)},
        }


def seen_as_gpu(observation: GpuObservation) -> bool:
    """Return whether another program was seen, and no other model."""
    return observation.contended == {"model": False, "gpu": True}


def alone(observation: GpuObservation) -> bool:
    """Return whether nobody else was seen."""
    return observation.contended == {"model": False, "gpu": False}
