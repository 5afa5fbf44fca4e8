"""Who else had the cards while a model ran: mean shares of the SMs' time, by process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exporter.gpu.evidence import CardEvidence, Evidence
from exporter.reading import ContendedBy

CONTENDED_SHARE = 0.05
"""Mean share of the SMs' time from which another process disturbs a probe."""


def contention(evidence: Evidence, cards: Sequence[CardEvidence], runner: int | None) -> Mapping[ContendedBy, bool]:
    """Return whether another Ollama runner (`model`) or another program (`gpu`) had the model's cards too.

    A kind that cannot be told is left out. Where the driver's pids are not those of `/proc` (a container), nobody can
    be named, but of two busy processes one was another.
    """
    shares = [card.shares for card in cards if card.shares is not None]
    if not shares or len(shares) < len(cards):
        return {}
    busy = {pid for one in shares for pid, share in one.items() if share >= CONTENDED_SHARE}
    if runner is None or not named(cards, runner):
        return {"gpu": True} if len(busy) > 1 else {"model": False, "gpu": False}
    others = busy - {runner}
    return {
        "model": any(pid in evidence.runners for pid in others),
        "gpu": any(pid not in evidence.runners for pid in others),
    }


def named(cards: Sequence[CardEvidence], runner: int) -> bool:
    """Return whether SM times are told under the same pids as processes: new drivers translate only the latter."""
    timed = {pid for card in cards for pid in card.shares or ()}
    return not timed or runner in timed or any(timed & {*(card.processes or ())} for card in cards)
