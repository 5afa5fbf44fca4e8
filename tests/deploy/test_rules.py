"""The shipped alert rules, judged by every promtool at hand, and the benchmark's replay of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.programs import Release

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
GENERATOR = FOLDER / "generate_rules.py"
sys.path.append(str(ROOT / "tests/bench/alerts"))

from histories import Event, Neighbours, Pair, Run, exposition, history  # noqa: E402
from replay import Database, Grid, Replay, in_order, rules  # noqa: E402
from report import WARNED  # noqa: E402
from ruleset import causes  # noqa: E402
from ruleset import intervals as steps  # noqa: E402
from run import START, results, scenario  # noqa: E402

RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDS = [rule for group in RULES["groups"] for rule in group["rules"] if "record" in rule]
CASES = sorted((FOLDER / "tests").glob("*.yml"))


def generate(*arguments: str) -> str:
    """Return what the generator writes."""
    command = [sys.executable, str(GENERATOR), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def accept(*command: str | Path) -> str:
    """Run a checking program that must be content, and return what it says."""
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=290)
    assert outcome.returncode == 0, (outcome.stdout + outcome.stderr)[-8000:]
    return outcome.stdout


def test_the_file_is_fresh() -> None:
    """rules.yml is what the generator writes: run `make rules` after a change."""
    assert (FOLDER / "rules.yml").read_text() == generate()


def test_promtool_accepts_the_rules(promtool: Path, tmp_path: Path) -> None:
    """The shipped file and the demonstration's are rules without a lint finding, in every version."""
    demo = tmp_path / "demo.yml"
    generate("--step=2", f"--output={demo}")
    for file in (FOLDER / "rules.yml", demo):
        assert "SUCCESS" in accept(promtool, "check", "rules", file)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_rules_behave(promtool: Path, case: Path) -> None:
    """Every case fires with these words, or nearly does and must not."""
    accept(promtool, "test", "rules", case)


def test_every_alert_is_tried_both_ways() -> None:
    """There is a moment at which each alert fires, and one at which it is silent."""
    loud: set[str] = set()
    silent: set[str] = set()
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for check in test["alert_rule_test"]:
                (loud if check["exp_alerts"] else silent).add(check["alertname"])
    names = {rule["alert"] for rule in ALERTS}
    assert loud == names
    assert silent == names


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_all_that_a_person_needs(rule: dict[str, Any]) -> None:
    """Severity, what, why and where to read on; and the runbook has a section of that name."""
    assert rule["alert"].startswith("OllamaProbe")
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert list(rule["annotations"]) == ["summary", "description", "runbook_url", "dashboard_url"]
    assert all(rule["annotations"].values())
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.endswith("/deploy/prometheus/runbook.md")
    assert anchor == rule["alert"].lower()
    assert f"\n## {rule['alert']}\n" in (FOLDER / "runbook.md").read_text()


def test_the_runbook_knows_every_cause_and_no_other() -> None:
    """Its table of causes is the closed set, in its order."""
    listed = re.findall(r"^\| `(\w+)` \|", (FOLDER / "runbook.md").read_text().partition("### When")[0], re.MULTILINE)
    assert listed == list(causes.Cause)
    assert causes.SENTENCES.keys() == set(causes.Cause)


def test_no_rule_tells_pairs_apart_by_gpu_or_instance() -> None:
    """A fall to the CPU changes `gpu`, a restart may change `instance`: neither may part a drop from its past."""
    for rule in RECORDS:
        kept = re.findall(r"(?:max|min|sum|count|topk|bottomk) by \(([^)]*)\)", rule["expr"])
        labels = {label.strip() for found in kept for label in found.split(",")}
        assert "instance" not in labels, rule
        # By the card's name only to notice that it changed: folded into another label at once.
        assert "gpu" not in labels or rule["record"] == "ollama_probe:identity:rate", rule


def test_windows_follow_the_interval() -> None:
    """Each step of the ladder is three runs long, or five where some are missing, and each interval has exactly one."""
    (best,) = (rule["expr"] for rule in RECORDS if rule["record"].endswith(":ratio_best_recent"))
    windows = re.findall(r"max_over_time\(\S+\[(\d+)m\]\)", best)
    assert windows[::2] == ["4", "11", "31", "121", "721"]
    assert windows[1::2] == ["6", "21", "61", "241", "1441"]
    bounds = re.findall(r"interval_seconds\)(?: > (\d+))? <= (\d+)\)", best)
    assert [int(high) for _, high in bounds] == [60, 300, 900, 3600, 21600]
    assert [low for low, _ in bounds] == ["", *(high for _, high in bounds[:-1])]


