"""The boards are what their program writes, load as Grafana publishes, and answer from a real Prometheus."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import programs
from support.dashboards import colors, history, lint

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
DAY = 86400
RULES_LOADED_SECONDS = 10 * 3600
STEP = 900
MODEL_BOARD = "ollama-throughput"
BOARDS = {
    uid: json.loads((GRAFANA / "dashboards" / f"{uid}.json").read_text())
    for uid in ("ollama-throughput-overview", MODEL_BOARD, "ollama-throughput-fleet")
}
ALL = dict.fromkeys(lint.VARIABLES, ".+")
FALLEN = ALL | {"target": "gpu-a", "model": "llama3.1"}
HEALTHY = ALL | {"target": "gpu-b", "model": "llama3.1"}
Rows = list[tuple[dict[str, str], list[float]]]


@dataclass(frozen=True)
class Week:
    """A Prometheus that holds a week in which one model fell to the CPU six hours ago."""

    prometheus: programs.Prometheus
    end: float
    without_rules: dict[str, Rows]
    """What the queries of the overview gave before the rules were evaluated, by panel and refId."""

    answers: dict[str, Rows] = field(default_factory=dict)

    def ask(self, target: dict[str, Any], values: dict[str, str]) -> Rows:
        """Return a query's series, each with its labels and its values, asked as Grafana asks, and only once."""
        key = json.dumps([target["expr"], target.get("instant"), values])
        if key not in self.answers:
            self.answers[key] = ask(self.prometheus, target, values, self.end)
        return self.answers[key]


def ask(prometheus: programs.Prometheus, target: dict[str, Any], values: dict[str, str], end: float) -> Rows:
    """Return a query's series over the week, or at its end where the query is instant."""
    query = lint.expand(target["expr"], values, step=STEP)
    assert not re.search(r"\$[a-zA-Z_{]", query), f"unknown variable in {query}"
    if target.get("instant"):
        return [(labels, [value]) for labels, value in prometheus.query(query, time=end)]
    answer = prometheus.get("query_range", query=query, start=end - 7 * DAY, end=end, step=STEP)
    return [(series["metric"], [float(value) for _, value in series["values"]]) for series in answer["result"]]


@pytest.fixture(scope="module")
def week(
    newest_release: programs.Release,
    run_prometheus: Callable[..., programs.Prometheus],
    tmp_path_factory: pytest.TempPathFactory,
) -> Week:
    """Return the week, its history told by the product's metrics, the shipped rules loaded for its last ten hours."""
    folder = tmp_path_factory.mktemp("week")
    end = time.time() // 60 * 60
    history.write(folder / "week.om", begin=end - 7 * DAY, end=end, step=900, healthy=False)
    history.backfill(newest_release.promtool, folder / "week.om", folder / "data")
    prometheus = run_prometheus(newest_release, history.CONFIG, *history.FLAGS, folder=folder)
    without_rules = {
        f"{panel['title']}/{target['refId']}": ask(prometheus, target, ALL, end)
        for panel in lint.panels(BOARDS["ollama-throughput-overview"])
        for target in panel["targets"]
    }
    history.evaluate_rules(prometheus, begin=end - RULES_LOADED_SECONDS, end=end)
    return Week(prometheus, end, without_rules)


def targets_of(board: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return a board's panels with each of their queries."""
    return [(panel, target) for panel in lint.panels(board) for target in panel["targets"]]


def panel_of(uid: str, title: str) -> dict[str, Any]:
    """Return a board's panel by the beginning of its title."""
    return next(panel for panel in lint.panels(BOARDS[uid]) if panel["title"].startswith(title))


def column(week: Week, panel: dict[str, Any], name: str, values: dict[str, str] = ALL) -> Rows:
    """Return the rows of one query of a table."""
    return week.ask(next(target for target in panel["targets"] if target["refId"] == name), values)


def by_pair(rows: Rows) -> dict[tuple[str, str], float]:
    """Return a table's column by target and model."""
    return {(labels["target"], labels["model"]): values[-1] for labels, values in rows}


# What is committed.


def test_committed_boards_are_what_the_program_writes(tmp_path: Path) -> None:
    """A rebuild gives the committed files, byte for byte, and no others."""
    command = [sys.executable, GRAFANA / "build.py", tmp_path]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)
    rebuilt = {file.name: file.read_text() for file in tmp_path.iterdir()}
    committed = {file.name: file.read_text() for file in (GRAFANA / "dashboards").iterdir()}
    assert rebuilt == committed, "run `make dashboards`"
    assert {f"{uid}.json": board["uid"] for uid, board in BOARDS.items()} == {f: f[:-5] for f in committed}


