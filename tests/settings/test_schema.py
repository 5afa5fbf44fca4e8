"""The configuration as a whole: its defaults, and what holds between its targets."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configurations import load, mistakes

from exporter.plan import short_name


def test_nothing_need_be_configured(tmp_path: Path) -> None:
    """Without any setting there is one model on one server of this machine, probed as the reference program did."""
    settings = load(tmp_path)
    (plan,) = settings.plans()

    assert (plan.url, plan.local) == ("http://127.0.0.1:11434", True)
    assert isinstance(plan.models, tuple)
    (model,) = plan.models
    assert (model.model, model.interval_seconds, model.timeout_seconds) == ("llama3.1", 900, 120)
    assert (model.load_timeout_seconds, model.when_unloaded, model.keep_alive) == (300, "borrow", None)
    assert model.workload.template == "Question: {question}\n\nAnswer: Let's think step by step."
    assert (model.workload.num_predict, model.workload.seed, model.workload.reasoning) == (256, 42, False)
    assert (settings.max_concurrent_probes, settings.web.telemetry_path) == (4, "/metrics")
    assert settings.web.listen_addresses == (("", 10434),)
    assert (settings.log.level, settings.log.format) == ("info", "logfmt")


@pytest.mark.parametrize(
    "targets",
    [
        "[{url: 'http://a:1', name: x}, {url: 'http://b:1', name: x}]",
        "[{url: 'http://a:1'}, {url: 'http://a:1/path'}]",
        "[{url: 'http://a:1'}, {url: 'http://b:1', name: 'a:1'}]",
        "[{url: 'http://127.0.0.1:1'}, {url: 'http://localhost:1'}]",
    ],
)
def test_two_targets_of_one_name_are_refused(tmp_path: Path, targets: str) -> None:
    """Names tell targets apart in every series, whether they were written or are the default."""
    (line,) = mistakes(tmp_path, f"targets: {targets}")

    assert line.startswith("targets: two are named '")
    assert line.endswith("': give one of them another name")


def test_a_model_may_be_on_several_targets(tmp_path: Path) -> None:
    """A pair is a target and a model: one model on two servers is two pairs."""
    plans = load(
        tmp_path, "targets: [{url: 'http://a:1', models: [m]}, {url: 'http://b:1', models: ['m:latest']}]"
    ).plans()

    pairs = [plan.pair(model) for plan in plans for model in plan.models if not isinstance(model, str)]
    assert pairs == [("a:1", "m"), ("b:1", "m")]
    assert short_name("m:latest") == "m"


def test_no_target_at_all_is_refused(tmp_path: Path) -> None:
    """An empty list is a mistake, not a wish for the default."""
    assert mistakes(tmp_path, "targets: []") == ["targets: an empty list: write at least one, or leave the key out"]
