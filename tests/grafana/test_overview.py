"""The overview shows which models are slow and why, with and without the shipped rules."""

from __future__ import annotations

import pytest
from support.dashboards.dashboard_files import OVERVIEW, find_panel, find_query
from support.dashboards.simulated_fleet import A100, FLEET
from support.dashboards.week import ALL, Rows, Week, index_by_model, run_query

TABLE = find_panel(OVERVIEW, "All models, furthest below baseline first")
RELATIVE = find_panel(OVERVIEW, "Decode rate relative to baseline")
ON_CPU = ("gpu-a", "llama3.1")
THROTTLED = ("gpu-d", "llama3.1")


def get_column(week: Week, ref_id: str, variables: dict[str, str] = ALL) -> Rows:
    """Return the rows of one query of the table."""
    return week.query(find_query(TABLE, ref_id), variables)


def test_table_shows_the_drop_and_its_cause(week: Week) -> None:
    """The model on the CPU has its drop, its cause and the GPU cpu; the other models have no cause and no drop."""
    drop = index_by_model(get_column(week, "drop"))
    assert drop[ON_CPU] == pytest.approx(0.917, abs=0.01)
    assert all(abs(value) < 0.06 for key, value in drop.items() if key not in {ON_CPU, THROTTLED})
    causes = {(labels["target"], labels["model"]): labels["cause"] for labels, _ in get_column(week, "cause")}
    assert causes == {ON_CPU: "cpu"}
    gpus = {(labels["target"], labels["model"]): labels["gpu"] for labels, _ in get_column(week, "rate")}
    assert gpus[ON_CPU] == "cpu"
    assert index_by_model(get_column(week, "success")) == dict.fromkeys(index_by_model(get_column(week, "age")), 1)


def test_cause_of_failing_probes_is_their_reason(week: Week) -> None:
    """While a server is down, the cause of its model is the reason of the failures, also before the rules have data."""
    rows = run_query(week.prometheus, find_query(TABLE, "cause"), ALL, week.end - 7.3 * 3600)
    assert {labels["cause"] for labels, _ in rows if labels["target"] == "gpu-d"} == {"probe fails: connect"}


def test_overview_works_without_the_rules(week: Week) -> None:
    """Only the causes and the chart relative to the baseline need the rules; the chart's text says so."""
    rows = {ref_id: rows for (title, ref_id), rows in week.before_rules.items() if title == TABLE["title"]}
    models = {(model.target, model.name) for model in FLEET}
    for ref_id in ("success", "rate", "baseline", "drop", "age", "offload"):
        assert set(index_by_model(rows[ref_id])) == models, ref_id
    assert index_by_model(rows["drop"])[ON_CPU] == pytest.approx(0.917, abs=0.01)
    empty = {key for key, rows in week.before_rules.items() if not rows and not key[1].startswith(("rank", "others"))}
    assert empty == {(RELATIVE["title"], "A"), (TABLE["title"], "cause")}
    assert "deploy/prometheus/rules.yml" in RELATIVE["fieldConfig"]["defaults"]["noValue"]


def test_baseline_without_the_rules(week: Week) -> None:
    """It is the expected rate if one is configured, else the median rate of the week."""
    baseline = index_by_model(week.before_rules[TABLE["title"], "baseline"])
    assert {model.expected for model in FLEET} == {110, None}
    for model in FLEET:
        expected = model.expected or pytest.approx(model.rate, rel=0.01)
        assert baseline[model.target, model.name] == expected, model.name


def test_selected_gpu_excludes_models_on_other_gpus(week: Week) -> None:
    """Status metrics have no label `gpu`; they are filtered by that of the last reading."""
    for ref_id in ("success", "baseline", "drop", "age"):
        rows = get_column(week, ref_id, ALL | {"gpu": "NVIDIA L4"})
        assert set(index_by_model(rows)) == {("gpu-e", "llama3.2:3b")}, ref_id


@pytest.mark.parametrize(
    ("title", "label", "names", "fastest"),
    [
        ("Decode rate by model", "model", {model.name for model in FLEET}, "llama3.1"),
        ("Decode rate by GPU", "gpu", {model.gpu for model in FLEET} | {"cpu"}, A100),
    ],
)
def test_ranked_chart_draws_each_series_once(week: Week, title: str, label: str, names: set[str], fastest: str) -> None:
    """Each model and each GPU is in exactly one rank, the fastest in the first."""
    ranked = [labels[label] for query in find_panel(OVERVIEW, title)["targets"] for labels, _ in week.query(query)]
    assert sorted(ranked) == sorted(names)
    assert ranked[0] == fastest
