"""Who else had the cards."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from support.gpu_stage import MODEL, OTHER_MODEL

from exporter.gpu.contention import contention
from exporter.gpu.evidence import CardEvidence, Evidence
from exporter.reading import ContendedBy

OURS, OTHER, FOREIGN = 10, 11, 12


def seen(*shares: Mapping[int, float] | None, runner: int | None = OURS, listed: tuple[int, ...] = (OURS,)) -> object:
    """Return the contention on cards with these SM shares."""
    cards = tuple(CardEvidence(name="X", shares=one, processes=dict.fromkeys(listed)) for one in shares)
    return contention(Evidence(cards=cards, runners={OURS: MODEL, OTHER: OTHER_MODEL}), cards, runner)


@pytest.mark.parametrize(
    ("shares", "told"),
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
def test_by_name(shares: Mapping[int, float], told: Mapping[ContendedBy, bool]) -> None:
    """From a mean share of 5 % on: Ollama's other runners are `model`, all others `gpu`; an idle context is neither."""
    assert seen(shares) == told


def test_on_any_of_the_models_cards() -> None:
    """A model over two cards is disturbed on either."""
    assert seen({OURS: 0.4}, {OURS: 0.4, FOREIGN: 0.5}) == {"model": False, "gpu": True}


def test_what_cannot_be_known_is_absent() -> None:
    """A card that does not tell SM times, and a model that runs on no card."""
    assert seen(None) == {}
    assert seen({OURS: 0.9}, None) == {}
    assert seen() == {}


@pytest.mark.parametrize("runner", [None, OURS])
def test_unnamed(runner: int | None) -> None:
    """Pids of another namespace: one busy process is the model's own, two are not."""
    assert seen({90001: 0.9}, runner=runner) == {"model": False, "gpu": False}
    assert seen({90001: 0.5, 90002: 0.0}, runner=runner) == {"model": False, "gpu": False}
    assert seen({90001: 0.5, 90002: 0.4}, runner=runner) == {"gpu": True}


def test_a_runner_that_got_nothing_is_not_unnamed() -> None:
    """A foreign program that is on the process list has its right pid: beside a starved runner it is `gpu`."""
    assert seen({FOREIGN: 0.99}, listed=(OURS, FOREIGN)) == {"model": False, "gpu": True}