def test_a_demonstration_sees_drops_and_recovery(newest_release: Release, tmp_path: Path) -> None:
    """At a probe every 2 s a fall to the CPU pages within 6 s, an unexplained drop within 31 s; both clear in 40 s."""
    generate("--step=2", f"--output={tmp_path / 'rules.yml'}")
    readings = {
        ("fell", "A"): "100x9 stale _x40 100x69",
        ("fell", "cpu"): "_x10 5x40 stale",
        ("slow", "A"): "100x9 30x40 100x70",
    }
    series = [
        {"series": f'ollama_probe_{name}{{job="j",instance="i",target="t",model="{model}"}}', "values": f"{value}x120"}
        for model in ("fell", "slow")
        for name, value in (("interval_seconds", 2), ("expected_decode_tokens_per_second", 100))
    ] + [
        {
            "series": "ollama_probe_decode_tokens_per_second"
            f'{{job="j",instance="i",target="t",model="{model}",gpu="{gpu}"}}',
            "values": values,
        }
        for (model, gpu), values in readings.items()
    ]
    active = 'count by (model, cause) (ALERTS{alertname="OllamaProbeThroughputDropped", alertstate="firing"})'
    fell, slow = (
        {"labels": f'{{cause="{c}", model="{m}"}}', "value": 1} for m, c in (("fell", "cpu"), ("slow", "none_visible"))
    )
    expected: dict[int, list[dict[str, Any]]] = {
        11: [],
        16: [fell],
        35: [fell],
        41: [fell, slow],
        51: [fell, slow],
        91: [],
    }
    checks = [{"expr": active, "eval_time": f"{at}s", "exp_samples": found} for at, found in expected.items()]
    case = tmp_path / "case.yml"
    test = {"interval": "1s", "input_series": series, "promql_expr_test": checks}
    order = ["ollama-probe-readings", "ollama-probe-baselines", "ollama-probe-alerts"]
    head = {"rule_files": ["rules.yml"], "evaluation_interval": "1s", "group_eval_order": order}
    case.write_text(json.dumps(head | {"tests": [test]}))
    accept(newest_release.promtool, "test", "rules", case)


