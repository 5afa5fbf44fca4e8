"""Which other processes used the model's GPUs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from support.recorded_gpus import MODEL, OTHER_MODEL, card

from exporter.gpu.contention import contention
from exporter.gpu.evidence import CardEvidence, Evidence
from exporter.reading import ContendedBy

OURS, OTHER, FOREIGN = 10, 11, 12


def contended(
    *shares: Mapping[int, float] | None, runner: int | None = OURS, listed: tuple[int, ...] = (OURS,)
) -> object:
    """Return the contention on GPUs with these shares of the compute time."""
    cards = tuple(CardEvidence(card=card(), shares=one, processes=dict.fromkeys(listed)) for one in shares)
    return contention(Evidence(cards=cards, runners={OURS: MODEL, OTHER: OTHER_MODEL}), cards, runner)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({OURS: 0.9}, {"model": False, "gpu": False}),
        ({OURS: 0.9, FOREIGN: 0.0, OTHER: 0.0}, {"model": False, "gpu": False}),
        ({OURS: 0.9, FOREIGN: 0.049}, {"model": False, "gpu": False}),
        ({OURS: 0.9, FOREIGN: 0.05}, {"model": False, "gpu": True}),
        ({OURS: 0.5, OTHER: 0.4}, {"model": True, "gpu": False}),
        ({OURS: 0.3, OTHER: 0.3, FOREIGN: 0.3}, {"model": True, "gpu": True}),
        ({}, {"model": False, "gpu": False}),
    ],
)
def test_identified_processes(shares: Mapping[int, float], expected: Mapping[ContendedBy, bool]) -> None:
    """From a mean share of 5 % on, another Ollama runner is `model` and any other program is `gpu`."""
    assert contended(shares) == expected


def test_on_any_of_the_models_gpus() -> None:
    """A model on two GPUs can be disturbed on either."""
    assert contended({OURS: 0.4}, {OURS: 0.4, FOREIGN: 0.5}) == {"model": False, "gpu": True}


def test_what_is_unknown_is_absent() -> None:
    """A GPU does not report compute time, or the model runs on no GPU."""
    assert contended(None) == {}
    assert contended({OURS: 0.9}, None) == {}
    assert contended() == {}


@pytest.mark.parametrize("runner", [None, OURS])
def test_unidentified_processes(runner: int | None) -> None:
    """With pids of another namespace, one busy process is the model's runner, and of two one is not."""
    assert contended({90001: 0.9}, runner=runner) == {"model": False, "gpu": False}
    assert contended({90001: 0.5, 90002: 0.0}, runner=runner) == {"model": False, "gpu": False}
    assert contended({90001: 0.5, 90002: 0.4}, runner=runner) == {"gpu": True}


def test_a_starved_runner_is_identified() -> None:
    """If the other program is on the process list, the pids match: it is `gpu`, though the runner got no time."""
    assert contended({FOREIGN: 0.99}, listed=(OURS, FOREIGN)) == {"model": False, "gpu": True}
