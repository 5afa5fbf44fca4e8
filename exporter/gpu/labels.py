"""From a verdict to the `gpu` label, and how long a label lasts: it changes on evidence, not on noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from exporter.gpu.attribution import Attribution
from exporter.gpu.base import ProbedModel
from exporter.plan import ModelKey
from exporter.reading import CPU, UNKNOWN


def product(names: Sequence[str]) -> str:
    """Return the label of the cards of these names: `NVIDIA H200`, `2x NVIDIA H200`, or unlike ones joined by ` + `."""
    return " + ".join(name if count == 1 else f"{count}x {name}" for name, count in Counter(names).items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A label, the cards that it stands for, and why."""

    label: str
    cards: tuple[int, ...]
    reason: str


def choose(verdict: Attribution, subject: ProbedModel, names: Sequence[str], *, mig: bool) -> Choice:
    """Return the label of a model on this machine: what was seen, else the configured one, else the only card's.

    `mig` says that a card is in MIG mode: such a card is not taken for the only one.
    """
    cards, reason = verdict.cards, verdict.reason
    if cards == ():
        return Choice(label=CPU, cards=(), reason=reason)
    if cards is None and len(names) == 1 and not mig:
        cards, reason = (0,), f"the only card; {reason}"
    if subject.configured:
        return Choice(label=subject.configured, cards=cards or (), reason=f"configured (`gpu` of the target); {reason}")
    if cards is None:
        return Choice(label=UNKNOWN, cards=(), reason=reason)
    return Choice(label=product([names[number] for number in cards]), cards=cards, reason=reason)


@dataclass(slots=True)
class Remembered:
    """What holds of one key, and what the newest probe said against it."""

    holds: Attribution
    against: Attribution | None = None


@dataclass(slots=True)
class Labels:
    """What was observed of each key. It holds until evidence of two probes, or a changed runner, overturns it."""

    remembered: dict[ModelKey, Remembered] = field(default_factory=dict)

    def settle(self, key: ModelKey, verdict: Attribution) -> Attribution:
        """Take a probe's verdict and return the one that holds. A fall to the CPU holds at once."""
        past = self.remembered.get(key)
        if verdict.cards is None:
            return past.holds if past else verdict
        if past is None or self._overturns(past, verdict):
            self.remembered[key] = Remembered(verdict)
            return verdict
        past.against = verdict
        return past.holds

    def forget(self, key: ModelKey) -> None:
        """Drop what is remembered of a key."""
        self.remembered.pop(key, None)

    @staticmethod
    def _overturns(past: Remembered, verdict: Attribution) -> bool:
        moved = None not in {past.holds.runner, verdict.runner} and past.holds.runner != verdict.runner
        again = past.against is not None and past.against.cards == verdict.cards
        return not verdict.cards or verdict.cards == past.holds.cards or moved or again
