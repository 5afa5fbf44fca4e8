"""The GPU room on a recorded driver, a clock that is moved by hand, and a `/proc` made of files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.nvml_recording import Replay, load

from exporter.gpu.base import ProbedModel
from exporter.gpu.monitor import NvidiaMonitor, open_nvidia
from exporter.gpu.processes import Processes
from exporter.gpu.recording import Clock
from exporter.plan import ModelKey
from exporter.reading import GpuObservation

MODEL, OTHER_MODEL = "a" * 64, "b" * 64
"""The digests in the recordings' command lines."""
H100 = "NVIDIA H100 80GB HBM3"
LOG = logging.getLogger("test.gpu")
NEVER = 3600.0
"""Between two samples that nobody asked for."""


def subject(**changes: Any) -> ProbedModel:
    """Return a model on this machine of which the server tells nothing."""
    known: dict[str, Any] = {
        "pair": ModelKey("here", "llama3.1"),
        "local": True,
        "configured": None,
        "blob": MODEL,
        "size_bytes": None,
        "size_vram_bytes": None,
    }
    return ProbedModel(**{**known, **changes})


def fails(code: int) -> Callable[[Any], Any]:
    """Return what makes a call of the driver fail."""
    return lambda _answer: {"error": code}


@dataclass
class Stage:
    """One machine as it was recorded."""

    recording: str
    proc: Path
    now: float = 0.0
    scenes: dict[str, Any] = field(init=False)
    replay: Replay = field(init=False)

    def __post_init__(self) -> None:
        """Open the recording."""
        self.scenes = load(self.recording)["scenes"]
        self.replay = Replay({}, lambda: self.now)

    def play(self, scene: str, *, processes: bool = True) -> dict[str, Any]:
        """Go to the beginning of a scene; without processes `/proc` knows none of the driver's pids."""
        told: dict[str, Any] = self.scenes[scene]
        self.replay.calls = {**self.scenes["identity"]["calls"], **told["calls"]}
        self.now = told["began"]
        for pid, cmdline in told["cmdlines"].items() if processes else ():
            folder = self.proc / pid
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cmdline").write_bytes(cmdline.replace(" ", "\0").encode() + b"\0")
        return told

    def runner(self, scene: str) -> int:
        """Return the pid of the model's runner in a scene."""
        return next(int(pid) for pid, cmdline in self.scenes[scene]["cmdlines"].items() if MODEL in cmdline)

    async def open(self, driver: Callable[[], Any] | None = None) -> NvidiaMonitor:
        """Return the room on this machine's driver."""
        self.replay.calls = self.replay.calls or self.scenes["identity"]["calls"]
        return await open_nvidia(
            LOG,
            driver or (lambda: self.replay),
            processes=Processes(self.proc),
            clock=Clock(lambda: self.now, lambda: self.now),
            sample_seconds=NEVER,
        )

    async def probe(
        self,
        gpus: NvidiaMonitor,
        scene: str,
        model: ProbedModel | None = None,
        *,
        processes: bool = True,
        midway: Callable[[], None] = lambda: None,
    ) -> GpuObservation:
        """Watch one recorded probe from its beginning to its end; `midway` is called halfway through."""
        told = self.play(scene, processes=processes)
        watch = await gpus.watch(model or subject())
        self.now = told["first_token"]
        watch.first_token()
        await gpus.sample()  # the first token's reading is done when this is
        steps = int((told["ended"] - told["began"]) / 0.25)
        for step in range(1, steps + 1):
            if step == steps // 2:
                midway()
            self.now = told["began"] + 0.25 * step
            await gpus.sample()
        self.now = told["ended"]
        return await watch.finish()
