"""No card can be seen from here: the label is the operator's word, or what `/api/ps` claims."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.gpu import Card, Subject, Watch
from exporter.plan import Pair
from exporter.reading import CPU, UNKNOWN, Observation


def claimed_label(subject: Subject) -> str:
    """Return `cpu` where `/api/ps` says that nothing is on a GPU, else the operator's word, else `unknown`."""
    if subject.size_vram_bytes == 0:
        return CPU
    return subject.configured or UNKNOWN


@dataclass(frozen=True, slots=True)
class ClaimWatch:
    """A watch that sees nothing but the claim made before the probe."""

    subject: Subject

    def first_token(self) -> None:
        """Do nothing."""

    async def finish(self) -> Observation:
        """Return the claimed label and nothing else."""
        return Observation(label=claimed_label(self.subject))

    def abandon(self) -> None:
        """Do nothing."""


class NoGpus:
    """The room of a machine without a card that can be read."""

    def cards(self) -> tuple[Card, ...]:
        """Return none."""
        return ()

    async def watch(self, subject: Subject) -> Watch:
        """Return a watch that will repeat the claim."""
        return ClaimWatch(subject)

    def forget(self, pair: Pair) -> None:
        """Remember nothing, so forget nothing."""

    async def close(self) -> None:
        """Hold nothing, so release nothing."""
