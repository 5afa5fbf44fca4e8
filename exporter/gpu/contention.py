"""Which other processes used the GPUs of a model during a probe: rules over mean shares of the compute time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exporter.gpu.evidence import CardEvidence, Evidence
from exporter.reading import ContendedBy

CONTENDED_SHARE = 0.05
"""Mean share of the compute time from which another process disturbs a probe."""


def contention(evidence: Evidence, cards: Sequence[CardEvidence], runner: int | None) -> Mapping[ContendedBy, bool]:
    """Return whether another Ollama runner (`model`) or another program (`gpu`) used the model's GPUs too.

    `cards` are the model's GPUs, and `runner` is the pid of its runner, if known. What cannot be determined is left
    out. Where pids cannot be matched (containers), processes cannot be identified, but of two busy processes one is
    not the model's runner.
    """
    shares = [card.shares for card in cards if card.shares is not None]
    if not shares or len(shares) < len(cards):
        return {}
    busy = {pid for by_pid in shares for pid, share in by_pid.items() if share >= CONTENDED_SHARE}
    if runner is None or not pids_agree(cards, runner):
        return {"gpu": True} if len(busy) > 1 else {"model": False, "gpu": False}
    others = busy - {runner}
    return {
        "model": any(pid in evidence.runners for pid in others),
        "gpu": any(pid not in evidence.runners for pid in others),
    }


def pids_agree(cards: Sequence[CardEvidence], runner: int) -> bool:
    """Return whether compute time is reported under the same pids as the process list.

    In a container, recent NVIDIA drivers translate the pids of the list only.
    """
    timed = {pid for card in cards for pid in card.shares or ()}
    return not timed or runner in timed or any(timed & {*(card.processes or ())} for card in cards)