@pytest.mark.parametrize("uid", BOARDS)
def test_a_board_has_no_faults(uid: str) -> None:
    """Nothing is found."""
    assert lint.findings(BOARDS[uid]) == []


FAULTS: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "misspelt metric": (lambda _, p: misspell(p), "unknown metric ollama_probe_decode_token_per_second"),
    "unknown unit": (lambda _, p: p["fieldConfig"]["defaults"].update(unit="tok/s"), "unknown unit tok/s"),
    "unit of a column": (lambda b, _: spoil_column(b), "unknown unit percnt"),
    "counter without rate": (lambda _, p: swap(p, 'ollama_probe_runs_total{job=~"$job"}'), "without increase or rate"),
    "rate of a probe counter": (lambda _, p: swap(p, "rate(ollama_probe_runs_total[5m])"), "use increase over a long"),
    "rate over a fixed window": (lambda _, p: swap(p, "rate(process_cpu_seconds_total[5m])"), "not over $__rate_int"),
    "unfiltered": (lambda _, p: swap(p, 'ollama_probe_success{job=~"$job"}'), 'not filtered by target=~"$target"'),
    "filter that takes one value": (lambda _, p: swap(p, 'up{job="$job",instance=~"$instance"}'), "filtered by job"),
    "no PromQL": (lambda _, p: swap(p, "sum by (model"), "query A: "),
    "overlap": (lambda _, p: p["gridPos"].update(y=2), "overlaps"),
    "off the grid": (lambda _, p: p["gridPos"].update(x=20, y=900), "wider than the board"),
    "unknown type": (lambda _, p: p.update(type="graf"), "unknown panel type graf"),
    "no description": (lambda _, p: p.update(description=""), "no description"),
    "no words for no data": (lambda _, p: p["fieldConfig"]["defaults"].pop("noValue"), "says nothing"),
    "a fixed data source": (lambda _, p: p.update(datasource={"type": "prometheus", "uid": "abc"}), "data source var"),
    "an id": (lambda b, _: b.update(id=7), "has an id"),
    "editable": (lambda b, _: b.update(editable=True), "editable"),
    "a variable for one value": (lambda b, _: b["templating"]["list"][1].update(multi=False), "variable job"),
    "a stale variable": (
        lambda b, _: b["templating"]["list"][2].update(refresh=1),
        "variable instance does not follow",
    ),
    "text for a number": (lambda _, p: p["gridPos"].update(h="9", y=900), "schema: panels"),
    "no option of that name": (lambda _, p: p["options"].update(legned={}), "schema: : Additional properties"),
    "no style of that name": (
        lambda _, p: p["fieldConfig"]["defaults"]["custom"].update(drawStyle="dots"),
        "schema: draw",
    ),
    "no threshold mode": (
        lambda _, p: p["fieldConfig"]["defaults"].update(thresholds={"mode": "abs", "steps": []}),
        "schema: panels",
    ),
    "a misspelt panel key": (lambda _, p: p.update(descriptoin="x"), "schema: panels"),
    "classic palette": (lambda _, p: p["fieldConfig"]["defaults"]["color"].update(mode="palette-classic"), "palette"),
}


def swap(panel: dict[str, Any], expression: str) -> None:
    """Give a panel's first query another expression."""
    panel["targets"][0].update(expr=expression, refId="A")


def misspell(panel: dict[str, Any]) -> None:
    """Drop a letter of a metric's name."""
    target = panel["targets"][0]
    target["expr"] = target["expr"].replace("decode_tokens_per", "decode_token_per")


def spoil_column(board: dict[str, Any]) -> None:
    """Misspell the unit of a table's column."""
    overrides = next(p for p in lint.panels(board) if p["type"] == "table")["fieldConfig"]["overrides"]
    next(p for o in overrides for p in o["properties"] if p["id"] == "unit")["value"] = "percnt"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_found(fault: str) -> None:
    """Each rule finds what it is for."""
    board = copy.deepcopy(BOARDS["ollama-throughput-overview"])
    charts = [p for p in lint.panels(board) if p["type"] == "timeseries"]
    seed, said = FAULTS[fault]
    seed(board, charts[1])
    found = lint.findings(board)
    assert any(said in problem for problem in found), found


