"""What `gpus` tells a person: the cards that were found, and how each model's label would be chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exporter.gpu.base import GpuMonitor, ProbedModel

CARD_COLUMNS = ("index", "name", "uuid", "pci bus id", "vendor", "driver")
LABEL_COLUMNS = ("target", "model", "gpu", "why")

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Two tables, as rows of `CARD_COLUMNS` and of `LABEL_COLUMNS`."""

    cards: tuple[Row, ...]
    labels: tuple[Row, ...]


async def describe(gpus: GpuMonitor, subjects: Iterable[ProbedModel]) -> Report:
    """Return the cards, and for each subject the label that it would get now and the reason."""
    cards = tuple(
        (str(card.index), card.name, card.uuid, card.pci_bus_id, card.vendor, card.driver_version)
        for card in gpus.cards()
    )
    labels = []
    for subject in subjects:
        explanation = await gpus.explain(subject)
        labels.append((subject.key.target, subject.key.model, explanation.label, explanation.reason))
    return Report(cards, tuple(labels))
