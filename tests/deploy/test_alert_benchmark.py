"""The replay of the alert benchmark agrees with Prometheus, and the rules raise no false alarms in quiet months."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.programs import Release

sys.path.append(str(Path(__file__).parents[1] / "bench/alerts"))

from histories import ContentionProfile, Event, History, Run, draw_history, exposition
from replay import Database, Grid, Replay, in_order, rules
from report import COMMON_RULES, WARNING_OR_WORSE
from ruleset.intervals import Clock, IntervalRange
from run import START, evaluate, scenario

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def eventful_histories() -> Iterator[History]:
    """Yield ten models probed each minute for three and a half hours, two days on a clock fifteen times as fast.

    The first one recovers after 50 minutes.
    """
    events = [
        Event("cpu", 0.8, 6000), Event("partial_offload", 0.5, 6000), Event("thermal", 0.5, 6000),
        Event("none_visible", 0.6, 6000), Event("none_visible", 0.15, 6000), Event("version_changed", 0.4, 6000),
        Event("contended", 0.5, 6000), Event("clock_low", 0.5, 6000), Event("gain", -0.3, 6000), None,
    ]  # fmt: skip
    profile = ContentionProfile(per_day=40)
    for number, event in enumerate(events):
        known = number % 2 == 0
        draw = partial(draw_history, f"eventful-{number}", interval=60, days=0.15, profile=profile, known=known)
        history = draw(event=event)
        if number == 0:
            recovered = [run for run in draw().runs if run.at >= 9000]
            history = replace(history, runs=[*(run for run in history.runs if run.at < 9000), *recovered])
        yield history


def as_promtool_input(samples: Iterable[str], grid: Grid) -> list[dict[str, str]]:
    """Return OpenMetrics lines as the input series of a promtool test."""
    series: dict[str, dict[int, str]] = {}
    for line in samples:
        name, value, at = line.rsplit(" ", 2)
        series.setdefault(name, {})[(int(at) - grid.start) // grid.step] = value
    return [
        {"series": name, "values": " ".join(values.get(step, "stale") for step in range(grid.count))}
        for name, values in series.items()
    ]


def test_replay_agrees_with_promtool(newest_release: Release, tmp_path: Path) -> None:
    """On ten histories each alert fires at the same times with the same labels as in promtool's simulated time.

    promtool evaluates records that read themselves, `for` and `keep_firing_for` as Prometheus does, but one rule after
    another. The rules are therefore given in the replay's order; Prometheus may lag by one evaluation.
    """
    clock = Clock((IntervalRange(0, 60),), 1 / 15, sampling_seconds=60)
    histories = list(eventful_histories())
    grid = Grid(START, 60, int(0.15 * 86400 // 60))
    database = Database(tmp_path / "replayed", grid, newest_release)
    database.write(line for history in histories for line in exposition(history, grid))
    replayed = Replay(database, clock).run()
    database.close()
    recording, alerts = rules(clock)
    ordered = [rule for names in in_order(recording) for name in names for rule in recording if rule["record"] == name]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "all", "rules": [*ordered, *alerts]}]}))
    fired: dict[int, list[dict[str, Any]]] = {}
    for rule in alerts:
        for labels, steps in replayed[rule["alert"]].items():
            shown = dict(labels) | rule["labels"] | {"alertname": rule["alert"], "alertstate": "firing"}
            text = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(shown.items()))
            for step in steps:
                fired.setdefault(step, []).append({"labels": f"ALERTS{{{text}}}", "value": 1})
    assert {
        shown["labels"].partition('alertname="')[2].partition('"')[0] for found in fired.values() for shown in found
    } >= {
        "OllamaProbeThroughputDropped",
        "OllamaProbeThroughputDegraded",
        "OllamaProbeAlwaysContended",
    }
    for part in (histories[:5], histories[5:]):  # promtool holds 10,000 samples per query
        models = {history.model for history in part}
        checks = [
            {
                "expr": 'ALERTS{alertstate="firing"}',
                "eval_time": f"{step}m",
                "exp_samples": [
                    shown
                    for shown in fired.get(step, [])
                    if any(f'model="{model}"' in shown["labels"] for model in models)
                ],
            }
            for step in range(grid.count)
        ]
        series = as_promtool_input((line for history in part for line in exposition(history, grid)), grid)
        test = {"interval": "1m", "input_series": series, "promql_expr_test": checks}
        case = tmp_path / "case.yml"
        case.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
        outcome = subprocess.run(
            [newest_release.promtool, "test", "rules", case], capture_output=True, text=True, check=False, timeout=290
        )
        assert outcome.returncode == 0, (outcome.stdout + outcome.stderr)[-8000:]


def test_twenty_quiet_months_raise_no_alert(newest_release: Release, tmp_path: Path) -> None:
    """Twenty series-months of hourly probes with contention, failures and restarts raise no critical and no warning."""
    found = list(evaluate(list(scenario("quiet", 20, 3600, "usual", 0)), 3600, tmp_path / "quiet", newest_release))
    assert len(found) == 20
    alerts = [(result["series"], period) for result in found for period in result["alerts"]]
    assert [entry for entry in alerts if entry[1]["alert"] in WARNING_OR_WORSE] == []
    # A fixed threshold fires in the same months, so the histories are not too easy.
    assert sum(period["alert"] == COMMON_RULES[0] for _, period in alerts) > 50


def test_baseline_survives_a_week_of_contended_runs(newest_release: Release, tmp_path: Path) -> None:
    """A week at half the rate, all marked, raises the contention alert only; a drop after that week is found."""
    day = 86400

    def contended(run: Run) -> Run:
        inside = 5 * day <= run.at < 12 * day and run.rate is not None
        return replace(run, rate=run.rate * 0.5, marked=True) if inside and run.rate is not None else run

    drop = Event("none_visible", 0.3, 13.0 * day)
    drawn = [draw_history(f"contended-week-{n}", interval=3600, days=16, event=drop, known=False) for n in range(3)]
    histories = [replace(history, runs=[contended(run) for run in history.runs]) for history in drawn]
    for result in evaluate(histories, 3600, tmp_path / "week", newest_release):
        begins = {name: [s["from"] / 24 for s in result["alerts"] if s["alert"] == name] for name in WARNING_OR_WORSE}
        throughput = [day for name, days in begins.items() if "Throughput" in name for day in days]
        assert any(5 < day < 12 for day in begins["OllamaProbeAlwaysContended"])
        assert throughput
        assert all(13 < day < 14.5 for day in throughput)