# What it shows.


def empty(week: Week, uid: str, values: list[dict[str, str]]) -> list[str]:
    """Return the queries that give nothing but NaN, or nothing, for all of these choices of the variables.

    A chart by rank needs as many ranks as there are series, the ranks beyond them are empty.
    """
    found = []
    for panel, target in targets_of(BOARDS[uid]):
        if re.fullmatch(r"rank[2-9]|others", target["refId"]):
            continue
        answers = (value for choice in values for _, shown in week.ask(target, choice) for value in shown)
        if all(math.isnan(value) for value in answers):
            found.append(f"{panel['title']}, {target['refId']}: nothing for {target['expr']}")
    return found


@pytest.mark.parametrize("uid", BOARDS)
def test_every_query_has_data(week: Week, uid: str) -> None:
    """Every query of every panel runs and gives data, for all pairs or for one that fell or that was shared."""
    choices = [ALL, FALLEN, HEALTHY, ALL | {"target": "gpu-a", "model": "qwen3:14b"}]
    assert empty(week, uid, choices if uid == MODEL_BOARD else [ALL]) == []


@pytest.mark.parametrize("uid", BOARDS)
def test_every_label_that_is_shown_exists(week: Week, uid: str) -> None:
    """The labels of legends, and the columns and overrides of tables, are in the results."""
    missing = []
    for panel in lint.panels(BOARDS[uid]):
        names: set[str] = set()
        for target in panel["targets"]:
            rows = week.ask(target, ALL) or week.ask(target, HEALTHY)
            legend = target.get("legendFormat", "")
            wanted = set(re.findall(r"\{\{(\w+)\}\}", legend))
            missing += [f"{panel['title']}: {{{{{name}}}}}" for labels, _ in rows for name in wanted - set(labels)]
            names |= {re.sub(r"\{\{(\w+)\}\}", lambda m, row=labels: row[m[1]], legend) for labels, _ in rows}  # type: ignore[misc]
            names |= {name for labels, _ in rows for name in labels} | {f"Value #{target['refId']}"}
        if panel["type"] == "table":
            names |= {"Value"} | ({"model\\gpu"} if "matrix" in json.dumps(panel).lower() else set())
        shown = {o["matcher"]["options"] for o in panel["fieldConfig"]["overrides"] if o["matcher"]["id"] == "byName"}
        order = [t["options"].get("indexByName", {}) for t in panel.get("transformations", [])]
        shown |= {name for columns in order for name in columns}
        reasons = {
            "sw_thermal",
            "hw_thermal",
            "hw_power_brake",
            "hw_slowdown",
            "cut off",
        }  # none in a week of this fleet
        missing += [f"{panel['title']}: {name}" for name in shown - names - reasons]
    assert missing == []


@pytest.mark.parametrize("uid", BOARDS)
def test_variables_have_values(week: Week, uid: str) -> None:
    """Every variable's query gives the values that the week has."""
    values = {}
    for variable in BOARDS[uid]["templating"]["list"][1:]:
        query, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        match = lint.expand(query, ALL)
        values[variable["name"]] = week.prometheus.get(f"label/{label}/values", **{"match[]": match})
    fleet = history.FLEET
    assert values == {
        "job": [history.JOB],
        "instance": sorted({f"{model.target}:10434" for model in fleet}),
        "target": sorted({model.target for model in fleet}),
        "model": sorted({model.name for model in fleet}),
        "gpu": sorted({model.gpu for model in fleet} | {"cpu"}),
    }


def test_marks(week: Week) -> None:
    """The changes and the alerts of the week are marked, and nothing that only went away and came back."""
    seen = {}
    for mark in BOARDS[MODEL_BOARD]["annotations"]["list"]:
        rows = ask(week.prometheus, mark["target"] | {"instant": False}, ALL, week.end)
        label = re.fullmatch(r"\D*\{\{(\w+)\}\}", mark["titleFormat"])[1]  # type: ignore[index]
        seen[mark["name"]] = {labels[label] for labels, _ in rows}
    assert "OllamaProbeThroughputDropped" in seen.pop("Firing alerts")
    workload = seen.pop("Workload")
    assert len(workload) == 1
    assert seen == {"Ollama version": {"0.13.0"}, "Model digest": {"bdbd181c33f2"}, "GPU driver": {"570.86.10"}}


# What it says.