@pytest.mark.parametrize("text", ["0", "-5"])
def test_a_demonstration_needs_a_positive_interval(text: str) -> None:
    """Anything else is refused with what to write instead."""
    outcome = subprocess.run(
        [sys.executable, GENERATOR, f"--step={text}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert outcome.returncode == 2
    assert "more than 0" in outcome.stderr


def test_alertmanager_accepts_its_example(release: Release) -> None:
    """The example of grouping and inhibition is a configuration, in every version."""
    assert "SUCCESS" in accept(release.amtool, "check-config", ROOT / "deploy/alertmanager/alertmanager.yml")


def test_the_example_names_alerts_that_exist() -> None:
    """Whatever its inhibition rules match, by name or by expression, are shipped alerts."""
    names = {rule["alert"] for rule in ALERTS}
    example = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())
    for rule in example["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            expression = matcher.partition("=")[2].strip('~"')
            assert any(re.fullmatch(expression, name) for name in names), matcher


def eventful_histories() -> Iterator[Pair]:
    """Ten pairs probed each minute for three and a half hours, which on a clock fifteen times as fast is two days."""
    happenings = [
        Event("cpu", 0.8, 6000), Event("partial_offload", 0.5, 6000), Event("thermal", 0.5, 6000),
        Event("none_visible", 0.6, 6000), Event("none_visible", 0.15, 6000), Event("version_changed", 0.4, 6000),
        Event("contended", 0.5, 6000), Event("clock_low", 0.5, 6000), Event("gain", -0.3, 6000), None,
    ]  # fmt: skip
    habits = Neighbours(per_day=40)
    for number, event in enumerate(happenings):
        yield history(f"eventful-{number}", interval=60, days=0.15, habits=habits, event=event, known=number % 2 == 0)


def as_promtool_input(samples: Iterable[str], grid: Grid) -> list[dict[str, str]]:
    """OpenMetrics lines as a rule test's input series."""
    series: dict[str, dict[int, str]] = {}
    for line in samples:
        name, value, at = line.rsplit(" ", 2)
        series.setdefault(name, {})[(int(at) - grid.start) // grid.step] = value
    return [
        {"series": name, "values": " ".join(values.get(step, "stale") for step in range(grid.count))}
        for name, values in series.items()
    ]


@pytest.mark.timeout(600)
def test_the_replay_is_what_prometheus_does(newest_release: Release, tmp_path: Path) -> None:
    """On ten histories each alert fires at the same moments with the same labels as in promtool's simulated time.

    promtool evaluates the rules as Prometheus does, self-referring records, `for` and `keep_firing_for` included, but
    one after another: they are put in the order in which the replay asks them, where Prometheus may be an evaluation
    behind.
    """
    clock = steps.Clock((steps.Step(0, 60),), 1 / 15, sampling=60)
    pairs = list(eventful_histories())
    grid = Grid(START, 60, int(0.15 * 86400 // 60))
    database = Database(tmp_path / "replayed", grid, newest_release)
    database.write(line for pair in pairs for line in exposition(pair, grid))
    replayed = Replay(database, clock).run()
    database.close()
    recording, alerts = rules(clock)
    ordered = [rule for names in in_order(recording) for name in names for rule in recording if rule["record"] == name]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "all", "rules": [*ordered, *alerts]}]}))
    fired: dict[int, list[dict[str, Any]]] = {}
    for rule in alerts:
        for labels, moments in replayed[rule["alert"]].items():
            shown = dict(labels) | rule["labels"] | {"alertname": rule["alert"], "alertstate": "firing"}
            text = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(shown.items()))
            for moment in moments:
                fired.setdefault(moment, []).append({"labels": f"ALERTS{{{text}}}", "value": 1})
    assert {
        shown["labels"].partition('alertname="')[2].partition('"')[0] for found in fired.values() for shown in found
    } >= {
        "OllamaProbeThroughputDropped",
        "OllamaProbeThroughputDegraded",
        "OllamaProbeAlwaysContended",
    }
    for part in (pairs[:5], pairs[5:]):  # promtool holds 10,000 samples a query
        models = {pair.model for pair in part}
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
        series = as_promtool_input((line for pair in part for line in exposition(pair, grid)), grid)
        test = {"interval": "1m", "input_series": series, "promql_expr_test": checks}
        case = tmp_path / "case.yml"
        case.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
        accept(newest_release.promtool, "test", "rules", case)


@pytest.mark.timeout(600)
def test_twenty_quiet_months_wake_nobody(newest_release: Release, tmp_path: Path) -> None:
    """Twenty series-months of hourly probes with neighbours, failures and restarts bring no critical and no warning."""
    found = list(results(list(scenario("quiet", 20, 3600, "usual", 0)), 3600, tmp_path / "quiet", newest_release))
    assert len(found) == 20
    told = [(result["series"], stretch) for result in found for stretch in result["alerts"]]
    assert [entry for entry in told if entry[1]["alert"] in WARNED] == []
    # What people use today cries in the same months: the histories are not too tame.
    assert sum(stretch["alert"] == "today: fixed" for _, stretch in told) > 50


@pytest.mark.timeout(600)
def test_a_normal_survives_a_week_of_contended_runs(newest_release: Release, tmp_path: Path) -> None:
    """Half the rate for a week, all marked: contention is the finding, no drop; and a real drop after it is found."""
    day = 86400

    def contended(run: Run) -> Run:
        inside = 5 * day <= run.at < 12 * day and run.rate is not None
        return replace(run, rate=run.rate * 0.5, marked=True) if inside and run.rate is not None else run

    drop = Event("none_visible", 0.3, 13.0 * day)
    pairs = [history(f"contended-week-{index}", interval=3600, days=16, event=drop, known=False) for index in range(3)]
    pairs = [replace(pair, runs=[contended(run) for run in pair.runs]) for pair in pairs]
    for result in results(pairs, 3600, tmp_path / "week", newest_release):
        begins = {name: [s["from"] / 24 for s in result["alerts"] if s["alert"] == name] for name in WARNED}
        throughput = [day for name, days in begins.items() if "Throughput" in name for day in days]
        assert any(5 < day < 12 for day in begins["OllamaProbeAlwaysContended"])
        assert throughput
        assert all(13 < day < 14.5 for day in throughput)
