"""Which GPUs ran the model: rules over the evidence of one probe, for GPUs of any vendor.

In this order: the GPUs on which the model's runner worked; the GPUs that became active during the probe and hold enough
memory for the model; none. `/api/ps` is not used where processes or activity are conclusive.

Known limit: where pids cannot be matched (containers), a model with so few layers on a GPU that the GPU is busy for
less than `IDLE_UTILIZATION_RATIO` of the time is attributed to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.gpu.base import Card, ProbedModel
from exporter.gpu.evidence import CardEvidence, Evidence

IDLE_SHARE = 0.005
"""Mean share of the compute time below which a process only keeps a context on the GPU."""
CONTEXT_MEMORY_RATIO = 0.1
"""A process keeps only a context on a GPU where it has less than this share of its memory on its fullest GPU."""
IDLE_UTILIZATION_RATIO = 0.05
"""Mean utilisation up to which a GPU was idle."""
ACTIVE_UTILIZATION_RATIO = 0.10
"""Increase of the mean utilisation, over that just before the request, from which a GPU became active."""
IDLE_POWER_FACTOR = 1.10
"""Mean power, relative to that just before the request, up to which a GPU was idle: an idle H100 varies by 2 %."""
ACTIVE_POWER_FACTOR = 1.25
"""Mean power, relative to that just before the request, from which a GPU that had not been busy became active.

An H100 that generates draws 3.6 times its idle power.
"""
BUSY_UTILIZATION_RATIO = 0.5
"""Utilisation just before the request from which a GPU may be busy with other work."""
BUSY_ACTIVE_POWER_FACTOR = 2.0
"""Mean power, relative to that just before the request, from which a GPU that may have been busy became active.

At its power limit a GPU's power varies by half, and its utilisation lags by half a second, so that it can still be that
of the previous probe.
"""
OF_BUSIEST_RATIO = 0.3
"""A GPU with less than this share of the highest utilisation did other work: layers are distributed about evenly."""
POWER_NOISE_WATTS = 8.0
"""Variation of a small GPU's power while it is idle."""
MIN_IDLE_SECONDS = 1.0
"""Minimum observation that can show an idle GPU: utilisation lags by 0.5 s, and energy is updated every 0.1 s."""
MIN_HELD_RATIO = 0.8
"""Share of `size_vram` that the GPUs which became active must have in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Which GPUs ran the model, according to one probe."""

    cards: tuple[Card, ...] | None
    """Empty: none of them; None: undetermined."""
    runner: int | None = None
    """The runner's pid, if it was found."""
    reason: str
    """One or more sentences."""


UNREADABLE = Attribution(cards=None, reason="The GPU library did not answer.")


def attribute(evidence: Evidence, model: ProbedModel) -> Attribution:
    """Return which GPUs ran the model, by processes if possible, else by activity."""
    runners = {pid for pid, blob in evidence.runners.items() if blob == model.blob}
    holders = [(card, runners & pids_on(card)) for card in evidence.cards]
    if any(card.card.partitioned for card in evidence.cards) and not any(
        pids for card, pids in holders if not card.card.partitioned
    ):
        reason = "A GPU is partitioned (MIG), and work on its partitions cannot be distinguished."
        return Attribution(cards=None, reason=reason)
    if any(pids for _, pids in holders):
        return by_process([(card, pids) for card, pids in holders if pids])
    runner = min(runners, default=None)
    if runner is not None and pids_match(evidence):
        return Attribution(cards=(), runner=runner, reason=f"The model's runner (pid {runner}) is not on any GPU.")
    return by_activity(evidence.cards, model, runner)


def pids_on(card: CardEvidence) -> set[int]:
    """Return the pids that were seen on a GPU, in its process list or by their compute time."""
    return {*(card.processes or ()), *(pid for pid, share in (card.shares or {}).items() if share > 0)}


def pids_match(evidence: Evidence) -> bool:
    """Return whether the GPU libraries report the pids of this pid namespace.

    They do in the machine's own namespace, and where processes are listed and all of them are visible here.
    """
    if any(card.processes is None for card in evidence.cards):
        return False
    listed = {pid for card in evidence.cards for pid in pids_on(card)}
    return evidence.machine_pids or (bool(listed) and listed <= evidence.visible)


