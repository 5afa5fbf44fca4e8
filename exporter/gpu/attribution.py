"""Who ran the model: rules over what was seen, for any vendor's cards.

The order: the card that holds the runner's process; the cards that rose from idle during the probe, if their memory can
hold the model; nothing of it on any card. What `/api/ps` claims never decides where processes and activity can.

What stays invisible: where pids do not map (containers), a model with so few layers on the card that it is busy less
than `QUIET_UTILIZATION` of the time reads as `cpu`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.gpu.base import ProbedModel
from exporter.gpu.evidence import CardEvidence, Evidence

IDLE_SHARE = 0.005
"""Mean share of the SMs' time below which a process only keeps its context on the card."""
CONTEXT_OF_LARGEST = 0.1
"""A process that holds less than this of its memory on its fullest card only keeps its context there."""
QUIET_UTILIZATION = 0.05
"""Mean utilisation up to which a card did nothing."""
ACTIVE_UTILIZATION = 0.10
"""Rise of the mean utilisation over that just before the request from which a card worked."""
QUIET_POWER = 1.10
"""Mean power over that just before the request, up to which a card did nothing: an idle H100 moves by 2 %."""
ACTIVE_POWER = 1.25
"""Likewise, from which a card that was not busy worked: an H100 that generates draws 3.6 times its idle power."""
BUSY_UTILIZATION = 0.5
"""Utilisation just before the request from which a card may have been busy with something else."""
STEEP_POWER = 2.0
"""Likewise, from which even such a card worked: at its power limit it moves by half, and utilisation lags half a second
behind the probe before."""
OF_BUSIEST = 0.3
"""A card less busy than this share of the busiest only did something else meanwhile: layers are spread about evenly."""
POWER_NOISE_WATTS = 8.0
"""What a small card's power may move by while it does nothing."""
WATCHED_SECONDS = 1.0
"""A shorter watch cannot tell that a card did nothing: utilisation lags by half a second, energy steps by a tenth."""
HELD_OF_CLAIM = 0.8
"""The share of `size_vram` that the cards which rose must have in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What the evidence of one probe says."""

    cards: tuple[int, ...] | None
    """Positions of the cards that ran the model; empty: none did; None: it cannot be told."""
    runner: int | None = None
    """The runner's pid, where it was seen."""
    reason: str


def attribute(evidence: Evidence, subject: ProbedModel) -> Attribution:
    """Return which cards ran the model, by processes first and activity second."""
    cards = evidence.cards
    ours = {pid for pid, blob in evidence.runners.items() if blob == subject.blob}
    holders = {number: ours & holding(card) for number, card in enumerate(cards)}
    if any(card.mig for card in cards) and not any(pids for number, pids in holders.items() if not cards[number].mig):
        return Attribution(cards=None, reason="a card is in MIG mode, and what runs on its parts cannot be told apart")
    if any(holders.values()):
        return by_process(cards, holders)
    runner = min(ours, default=None)
    if runner is not None and pids_map(evidence):
        return Attribution(cards=(), runner=runner, reason=f"its runner (pid {runner}) is on no card")
    return by_activity(cards, subject, runner)


def holding(card: CardEvidence) -> set[int]:
    """Return the pids that were seen on a card, in its process list or by their SM time."""
    return {*(card.processes or ()), *(pid for pid, share in (card.shares or {}).items() if share > 0)}


def pids_map(evidence: Evidence) -> bool:
    """Return whether a process that is on a card would be known by its pid in this `/proc`.

    It is so where `/proc` is the whole machine's, or where pids are listed and all of them can be seen.
    """
    if any(card.processes is None for card in evidence.cards):
        return False
    listed = {pid for card in evidence.cards for pid in holding(card)}
    return evidence.machine_pids or (bool(listed) and listed <= evidence.visible)


