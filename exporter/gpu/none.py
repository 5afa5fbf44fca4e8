"""No card can be seen from here: the label is the operator's word, or what `/api/ps` claims."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.gpu.base import Card, Explanation, ProbedModel, Watch
from exporter.plan import ModelKey
from exporter.reading import CPU, UNKNOWN, GpuObservation


def claim(subject: ProbedModel) -> Explanation:
    """Return `cpu` where `/api/ps` says that nothing is on a GPU, else the operator's word, else `unknown`."""
    if subject.size_vram_bytes == 0:
        return Explanation(label=CPU, reason="the server says that nothing of the model is on a GPU (size_vram 0)")
    if subject.configured:
        return Explanation(label=subject.configured, reason="configured (`gpu` of the target)")
    return Explanation(label=UNKNOWN, reason="no card of its machine can be read from here; set `gpu` of the target")


@dataclass(frozen=True, slots=True)
class ClaimWatch:
    """A watch that sees nothing but the claim made before the probe."""

    subject: ProbedModel

    def first_token(self) -> None:
        """Do nothing."""

    async def finish(self) -> GpuObservation:
        """Return the claimed label and nothing else."""
        return GpuObservation(label=claim(self.subject).label)

    def abandon(self) -> None:
        """Do nothing."""


class NoGpuMonitor:
    """The room of a machine without a card that can be read."""

    def cards(self) -> tuple[Card, ...]:
        """Return none."""
        return ()

    async def watch(self, subject: ProbedModel) -> Watch:
        """Return a watch that will repeat the claim."""
        return ClaimWatch(subject)

    async def explain(self, subject: ProbedModel) -> Explanation:
        """Return the claim and what it rests on."""
        return claim(subject)

    def forget(self, key: ModelKey) -> None:
        """Remember nothing, so forget nothing."""

    async def close(self) -> None:
        """Hold nothing, so release nothing."""
