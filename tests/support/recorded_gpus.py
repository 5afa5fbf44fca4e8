"""Machines whose NVML answers and command lines were recorded, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pynvml
from support.nvml_recording import Replay, load

from exporter.gpu.base import Card, GpuReader, ProbedModel
from exporter.gpu.monitor import GpuMonitor
from exporter.gpu.nvidia import NvidiaReader
from exporter.gpu.processes import CommandLine, Processes
from exporter.gpu.recording import Clock
from exporter.plan import ModelKey
from exporter.reading import GpuObservation

MODEL, OTHER_MODEL = "a" * 64, "b" * 64
"""The digests in the recordings' command lines."""
H100 = "NVIDIA H100 80GB HBM3"
NEVER = 3600.0
"""Seconds between two samples of the monitor itself, so that only the test takes samples."""
CONTAINER = Path("/nowhere")
"""The namespace link of a process that is not in the machine's pid namespace."""


def probed_model(**changes: Any) -> ProbedModel:
    """Return a model on this machine about which the server reports nothing."""
    fields: dict[str, Any] = {
        "key": ModelKey("here", "llama3.1"),
        "local": True,
        "configured": None,
        "blob": MODEL,
        "size_vram_bytes": None,
    }
    return ProbedModel(**{**fields, **changes})


def card(index: int = 0, **changes: Any) -> Card:
    """Return a card named `card INDEX`."""
    fields: dict[str, Any] = {
        "uuid": f"GPU-{index}",
        "name": f"card {index}",
        "index": index,
        "pci_bus_id": "",
        "vendor": "X",
        "driver_version": "",
    }
    return Card(**{**fields, **changes})


def fails(code: int) -> Callable[[Any], Any]:
    """Return a change of a recorded answer that makes the NVML call fail."""
    return lambda _answer: {"error": code}


@dataclass
class Machine:
    """One recorded machine. Its recording has a scene for each load that was observed."""

    recording: str
    now: float = 0.0
    command_lines: dict[int, CommandLine] = field(default_factory=dict)
    scenes: dict[str, Any] = field(init=False)
    replay: Replay = field(init=False)

    def __post_init__(self) -> None:
        """Load the recording."""
        self.scenes = load(self.recording)["scenes"]
        self.replay = Replay(self.scenes["identity"]["calls"], lambda: self.now)

    @property
    def processes(self) -> Processes:
        """The recorded processes, as a container sees them."""
        return Processes(self.command_lines.items, self.command_lines.get, CONTAINER)

    def play(self, scene: str, *, processes: bool = True) -> dict[str, Any]:
        """Go to the start of a scene; without `processes` the pids that NVML reports do not exist here."""
        recorded: dict[str, Any] = self.scenes[scene]
        self.replay.calls = {**self.scenes["identity"]["calls"], **recorded["calls"]}
        self.now = recorded["began"]
        if processes:
            self.command_lines |= {int(pid): line.split() for pid, line in recorded["cmdlines"].items()}
        return recorded

    def runner(self, scene: str) -> int:
        """Return the pid of the model's runner in a scene."""
        return next(int(pid) for pid, line in self.scenes[scene]["cmdlines"].items() if MODEL in line)

    def lose_gpus(self) -> None:
        """Make every call for a GPU fail as if it had fallen off the bus."""
        for name in dir(pynvml):
            if name.startswith("nvmlDevice"):
                self.replay.changes[name] = fails(pynvml.NVML_ERROR_GPU_IS_LOST)

    def open(self, *others: GpuReader, sample_seconds: float = NEVER) -> GpuMonitor:
        """Return a monitor of this machine's GPUs, and of those of other readers."""
        readers: Sequence[GpuReader] = (NvidiaReader(self.replay), *others)
        clock = Clock(lambda: self.now, lambda: self.now)
        return GpuMonitor(readers, processes=self.processes, clock=clock, sample_seconds=sample_seconds)

    async def probe(
        self,
        monitor: GpuMonitor,
        scene: str,
        model: ProbedModel | None = None,
        *,
        processes: bool = True,
        midway: Callable[[], None] = lambda: None,
    ) -> GpuObservation:
        """Observe one recorded probe from start to end; `midway` is called halfway through."""
        recorded = self.play(scene, processes=processes)
        watch = await monitor.watch(model or probed_model())
        self.now = recorded["first_token"]
        watch.first_token()
        await monitor.sample()  # waits until the worker has handled the first token
        steps = int((recorded["ended"] - recorded["began"]) / 0.25)
        for step in range(1, steps + 1):
            if step == steps // 2:
                midway()
            self.now = recorded["began"] + 0.25 * step
            await monitor.sample()
        self.now = recorded["ended"]
        return await watch.finish()
