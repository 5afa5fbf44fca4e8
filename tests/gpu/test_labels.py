"""The label, and how long it lasts."""

from __future__ import annotations

import pytest
from support.gpu_stage import subject

from exporter.gpu.attribution import Attribution
from exporter.gpu.labels import Labels, choose, product
from exporter.reading import CPU, UNKNOWN

PAIR = subject().pair


def says(cards: tuple[int, ...] | None, runner: int | None = None) -> Attribution:
    """Return a probe's verdict."""
    return Attribution(cards=cards, runner=runner, reason="because")


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["NVIDIA H200"], "NVIDIA H200"),
        (["NVIDIA H200", "NVIDIA H200"], "2x NVIDIA H200"),
        (["A", "B", "A"], "2x A + B"),
    ],
)
def test_products(names: list[str], label: str) -> None:
    """Short and human, however many cards a model spans."""
    assert product(names) == label


@pytest.mark.parametrize(
    ("cards", "configured", "names", "label", "shown"),
    [
        ((1,), None, ["A", "B"], "B", (1,)),
        ((1,), "mine", ["A", "B"], "mine", (1,)),
        ((), "mine", ["A", "B"], CPU, ()),
        (None, "mine", ["A", "B"], "mine", ()),
        (None, "mine", ["A"], "mine", (0,)),
        (None, None, ["A"], "A", (0,)),
        (None, None, ["A", "B"], UNKNOWN, ()),
    ],
)
def test_the_order(
    cards: tuple[int, ...] | None, configured: str | None, names: list[str], label: str, shown: tuple[int, ...]
) -> None:
    """Observed, with the configured name; configured; the only card; unknown; and `cpu` whenever it was observed."""
    choice = choose(says(cards), subject(configured=configured), names, mig=False)
    assert (choice.label, choice.cards) == (label, shown)
    assert "because" in choice.reason


def test_an_only_card_in_mig_mode_is_unknown() -> None:
    """Which part of it ran the model is not guessed."""
    assert choose(says(None), subject(), ["A"], mig=True).label == UNKNOWN


def test_one_probe_against_it_does_not_move_a_label() -> None:
    """Two probes do; evidence for it in between starts the count again."""
    labels = Labels()
    assert labels.settle(PAIR, says((0,))).cards == (0,)
    assert labels.settle(PAIR, says((1,))).cards == (0,)
    assert labels.settle(PAIR, says((0,))).cards == (0,)
    assert labels.settle(PAIR, says((1,))).cards == (0,)
    assert labels.settle(PAIR, says((0, 1))).cards == (0,)
    assert labels.settle(PAIR, says((0, 1))).cards == (0, 1)


def test_no_evidence_moves_nothing() -> None:
    """A probe that could not tell leaves what was observed; before the first observation nothing holds."""
    labels = Labels()
    assert labels.settle(PAIR, says(None)).cards is None
    labels.settle(PAIR, says((1,)))
    assert labels.settle(PAIR, says(None)).cards == (1,)


def test_a_changed_runner_moves_a_label_at_once() -> None:
    """A reload may have put the model elsewhere."""
    labels = Labels()
    labels.settle(PAIR, says((0,), runner=7))
    assert labels.settle(PAIR, says((1,), runner=7)).cards == (0,)
    assert labels.settle(PAIR, says((1,), runner=8)).cards == (1,)


def test_a_fall_to_the_cpu_shows_at_the_next_probe() -> None:
    """And so does the way back, with its new runner."""
    labels = Labels()
    labels.settle(PAIR, says((0,), runner=7))
    assert labels.settle(PAIR, says(())).cards == ()
    assert labels.settle(PAIR, says((0,))).cards == ()
    assert labels.settle(PAIR, says((0,))).cards == (0,)
    labels.settle(PAIR, says((), runner=8))
    assert labels.settle(PAIR, says((0,), runner=9)).cards == (0,)


def test_pairs_do_not_share_a_label() -> None:
    """Each pair is remembered, and forgotten, by itself."""
    labels = Labels()
    labels.settle(PAIR, says((0,)))
    assert labels.settle(PAIR._replace(model="other"), says((1,))).cards == (1,)
    labels.forget(PAIR)
    labels.forget(PAIR)
    assert labels.settle(PAIR, says((1,))).cards == (1,)
