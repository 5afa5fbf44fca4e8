"""The label, and how long it stays."""

from __future__ import annotations

import pytest
from support.recorded_gpus import card, probed_model

from exporter.gpu.attribution import Attribution
from exporter.gpu.labels import AttributionHistory, choose_label, join_products, reported_label
from exporter.reading import CPU, UNKNOWN

KEY = probed_model().key
A, B = card(0, name="A"), card(1, name="B")


def on(*indexes: int, runner: int | None = None) -> Attribution:
    """Return a probe's attribution to these GPUs."""
    return Attribution(cards=tuple((A, B)[index] for index in indexes), runner=runner, reason="Because.")


UNDETERMINED = Attribution(cards=None, reason="Because.")


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["NVIDIA H200"], "NVIDIA H200"),
        (["NVIDIA H200", "NVIDIA H200"], "2x NVIDIA H200"),
        (["A", "B", "A"], "2x A + B"),
    ],
)
def test_products(names: list[str], label: str) -> None:
    """A short label, however many GPUs a model spans."""
    assert join_products(names) == label


@pytest.mark.parametrize(
    ("size_vram", "configured", "label"),
    [(0, "mine", CPU), (5, "mine", "mine"), (None, "mine", "mine"), (None, None, UNKNOWN), (5, None, UNKNOWN)],
)
def test_the_reported_label(size_vram: int | None, configured: str | None, label: str) -> None:
    """`cpu` if the server reports it, else the configured label, else `unknown`."""
    choice = reported_label(probed_model(size_vram_bytes=size_vram, configured=configured))
    assert (choice.label, choice.cards) == (label, ())
    assert choice.reason


@pytest.mark.parametrize(
    ("attribution", "configured", "cards", "label", "used"),
    [
        (on(1), None, (A, B), "B", (B,)),
        (on(1), "mine", (A, B), "mine", (B,)),
        (on(), "mine", (A, B), CPU, ()),
        (UNDETERMINED, "mine", (A, B), "mine", ()),
        (UNDETERMINED, "mine", (A,), "mine", (A,)),
        (UNDETERMINED, None, (A,), "A", (A,)),
        (UNDETERMINED, None, (A, B), UNKNOWN, ()),
    ],
)
def test_the_order(
    attribution: Attribution, configured: str | None, cards: tuple[object, ...], label: str, used: tuple[object, ...]
) -> None:
    """`cpu` if observed; the configured label; what was observed; the only GPU; `unknown`."""
    choice = choose_label(attribution, probed_model(configured=configured), cards)  # type: ignore[arg-type]
    assert (choice.label, choice.cards) == (label, used)
    assert attribution.reason in choice.reason


def test_an_only_gpu_that_is_partitioned_is_unknown() -> None:
    """Which of its partitions ran the model is not known."""
    assert choose_label(UNDETERMINED, probed_model(), [card(partitioned=True)]).label == UNKNOWN


def test_two_probes_are_needed_to_change_an_attribution() -> None:
    """They have to agree, and one that confirms the current attribution in between starts the count again."""
    history = AttributionHistory()
    assert history.update(KEY, on(0)) == on(0)
    assert history.update(KEY, on(1)) == on(0)
    assert history.update(KEY, on(0)) == on(0)
    assert history.update(KEY, on(1)) == on(0)
    assert history.update(KEY, on(0, 1)) == on(0)
    assert history.update(KEY, on(0, 1)) == on(0, 1)


def test_an_undetermined_probe_changes_nothing() -> None:
    """The current attribution stays; without one there is none."""
    history = AttributionHistory()
    assert history.update(KEY, UNDETERMINED) == UNDETERMINED
    history.update(KEY, on(1))
    assert history.update(KEY, UNDETERMINED) == on(1)


def test_a_new_runner_changes_an_attribution_at_once() -> None:
    """The model was loaded again, perhaps onto another GPU."""
    history = AttributionHistory()
    history.update(KEY, on(0, runner=7))
    assert history.update(KEY, on(1, runner=7)) == on(0, runner=7)
    assert history.update(KEY, on(1, runner=8)) == on(1, runner=8)


def test_a_fall_to_the_cpu_counts_at_once() -> None:
    """The way back counts at once only with a new runner."""
    history = AttributionHistory()
    history.update(KEY, on(0, runner=7))
    assert history.update(KEY, on()) == on()
    assert history.update(KEY, on(0)) == on()
    assert history.update(KEY, on(0)) == on(0)
    history.update(KEY, on(runner=8))
    assert history.update(KEY, on(0, runner=9)) == on(0, runner=9)


def test_models_are_independent() -> None:
    """Each model has its own attribution, and is forgotten alone."""
    history, other = AttributionHistory(), KEY._replace(model="other")
    history.update(KEY, on(0))
    assert history.update(other, on(1)) == on(1)
    history.forget(KEY)
    history.forget(KEY)
    assert history.update(KEY, on(1)) == on(1)
    assert history.update(other, on(0)) == on(1)