def test_the_overview_names_the_slow_one_and_its_cause(week: Week) -> None:
    """Of the pair that fell to the CPU: where it runs, how far it fell, why; and of the others that they are well."""
    table = panel_of("ollama-throughput-overview", "Every model")
    drop = by_pair(column(week, table, "drop"))
    fallen = ("gpu-a", "llama3.1")
    assert drop[fallen] == pytest.approx(0.917, abs=0.01)
    assert all(abs(value) < 0.06 for pair, value in drop.items() if pair not in {fallen, ("gpu-d", "llama3.1")})
    causes = {(labels["target"], labels["model"]): labels["cause"] for labels, _ in column(week, table, "why")}
    assert causes == {fallen: "cpu"}
    gpus = {(labels["target"], labels["model"]): labels["gpu"] for labels, _ in column(week, table, "rate")}
    assert gpus[fallen] == "cpu"
    assert by_pair(column(week, table, "success")) == dict.fromkeys(by_pair(column(week, table, "age")), 1)


def test_the_overview_says_why_probes_fail(week: Week) -> None:
    """While a server was down its pair's cause is the reason of the failures, with or without the rules."""
    panel = panel_of("ollama-throughput-overview", "Every model")
    why = next(target for target in panel["targets"] if target["refId"] == "why")
    rows = ask(week.prometheus, why, ALL, week.end - 7.3 * 3600)
    assert {labels["cause"] for labels, _ in rows if labels["target"] == "gpu-d"} == {"probe fails: connect"}


def test_the_overview_works_without_the_rules(week: Week) -> None:
    """The table has its rates, normals and drops; the one chart that needs the rules says so."""
    table = {key.partition("/")[2]: rows for key, rows in week.without_rules.items() if key.startswith("Every model")}
    pairs = {(model.target, model.name) for model in history.FLEET}
    for name in ("success", "rate", "normal", "drop", "age", "offload"):
        assert set(by_pair(table[name])) == pairs, name
    assert by_pair(table["drop"])["gpu-a", "llama3.1"] == pytest.approx(0.917, abs=0.01)
    bare = {key for key, rows in week.without_rules.items() if not rows and "/rank" not in key and "/others" not in key}
    assert bare == {
        "Rate as a share of its own normal/A",
        "Every model on every target, furthest below its normal first/why",
    }
    assert "No rules loaded" in panel_of("ollama-throughput-overview", "Rate as")["fieldConfig"]["defaults"]["noValue"]


def test_a_gpu_that_is_chosen_leaves_out_what_runs_elsewhere(week: Week) -> None:
    """Status metrics have no gpu: they are filtered by the reading's."""
    table = panel_of("ollama-throughput-overview", "Every model")
    chosen = ALL | {"gpu": "NVIDIA L4"}
    for name in ("success", "normal", "drop", "age"):
        assert set(by_pair(column(week, table, name, chosen))) == {("gpu-e", "llama3.2:3b")}, name


def test_ranks_together_are_all_series(week: Week) -> None:
    """Every model and every GPU is in exactly one rank, the fastest in the first."""
    for title, label in (("Decode rate by model", "model"), ("Decode rate by GPU", "gpu")):
        targets = panel_of("ollama-throughput-overview", title)["targets"]
        ranked = [labels[label] for target in targets for labels, _ in week.ask(target, ALL)]
        expected = {getattr(model, {"model": "name"}.get(label, label)) for model in history.FLEET}
        assert sorted(ranked) == sorted(expected | ({"cpu"} if label == "gpu" else set()))
        assert ranked[0] == {"model": "llama3.1", "gpu": history.A100}[label]


def test_ranks_beyond_the_colours_are_grey(week: Week) -> None:
    """With more series than colours the others are in the last query."""
    targets = panel_of(MODEL_BOARD, "Decode rate")["targets"]
    by_name = {
        target["refId"]: {(s["target"], s["model"], s["gpu"]) for s, _ in week.ask(target, ALL)}
        for target in targets
        if target["refId"].startswith(("rank", "oth"))
    }
    assert [len(by_name[f"rank{n}"]) for n in range(1, 6)] == [1] * 5
    assert len(set().union(*by_name.values())) == sum(map(len, by_name.values())) == 9


def test_the_fleet_finds_the_sick_one(week: Week) -> None:
    """What fell to the CPU is far below its peers, a warm card a little, and a card without peers is not judged."""
    against = by_pair(column(week, panel_of("ollama-throughput-fleet", "Which one is sick"), "against"))
    assert against["gpu-a", "llama3.1"] < -0.85
    assert -0.2 < against["gpu-d", "llama3.1"] < -0.1
    assert against.keys() == {("gpu-a", "llama3.1"), ("gpu-b", "llama3.1"), ("gpu-d", "llama3.1")}