def by_process(cards: Sequence[CardEvidence], holders: Mapping[int, set[int]]) -> Attribution:
    """Return the cards on which the model's runner worked; of two runners of one model, the busier one's."""
    busy = {
        pid: sum((card.shares or {}).get(pid, 0.0) for card in cards) for pid in sorted(set().union(*holders.values()))
    }
    runner = max(busy, key=lambda pid: busy[pid])
    held = [number for number, pids in holders.items() if runner in pids]
    largest = max((cards[number].processes or {}).get(runner) or 0 for number in held)
    worked = tuple(number for number in held if works(cards[number], runner, largest))
    places = " and ".join(f"card {number}" for number in worked or held)
    doing = "is on" if worked else "did nothing on"
    return Attribution(cards=worked, runner=runner, reason=f"its runner (pid {runner}) {doing} {places}")


def works(card: CardEvidence, runner: int, largest: int) -> bool:
    """Return whether a runner does more on a card than keep its context there."""
    memory = (card.processes or {}).get(runner)
    if memory is not None and memory < CONTEXT_OF_LARGEST * largest:
        return False
    share = (card.shares or {}).get(runner)
    return share is None or share >= IDLE_SHARE or not quiet(card)


def by_activity(cards: Sequence[CardEvidence], subject: ProbedModel, runner: int | None) -> Attribution:
    """Return the cards that rose during the probe, nothing where all stayed quiet, None where neither can be said."""
    risen = busiest({number: card for number, card in enumerate(cards) if rose(card)})
    if risen:
        places = " and ".join(f"card {number}" for number in risen)
        claimed = subject.size_vram_bytes
        used = [cards[number].memory_used_bytes for number in risen]
        known = [one for one in used if one is not None]
        if claimed == 0 or (claimed and len(known) == len(used) and sum(known) < HELD_OF_CLAIM * claimed):
            return Attribution(cards=None, reason=f"{places} worked during the probe, but cannot have held the model")
        return Attribution(cards=risen, runner=runner, reason=f"{places} rose from idle during the probe")
    if all(quiet(card) for card in cards):
        return Attribution(cards=(), runner=runner, reason="every card stayed idle during the probe")
    if any(card.seconds < WATCHED_SECONDS for card in cards):
        return Attribution(
            cards=None, reason="no runner of the model is seen on a card, and no long enough probe tells more"
        )
    return Attribution(
        cards=None, reason="no runner of the model is seen on a card, and no card clearly worked or idled"
    )


def busiest(risen: Mapping[int, CardEvidence]) -> tuple[int, ...]:
    """Return those cards that were about as busy as the busiest of them."""
    utilization = {number: card.utilization_ratio or 0.0 for number, card in risen.items()}
    least = OF_BUSIEST * max(utilization.values(), default=0.0)
    return tuple(number for number, busy in utilization.items() if busy >= least)


def rose(card: CardEvidence) -> bool:
    """Return whether a card worked during the probe and did not just before it."""
    if card.before is None:
        return False
    during, before = card.utilization_ratio, card.before.utilization_ratio or 0.0
    if before >= BUSY_UTILIZATION:
        return grew(card, STEEP_POWER) is True
    return (during is not None and during - before >= ACTIVE_UTILIZATION) or grew(card, ACTIVE_POWER) is True


def quiet(card: CardEvidence) -> bool:
    """Return whether a card was watched for long enough and did nothing."""
    utilization = card.utilization_ratio
    grown = grew(card, QUIET_POWER)
    if card.lost or card.seconds < WATCHED_SECONDS or (utilization is None and grown is None):
        return False
    return not grown and (utilization is None or utilization <= QUIET_UTILIZATION)


def grew(card: CardEvidence, times: float) -> bool | None:
    """Return whether the mean power was so many times that just before the request, and above noise; None: unknown."""
    power = card.power_watts
    before = card.before.power_watts if card.before else None
    if power is None or before is None or card.seconds <= 0:
        return None
    return power > max(before * times, before + POWER_NOISE_WATTS)
