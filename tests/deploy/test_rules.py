"""The shipped alert rules and the Alertmanager example, checked with promtool and amtool."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.programs import Release

from exporter.errors import SkipReason

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
GENERATOR = FOLDER / "generate_rules.py"
sys.path.append(str(FOLDER))

from ruleset.annotations import SENTENCES, SKIP_SENTENCES  # noqa: E402 - needs the path above
from ruleset.causes import Cause  # noqa: E402 - needs the path above

RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDS = [rule for group in RULES["groups"] for rule in group["rules"] if "record" in rule]
CASES = sorted((FOLDER / "tests").glob("*.yml"))


def generate(*arguments: str) -> str:
    """Return what the generator writes."""
    command = [sys.executable, str(GENERATOR), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def run(*command: str | Path) -> str:
    """Run a program that must succeed, and return its output."""
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=290)
    assert outcome.returncode == 0, (outcome.stdout + outcome.stderr)[-8000:]
    return outcome.stdout


def test_rules_file_is_what_the_generator_writes() -> None:
    """rules.yml is the generator's output; `make rules` writes it."""
    assert (FOLDER / "rules.yml").read_text() == generate()


def test_promtool_accepts_the_rules(promtool: Path, tmp_path: Path) -> None:
    """The shipped rules and those of a demonstration pass promtool of every major version."""
    demo = tmp_path / "demo.yml"
    generate("--demo-interval=2", f"--output={demo}")
    for file in (FOLDER / "rules.yml", demo):
        assert "SUCCESS" in run(promtool, "check", "rules", file)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_rules_pass_their_promtool_cases(promtool: Path, case: Path) -> None:
    """The alerts of every case fire at the given times, with the given labels and annotations, and at no others."""
    run(promtool, "test", "rules", case)


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    """For each alert, the cases name a time at which it fires and one at which it does not."""
    firing: set[str] = set()
    silent: set[str] = set()
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for check in test["alert_rule_test"]:
                (firing if check["exp_alerts"] else silent).add(check["alertname"])
    names = {rule["alert"] for rule in ALERTS}
    assert firing == names
    assert silent == names


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alert_has_severity_texts_and_a_runbook_section(rule: dict[str, Any]) -> None:
    """Each alert has a severity, four annotations, and a runbook section that its link leads to."""
    assert rule["alert"].startswith("OllamaProbe")
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert list(rule["annotations"]) == ["summary", "description", "runbook_url", "dashboard_url"]
    assert all(rule["annotations"].values())
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.endswith("/deploy/prometheus/runbook.md")
    assert anchor == rule["alert"].lower()
    assert f"\n## {rule['alert']}\n" in (FOLDER / "runbook.md").read_text()


def test_runbook_lists_every_cause_in_order() -> None:
    """The runbook's table of causes is the closed set in its order, and each cause has a sentence."""
    listed = re.findall(r"^\| `(\w+)` \|", (FOLDER / "runbook.md").read_text().partition("### When")[0], re.MULTILINE)
    assert listed == list(Cause)
    assert SENTENCES.keys() == set(Cause)


def test_every_skip_reason_has_a_sentence() -> None:
    """The alert of a skipped model explains each reason."""
    assert list(SKIP_SENTENCES) == list(SkipReason)


def test_records_are_not_grouped_by_gpu_or_instance() -> None:
    """A model keeps its history when a fall to the CPU changes `gpu`, or a restart changes `instance`."""
    for rule in RECORDS:
        kept = re.findall(r"(?:max|min|sum|count|topk|bottomk) by \(([^)]*)\)", rule["expr"])
        labels = {label.strip() for found in kept for label in found.split(",")}
        assert "instance" not in labels, rule
        # Only to detect that the GPU changed; the label is joined into `value` at once.
        assert "gpu" not in labels or rule["record"] == "ollama_probe:identity:rate", rule


def test_windows_depend_on_the_interval() -> None:
    """Each range of intervals has a window of three runs and one of five; every interval is in exactly one range."""
    (best,) = (rule["expr"] for rule in RECORDS if rule["record"].endswith(":ratio_best_recent"))
    windows = re.findall(r"max_over_time\(\S+\[(\d+)m\]\)", best)
    assert windows[::2] == ["4", "11", "31", "121", "721"]
    assert windows[1::2] == ["6", "21", "61", "241", "1441"]
    bounds = re.findall(r"interval_seconds\)(?: > (\d+))? <= (\d+)\)", best)
    assert [int(high) for _, high in bounds] == [60, 300, 900, 3600, 21600]
    assert [low for low, _ in bounds] == ["", *(high for _, high in bounds[:-1])]


def test_demo_rules_find_drops_and_recovery(newest_release: Release, tmp_path: Path) -> None:
    """With a probe every 2 s, a fall to the CPU fires within 6 s, an unexplained drop within 31 s; both end in 40 s."""
    generate("--demo-interval=2", f"--output={tmp_path / 'rules.yml'}")
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
    run(newest_release.promtool, "test", "rules", case)


@pytest.mark.parametrize("text", ["0", "-5"])
def test_demo_interval_must_be_positive(text: str) -> None:
    """Other values are a usage error that names the flag."""
    outcome = subprocess.run(
        [sys.executable, GENERATOR, f"--demo-interval={text}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert outcome.returncode == 2
    assert "--demo-interval" in outcome.stderr


def test_amtool_accepts_the_alertmanager_example(release: Release) -> None:
    """The example of grouping and inhibition passes amtool of every major version."""
    assert "SUCCESS" in run(release.amtool, "check-config", ROOT / "deploy/alertmanager/alertmanager.yml")


def test_alertmanager_example_matches_shipped_alerts() -> None:
    """Every matcher of the inhibition rules matches at least one shipped alert."""
    names = {rule["alert"] for rule in ALERTS}
    example = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())
    for rule in example["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            expression = matcher.partition("=")[2].strip('~"')
            assert any(re.fullmatch(expression, name) for name in names), matcher
