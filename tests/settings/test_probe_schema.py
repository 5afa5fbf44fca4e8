"""Models inherit the keys of `probe`, and `interval`, from their target and from the top level."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configurations import load, mistakes, target

from exporter.plan import ModelPlan, TargetPlan

INHERITANCE = """
    interval: 10m
    probe: {num_predict: 100, timeout: 1m, keep_alive: 5m, seed: 1}
    targets:
      - url: http://gpu-a:11434
        interval: 20m
        num_predict: 200
        models:
          - a
          - name: b
            interval: 30m
            num_predict: 300
            keep_alive: null
            temperature: 0.5
            expected_decode_tokens_per_second: 52
      - url: http://gpu-b:11434
        models: installed
        when_unloaded: skip
"""


def _models(plan: TargetPlan) -> dict[str, ModelPlan]:
    assert isinstance(plan.models, tuple)
    return {model.model: model for model in plan.models}


def test_the_nearest_value_is_used(tmp_path: Path) -> None:
    """A model overrides its target, which overrides the top level, also with null."""
    first, second = load(tmp_path, INHERITANCE).plans()
    a, b = _models(first)["a"], _models(first)["b"]

    assert (a.interval_seconds, a.workload.num_predict, a.keep_alive) == (1200, 200, "5m")
    assert (b.interval_seconds, b.workload.num_predict, b.keep_alive) == (1800, 300, None)
    assert (a.timeout_seconds, b.timeout_seconds, a.load_timeout_seconds) == (60, 60, 300)
    assert (a.workload.seed, a.workload.temperature, b.workload.temperature) == (1, 0, 0.5)
    assert (a.expected_decode_tokens_per_second, b.expected_decode_tokens_per_second) == (None, 52)
    assert (a.when_unloaded, second.defaults.when_unloaded) == ("borrow", "skip")
    assert second.models == "installed"
    assert (second.defaults.model, second.defaults.interval_seconds) == ("", 600)
    assert first.defaults.workload.num_predict == 200


def test_a_default_that_is_written_again_overrides(tmp_path: Path) -> None:
    """A key of a model is used even if it has the program's default value."""
    (plan,) = load(
        tmp_path,
        """
        probe: {num_predict: 100}
        targets: [{url: http://a:1, models: [{name: m, num_predict: 256}]}]
        """,
    ).plans()

    assert _models(plan)["m"].workload.num_predict == 256


def test_equal_workloads_have_one_hash(tmp_path: Path) -> None:
    """The hash does not depend on how a number is written."""
    (whole,) = load(tmp_path, "probe: {temperature: 0}").plans()
    (real,) = load(tmp_path, "probe: {temperature: 0.0}").plans()

    assert whole.defaults.workload.hash == real.defaults.workload.hash


@pytest.mark.parametrize(
    ("model", "place", "keyword"),
    [
        ("3.1", "", "quotes"),
        ("''", ".name", "empty"),
        ("{interval: 1h}", ".name", "required"),
        ("{name: a, expected_decode_tokens_per_second: 0}", ".expected_decode_tokens_per_second", "greater than 0"),
        ("{name: a, timeout: 0s}", ".timeout", "greater than 0s"),
        ('"\\ud800"', ".name", "surrogate"),
    ],
)
def test_an_invalid_model_is_refused(tmp_path: Path, model: str, place: str, keyword: str) -> None:
    """The message gives the place of the model in the list."""
    (line,) = mistakes(tmp_path, f'targets: [{{url: "http://a:1", models: [b, {model}]}}]')

    assert line.startswith(f"targets[0].models[1]{place}: ")
    assert keyword in line
    line.encode()


def test_every_key_of_probe_can_be_set_for_a_target(tmp_path: Path) -> None:
    """A target accepts its own keys and those of `probe`."""
    (plan,) = load(tmp_path, target("template: '{question}', reasoning: true, load_timeout: 1m")).plans()

    assert (plan.defaults.workload.template, plan.defaults.workload.reasoning) == ("{question}", True)
    assert plan.defaults.load_timeout_seconds == 60


def test_whether_the_cpu_is_intended_is_inherited(tmp_path: Path) -> None:
    """The key can be set for all probes, a target or a model; it is false by default."""
    text = """
    targets:
      - {url: http://a:1, cpu_intended: true, models: [a, {name: b, cpu_intended: false}]}
      - {url: http://c:1, models: installed}
    """
    first, second = load(tmp_path, text).plans()

    assert {name: model.cpu_intended for name, model in _models(first).items()} == {"a": True, "b": False}
    assert not second.defaults.cpu_intended
    (plan,) = load(tmp_path, "{probe: {cpu_intended: true}, " + target("models: installed") + "}").plans()
    assert plan.defaults.of("m").cpu_intended


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "minimax-m2:cloud", "library/Kimi-K2:1T-Cloud"])
def test_a_cloud_model_is_refused(tmp_path: Path, name: str) -> None:
    """It does not run on the server, so its rate does not describe a GPU here."""
    for models in (f"['{name}']", f"[{{name: '{name}'}}]"):
        (line,) = mistakes(tmp_path, target(f"models: {models}"))
        assert line.startswith("targets[0].models[0]")
        assert "cloud" in line
    assert load(tmp_path, target("models: [cloud, my-cloud, 'cloudy:7b', 'cloud:7b']")).plans()
