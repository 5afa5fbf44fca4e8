"""The configuration as a whole: its defaults, and what is required of all targets together."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configurations import load, mistakes


def test_every_setting_has_a_default(tmp_path: Path) -> None:
    """Without settings, one model on a local server is probed as the reference program does."""
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
def test_two_targets_with_one_name_are_refused(tmp_path: Path, targets: str) -> None:
    """Names identify targets in every series, whether they are set or default."""
    (line,) = mistakes(tmp_path, f"targets: {targets}")

    assert line.startswith("targets: ")
    assert "`name`" in line


def test_a_model_may_be_on_several_targets(tmp_path: Path) -> None:
    """One model on two servers has two keys, without `:latest`."""
    plans = load(
        tmp_path, "targets: [{url: 'http://a:1', models: [m]}, {url: 'http://b:1', models: ['m:latest']}]"
    ).plans()

    assert [key for plan in plans for key in plan.listed_models()] == [("a:1", "m"), ("b:1", "m")]


def test_an_empty_list_of_targets_is_refused(tmp_path: Path) -> None:
    """An empty list does not mean the default."""
    (line,) = mistakes(tmp_path, "targets: []")

    assert line.startswith("targets: ")
    assert "empty" in line
