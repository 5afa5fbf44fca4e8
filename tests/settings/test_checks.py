"""Warnings are given for what is hardly meant, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configurations import load

from exporter.settings.checks import warnings

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.example.yml"


def _warnings(directory: Path, text: str) -> list[str]:
    return warnings(load(directory, text))


def test_the_defaults_and_the_example_give_no_warning(tmp_path: Path) -> None:
    """Who changes nothing is told nothing."""
    assert _warnings(tmp_path, "") == []
    assert _warnings(tmp_path, EXAMPLE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "targets: [{name: t, url: 'http://a:1', models: [a, b, c]}]",
            (
                "target 't': if each of its probes ran into its deadlines, they would not fit in their interval: each"
                " 15m holds 21m of probing, loading included"
            ),
        ),
        (
            "{interval: 1m, targets: [{name: t, url: 'http://a:1', when_unloaded: skip}]}",
            (
                "target 't': if each of its probes ran into its deadlines, they would not fit in their interval: each"
                " 1m holds 2m of probing"
            ),
        ),
        (
            (
                "{interval: 1m, targets: [{name: t, url: 'http://a:1', timeout: 10s, when_unloaded: skip, models:"
                " [a, {name: b, interval: 2m, num_predict: 256, expected_decode_tokens_per_second: 2}]}]}"
            ),
            "target 't': its probes likely do not fit in their interval: each 1m holds 1m9s of probing: lengthen",
        ),
        (
            "targets: [{name: t, url: 'http://a:1', models: [{name: m, expected_decode_tokens_per_second: 2}]}]",
            "target 't': 'm' likely needs 2m8s for its answer, and its timeout is 2m: its readings would be truncated",
        ),
        (
            "{interval: 30s, probe: {timeout: 5s, load_timeout: 10s}, targets: [{name: t, url: 'http://a:1'}]}",
            "target 't': the shipped alert rules serve intervals from 1m to 6h, and it has 30s: adapt the rules",
        ),
        (
            "targets: [{name: t, url: 'http://a:1', models: [{name: m, interval: 7h}]}]",
            "target 't': the shipped alert rules serve intervals from 1m to 6h, and it has 7h",
        ),
        (
            "targets: [{name: t, url: 'http://a:1', models: installed, when_unloaded: load}]",
            "target 't': with `installed` and `load`, every installed model is loaded in turn",
        ),
        (
            "targets: [{name: t, url: 'http://gpu-a'}]",
            "target 't': its url has no port, so that http's own, 80, is used; Ollama listens on 11434",
        ),
        (
            "targets: [{name: t, url: 'http://a:1'}, {name: u, url: 'http://a:1/'}]",
            "2 targets have the url http://a:1: their probes can run at the same time and would measure each other",
        ),
        (
            (
                "{interval: 1m, max_concurrent_probes: 1, probe: {timeout: 20s, load_timeout: 20s, num_predict: 900},"
                " targets: [{url: 'http://a:1'}, {url: 'http://b:1'}, {url: 'http://c:1'}, {url: 'http://d:1'}]}"
            ),
            "all targets together likely need 1.2 probes at a time, and max_concurrent_probes is 1: raise it",
        ),
    ],
)
def test_what_is_hardly_meant_is_told(tmp_path: Path, text: str, expected: str) -> None:
    """Each warning says what is amiss, with the figures, and what to do; none comes alone with another's cause."""
    found = _warnings(tmp_path, text)

    assert any(warning.startswith(expected) for warning in found), found
    if "expected_decode" not in text:
        assert len(found) == 1


@pytest.mark.parametrize(
    "text",
    [
        "targets: [{url: 'https://gpu-a'}]",
        "targets: [{url: 'http://gpu-a:80'}]",
        "targets: [{url: 'http://a:1', models: [a, b]}]",
        "targets: [{url: 'http://a:1', models: [a, b, c], when_unloaded: skip}]",
        "targets: [{url: 'http://a:1', models: installed}]",
        "{probe: {num_predict: -1}, targets: [{url: 'http://a:1'}]}",
    ],
)
def test_what_fits_is_not_warned_about(tmp_path: Path, text: str) -> None:
    """Settings that work as they are written give no warning."""
    assert _warnings(tmp_path, text) == []


def test_a_warning_that_concerns_many_targets_is_given_once(tmp_path: Path) -> None:
    """Two hundred targets with one thing amiss are one line to read."""
    targets = ", ".join(f"{{url: 'http://h{number}:1', models: [a, b, c]}}" for number in range(3))

    (warning,) = _warnings(tmp_path, f"targets: [{targets}]")

    assert warning.startswith("target 'h0:1' and 2 more: if each of its probes ran into its deadlines")
