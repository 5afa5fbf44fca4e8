"""Warnings are given for valid settings that are probably not intended, and for no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configurations import WARNINGS, Case, load, target

from exporter.settings import checks
from exporter.settings.checks import warnings

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.example.yml"


@pytest.fixture(autouse=True)
def _container(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run in a container; the checks see one only where the case says so."""
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    monkeypatch.setattr(checks, "in_container", lambda: bool(case and case.in_container))


def _warnings(directory: Path, text: str) -> list[str]:
    return warnings(load(directory, text))


@pytest.mark.parametrize("text", ["", EXAMPLE.read_text(encoding="utf-8")], ids=["defaults", "example"])
def test_the_defaults_and_the_example_give_no_warning(tmp_path: Path, text: str) -> None:
    """Neither the defaults nor the example configuration need a warning."""
    assert _warnings(tmp_path, text) == []


@pytest.mark.parametrize("case", WARNINGS, ids=lambda case: case.name)
def test_each_case_gives_one_warning(tmp_path: Path, case: Case) -> None:
    """One cause gives one warning."""
    assert len(_warnings(tmp_path, case.text)) == 1


@pytest.mark.parametrize(
    ("text", "keywords"),
    [
        ("interval: 5m", ("targets", "http://127.0.0.1:11434")),
        (
            (
                "{interval: 1m, targets: [{name: t, url: 'http://a:1', models:"
                " [a, {name: b, interval: 2m, num_predict: 256, expected_decode_tokens_per_second: 2.2}]}]}"
            ),
            ("target 't'", "1m3s", "1m", "num_predict"),
        ),
        (target("name: t, models: [{name: m, expected_decode_tokens_per_second: 2}]"), ("'t'", "'m'", "2m8s", "2m")),
        ("{interval: 30s, " + target("name: t") + "}", ("'t'", "1m", "6h", "30s")),
        (target("name: t, models: [{name: m, interval: 7h}]"), ("'t'", "1m", "6h", "7h")),
        (target("name: t, models: installed, when_unloaded: load"), ("'t'", "installed", "borrow")),
        ("targets: [{name: t, url: 'http://gpu-a'}]", ("'t'", "80", "11434")),
        ("targets: [{name: t, url: 'http://a:1'}, {name: u, url: 'http://a:1/'}]", ("2 targets", "http://a:1")),
        (
            (
                "{interval: 1m, max_concurrent_probes: 1, probe: {num_predict: 900},"
                " targets: [{url: 'http://a:1'}, {url: 'http://b:1'}, {url: 'http://c:1'}, {url: 'http://d:1'}]}"
            ),
            ("max_concurrent_probes", "1.2", "(1)"),
        ),
    ],
)
def test_a_warning_gives_place_and_figures(tmp_path: Path, text: str, keywords: tuple[str, ...]) -> None:
    """Each warning contains the target or key, and the figures that it is about."""
    found = _warnings(tmp_path, text)

    assert any(all(keyword in warning for keyword in keywords) for warning in found), found


@pytest.mark.parametrize(
    "text",
    [
        "targets: [{url: 'https://gpu-a'}]",
        "targets: [{url: 'http://gpu-a:80'}]",
        target("models: [a, b, c]"),
        target("models: [a, b, c], when_unloaded: skip"),
        target("models: installed"),
        "{interval: 1m, " + target("when_unloaded: skip") + "}",
        "{probe: {num_predict: -1}, " + target("models: [a]") + "}",
    ],
)
def test_probes_that_typically_fit_give_no_warning(tmp_path: Path, text: str) -> None:
    """The typical time of the probes counts, not the sum of their timeouts."""
    assert _warnings(tmp_path, text) == []


def test_a_flag_that_sets_the_target_is_enough(tmp_path: Path) -> None:
    """A file without targets is intended where the flags describe the target."""
    assert warnings(load(tmp_path, "interval: 5m", flags={"url": "http://gpu-a:11434"})) == []


def test_a_warning_for_many_targets_is_given_once(tmp_path: Path) -> None:
    """Targets with the same problem share one line."""
    targets = ", ".join(f"{{url: 'http://h{number}:1', interval: 7h}}" for number in range(3))

    (warning,) = _warnings(tmp_path, f"targets: [{targets}]")

    assert warning.startswith("target 'h0:1' and 2 more: ")


@pytest.mark.parametrize("sign", [".dockerenv", "KUBERNETES_SERVICE_HOST"])
def test_the_host_name_of_a_container_is_not_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    """In a container, a loopback URL needs a name; elsewhere, and for other URLs, the default is right."""
    monkeypatch.undo()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(checks, "_CONTAINER_FILES", (str(tmp_path / ".dockerenv"),))
    loopback = "targets: [{url: 'http://localhost:11434'}]"
    assert _warnings(tmp_path, loopback) == []

    if sign.startswith("."):
        (tmp_path / sign).touch()
    else:
        monkeypatch.setenv(sign, "10.0.0.1")
    (warning,) = _warnings(tmp_path, loopback)
    assert "Set name" in warning
    assert _warnings(tmp_path, "targets: [{url: 'http://localhost:11434', name: gpu-a}]") == []
    assert _warnings(tmp_path, "targets: [{url: 'http://ollama:11434'}]") == []