def test_the_fleet_tells_what_probing_costs(week: Week) -> None:
    """The share of a server's time is what its probes lasted: some 2.7 s and 4.4 s each quarter of an hour."""
    rows = week.ask(panel_of("ollama-throughput-fleet", "Cost of probing: time")["targets"][0], ALL)
    shares = {labels["target"]: values[-1] for labels, values in rows}
    assert shares["gpu-b"] == pytest.approx((256 / 108 + 0.45) / 900, rel=0.05)


# What belongs to it.


def test_alerts_lead_to_a_board() -> None:
    """The address in the rules' annotations is of a board that is shipped, and its variables are that board's."""
    rules = (ROOT / "deploy/prometheus/rules.yml").read_text()
    uids = set(re.findall(r"dashboard_url: \S+/d/([\w-]+)", rules))
    assert uids <= set(BOARDS)
    assert set(re.findall(r"[?&]var-(\w+)=", rules)) <= set(lint.VARIABLES)


def test_every_cause_has_words() -> None:
    """The boards put words to exactly the causes that the rules can name."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    causes = {rule.get("labels", {}).get("cause") for group in rules["groups"] for rule in group["rules"]} - {None}
    for uid, title in (("ollama-throughput-overview", "Every model"), (MODEL_BOARD, "Cause")):
        text = json.dumps(panel_of(uid, title))
        assert {cause for cause in causes if f'"{cause}": {{' not in text} == set()


def test_boards_link_to_each_other() -> None:
    """Each board links to all by their tag, and keeps variables and time."""
    for board in BOARDS.values():
        (link,) = board["links"]
        assert link["type"] == "dashboards"
        assert set(link["tags"]) <= set(board["tags"])
        assert link["includeVars"]
        assert link["keepTime"]


def test_provisioning_finds_prometheus_and_the_boards() -> None:
    """The files are of version 1, read-only, and their folder is where the compose stack mounts the boards."""
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/ollama-throughput.yaml").read_text())
    assert source["apiVersion"] == provider["apiVersion"] == 1
    assert source["datasources"][0]["type"] == "prometheus"
    (boards,) = provider["providers"]
    assert (boards["type"], boards["allowUiUpdates"]) == ("file", False)
    compose = (ROOT / "deploy/compose/compose.yaml").read_text()
    assert f"../../grafana/dashboards:{boards['options']['path']}:ro" in compose
    assert "../../grafana/provisioning:/etc/grafana/provisioning:ro" in compose


def test_an_empty_panel_says_why() -> None:
    """What needs a card that can be read, or the rules, says so where there is nothing to show."""
    for panel in (panel for board in BOARDS.values() for panel in lint.panels(board)):
        queries = [target["expr"] for target in panel["targets"]]
        said = panel["fieldConfig"]["defaults"]["noValue"]
        if any(
            re.search(r"ollama_probe_(gpu_(clock|power|temp|throt|cons)|tokens_per_joule|bandwidth)", q)
            for q in queries
        ):
            assert "no NVIDIA card" in said, panel["title"]
        if all(re.match(r"\(?ollama_probe:", query) for query in queries):
            assert "No rules loaded" in said, panel["title"]


def test_colours_are_told_apart_by_everybody() -> None:
    """The colours of lines, and of good, warning and bad, differ plainly for every vision, on both themes."""
    used = {
        p["value"].get("fixedColor")
        for b in BOARDS.values()
        for panel in lint.panels(b)
        for o in panel["fieldConfig"]["overrides"]
        for p in o["properties"]
        if p["id"] == "color"
    }
    grey = "#8E8E8E"
    lines = used - {grey}
    assert len(lines) == 5
    for one, other in combinations(lines, 2):
        for vision in colors.VISION:
            assert colors.distance(one, other, vision) > 24, (one, other, vision)
    for color in used:
        assert min(colors.contrast(color, "#181b1f"), colors.contrast(color, "#ffffff")) > 2.5, color


def test_pictures_are_small() -> None:
    """The README shows pictures that exist, each below 200 kB."""
    shown = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (GRAFANA / "README.md").read_text()))
    assert shown
    assert all((GRAFANA / name).stat().st_size < 200_000 for name in shown)