def by_process(holders: Sequence[tuple[CardEvidence, set[int]]]) -> Attribution:
    """Return the GPUs on which the model's runner worked; of two runners of one model, those of the busier one.

    `holders` are GPUs with the runners that were seen on them.
    """
    pids = sorted(set().union(*(pids for _, pids in holders)))
    busy = {pid: sum((card.shares or {}).get(pid, 0.0) for card, _ in holders) for pid in pids}
    runner = max(busy, key=lambda pid: busy[pid])
    held = [card for card, pids in holders if runner in pids]
    largest = max((card.processes or {}).get(runner) or 0 for card in held)
    worked = [card for card in held if works_on(card, runner, largest)]
    what = (
        f"is on {format_indexes(worked)}"
        if worked
        else f"keeps a context on {format_indexes(held)} but does not work there"
    )
    return Attribution(
        cards=tuple(card.card for card in worked), runner=runner, reason=f"The model's runner (pid {runner}) {what}."
    )


def works_on(card: CardEvidence, runner: int, largest: int) -> bool:
    """Return whether a runner does more on a GPU than keep a context.

    `largest` is the memory in bytes that it holds on its fullest GPU.
    """
    memory = (card.processes or {}).get(runner)
    if memory is not None and memory < CONTEXT_MEMORY_RATIO * largest:
        return False
    share = (card.shares or {}).get(runner)
    return share is None or share >= IDLE_SHARE or not is_idle(card)


def by_activity(cards: Sequence[CardEvidence], model: ProbedModel, runner: int | None) -> Attribution:
    """Return the GPUs that became active during the probe; none if all stayed idle; None if it is inconclusive."""
    active = select_busiest([card for card in cards if became_active(card)])
    if active:
        reason = f"{format_indexes(active)} became active during the probe"
        if not can_hold(active, model.size_vram_bytes):
            return Attribution(cards=None, reason=f"{reason}, but the memory in use there is too small for the model.")
        return Attribution(cards=tuple(card.card for card in active), runner=runner, reason=f"{reason}.")
    if all(is_idle(card) for card in cards):
        return Attribution(cards=(), runner=runner, reason="All GPUs stayed idle during the probe.")
    unseen = "The model's runner was not found on a GPU"
    if any(card.seconds < MIN_IDLE_SECONDS for card in cards):
        return Attribution(cards=None, reason=f"{unseen}, and no probe was long enough to decide by activity.")
    return Attribution(cards=None, reason=f"{unseen}, and the activity of the GPUs is inconclusive.")


def can_hold(cards: Sequence[CardEvidence], size_vram_bytes: int | None) -> bool:
    """Return whether the memory in use on these GPUs is enough for what the server reports; True if unknown."""
    if size_vram_bytes is None:
        return True
    used = [card.memory_used_bytes for card in cards if card.memory_used_bytes is not None]
    return size_vram_bytes > 0 and (len(used) < len(cards) or sum(used) >= MIN_HELD_RATIO * size_vram_bytes)


def format_indexes(cards: Iterable[CardEvidence]) -> str:
    """Return `GPU 0 and GPU 1`."""
    return " and ".join(f"GPU {card.card.index}" for card in cards)


def select_busiest(cards: Sequence[CardEvidence]) -> list[CardEvidence]:
    """Return the GPUs that were not much less busy than the busiest one."""
    utilization = [card.utilization_ratio or 0.0 for card in cards]
    minimum = OF_BUSIEST_RATIO * max(utilization, default=0.0)
    return [card for card, busy in zip(cards, utilization, strict=True) if busy >= minimum]


def became_active(card: CardEvidence) -> bool:
    """Return whether a GPU worked during the probe, and did not just before it."""
    if card.before is None:
        return False
    during, before = card.utilization_ratio, card.before.utilization_ratio or 0.0
    if before >= BUSY_UTILIZATION_RATIO:
        return power_increased(card, BUSY_ACTIVE_POWER_FACTOR) is True
    if during is not None and during - before >= ACTIVE_UTILIZATION_RATIO:
        return True
    return power_increased(card, ACTIVE_POWER_FACTOR) is True


def is_idle(card: CardEvidence) -> bool:
    """Return whether a GPU was observed for long enough and did nothing."""
    utilization = card.utilization_ratio
    increased = power_increased(card, IDLE_POWER_FACTOR)
    if card.lost or card.seconds < MIN_IDLE_SECONDS or (utilization is None and increased is None):
        return False
    return not increased and (utilization is None or utilization <= IDLE_UTILIZATION_RATIO)


def power_increased(card: CardEvidence, factor: float) -> bool | None:
    """Return whether the mean power exceeded `factor` times that before the request, and noise; None if unknown."""
    power = card.power_watts
    before = card.before.power_watts if card.before else None
    if power is None or before is None or card.seconds <= 0:
        return None
    return power > max(before * factor, before + POWER_NOISE_WATTS)
