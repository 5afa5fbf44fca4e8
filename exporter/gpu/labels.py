"""The `gpu` label: how it is chosen, and how long it stays. It changes on evidence, not on noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from exporter.gpu.attribution import Attribution
from exporter.gpu.base import Card, ProbedModel
from exporter.plan import ModelKey
from exporter.reading import CPU, UNKNOWN

CONFIGURED = "Set by `gpu` of the target."


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChoice:
    """A `gpu` label, and why it was chosen."""

    label: str
    cards: tuple[Card, ...] = ()
    """The GPUs in the label."""
    reason: str
    """One or more sentences."""


def reported_label(model: ProbedModel) -> LabelChoice:
    """Return the label where no GPU can be read: `cpu` if the server reports that, the configured one, `unknown`."""
    if model.size_vram_bytes == 0:
        return LabelChoice(label=CPU, reason="The server reports that no part of the model is on a GPU (size_vram 0).")
    if model.configured:
        return LabelChoice(label=model.configured, reason=CONFIGURED)
    reason = "No GPU of the server's machine can be read from here. Set `gpu` of the target to name it."
    return LabelChoice(label=UNKNOWN, reason=reason)


def choose_label(attribution: Attribution, model: ProbedModel, cards: Sequence[Card]) -> LabelChoice:
    """Return the label of a model on this machine: what was observed, the configured one, the only GPU, `unknown`.

    `cards` are all GPUs of this machine. If the model was observed on a GPU, that GPU has the configured name.
    """
    used, reason = attribution.cards, attribution.reason
    if used == ():
        return LabelChoice(label=CPU, reason=reason)
    if used is None and len(cards) == 1 and not cards[0].partitioned:
        used, reason = tuple(cards), f"{reason} This machine has only one GPU."
    if model.configured:
        return LabelChoice(label=model.configured, cards=used or (), reason=f"{CONFIGURED} {reason}")
    if used is None:
        return LabelChoice(label=UNKNOWN, reason=reason)
    return LabelChoice(label=join_products([card.name for card in used]), cards=used, reason=reason)


def join_products(names: Sequence[str]) -> str:
    """Return the label for product names: `NVIDIA H200`, `2x NVIDIA H200`, different ones joined by ` + `."""
    return " + ".join(name if count == 1 else f"{count}x {name}" for name, count in Counter(names).items())


@dataclass(slots=True)
class _Entry:
    current: Attribution
    contradicted_by: Attribution | None = None
    """The attribution of the last probe, if it differs."""


@dataclass(slots=True)
class AttributionHistory:
    """The current attribution of each model. Two probes, or a changed runner, are needed to change it."""

    _entries: dict[ModelKey, _Entry] = field(default_factory=dict)

    def update(self, key: ModelKey, attribution: Attribution) -> Attribution:
        """Add the attribution of a new probe and return the current one. A fall to the CPU counts immediately."""
        entry = self._entries.get(key)
        if attribution.cards is None:
            return entry.current if entry else attribution
        if entry is None or _replaces(entry, attribution):
            self._entries[key] = _Entry(attribution)
            return attribution
        entry.contradicted_by = attribution
        return entry.current

    def forget(self, key: ModelKey) -> None:
        """Drop what is stored of a model."""
        self._entries.pop(key, None)


def _replaces(entry: _Entry, attribution: Attribution) -> bool:
    runners = {entry.current.runner, attribution.runner}
    reloaded = None not in runners and len(runners) > 1
    repeated = entry.contradicted_by is not None and entry.contradicted_by.cards == attribution.cards
    return not attribution.cards or attribution.cards == entry.current.cards or reloaded or repeated
