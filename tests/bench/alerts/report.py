"""Print the report of the alert benchmark: `python tests/bench/alerts/report.py results.jsonl`.

Shares are printed with their counts. None in N series-months means, with 95 % confidence, fewer than 3/N a month.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
"""What `run.py` wrote about one series."""

CRITICAL = ("OllamaProbeThroughputDropped", "OllamaProbeThroughputLow")
WARNING = ("OllamaProbeThroughputDegraded", "OllamaProbeAlwaysContended")
INFO = ("OllamaProbeThroughputReduced",)
WARNING_OR_WORSE = (*CRITICAL, *WARNING)
ANY = (*WARNING_OR_WORSE, *INFO)
OUTAGES = ("OllamaProbeFailing", "OllamaProbeModelMissing", "OllamaProbeGenerationHangs")
COMMON_RULES = ("common: fixed threshold", "common: mean of 1h")
"""Rules that people use without this project, for comparison."""
WITH_EVIDENCE = {"cpu", "partial_offload", "thermal", "hw_power_brake", "hw_slowdown", "clock_low"}
DAY = 86400


def share(hits: int, of: int) -> str:
    """Return hits of cases, with their percentage."""
    return f"{hits}/{of}" + (f" ({hits / of:.0%})" if of else "")


def first(result: Result, alerts: Sequence[str], begin: int) -> dict[str, Any] | None:
    """Return the first period of these alerts that lasts to or beyond a step."""
    found = [period for period in result["alerts"] if period["alert"] in alerts and period["to"] >= begin]
    return min(found, key=lambda period: max(period["from"], begin), default=None)


def delay(result: Result, alerts: Sequence[str], begin: int) -> int | None:
    """Return the number of steps until the first of these alerts."""
    found = first(result, alerts, begin)
    return None if found is None else max(found["from"], begin) - begin


def within(results: Iterable[Result], alerts: Sequence[str], seconds: float, begin: Callable[[Result], int]) -> str:
    """Return the share of series with an alert in time, counted from the first slow reading."""
    delays = [(delay(result, alerts, begin(result)), result["interval"]) for result in results]
    return share(sum(steps is not None and steps * interval <= seconds for steps, interval in delays), len(delays))


def started(result: Result) -> int:
    """Return the step of the first slow reading."""
    return int(result["first_slow"])


def print_quiet(results: Sequence[Result]) -> None:
    """Print the false alarms of months without events, and the result for random times taken for events."""
    months = sum(result["steps"] * result["interval"] for result in results) / (30 * DAY)
    print(f"  quiet: {months:.1f} series-months ({len(results)} series)")
    for title, alerts in (
        ("critical", CRITICAL),
        ("warning", WARNING),
        ("info", INFO),
        *((name, (name,)) for name in COMMON_RULES),
    ):
        count = sum(period["alert"] in alerts for result in results for period in result["alerts"])
        bound = f" (at most {3 / months:.3f} with 95 % confidence)" if not count else ""
        print(f"    {title}: {count}, {count / months:.2f} a series-month{bound}")
    by_chance, in_bursts = 0, 0
    for result in results:
        for period in result["alerts"]:
            if period["alert"] in OUTAGES:
                in_burst = any(start <= period["from"] <= end + 4 for start, end in result["bursts"])
                in_bursts, by_chance = in_bursts + in_burst, by_chance + (not in_burst)
    print(f"    failing: {in_bursts} in bursts of failures, {by_chance} by chance")
    source = random.Random("placebo")
    fakes = [(result, source.randrange(result["steps"] // 2)) for result in results for _ in range(5)]
    for title, alerts in (("warning or worse", WARNING_OR_WORSE), *((name, (name,)) for name in COMMON_RULES)):
        hits = sum(
            (found := delay(result, alerts, at)) is not None and found * result["interval"] <= DAY
            for result, at in fakes
        )
        print(f"    placebo, {title} within 24 h of a fake event: {share(hits, len(fakes))}")


def print_events(results: Sequence[Result]) -> None:
    """Print the alerts found for each cause and size, and the summary over sizes."""
    _print_by_cause(results)
    _print_by_size([result for result in results if result["event"]["cause"] != "contended"])
    contended = [result for result in results if result["event"]["cause"] == "contended"]
    print(f"  lasting marked contention: warning within 24 h {within(contended, WARNING_OR_WORSE, DAY, started)}")
    firsts = [(result, first(result, ANY, started(result))) for result in results]
    named = [(result, found) for result, found in firsts if found]
    right = sum(found["cause"] == result["event"]["cause"] for result, found in named)
    print(f"  right cause at the first alert {share(right, len(named))}")
    wrong = Counter((result["event"]["cause"], found["cause"]) for result, found in named)
    print("    wrong: " + ", ".join(f"{a} as {b}: {n}" for (a, b), n in wrong.items() if a != b))
    early = sum(s["alert"] in ANY and s["from"] < started(result) for result in results for s in result["alerts"])
    print(f"  alerts before the event: {early}")


def _print_by_cause(results: Sequence[Result]) -> None:
    groups: dict[tuple[str, float], list[Result]] = defaultdict(list)
    for result in results:
        groups[result["event"]["cause"], result["event"]["size"]].append(result)
    print("  cause, size: found; median delay in runs of first alert, critical; right cause; common rules")
    for (cause, size), group in sorted(groups.items()):
        alerted, paged = (
            [steps for result in group if (steps := delay(result, alerts, started(result))) is not None]
            for alerts in (ANY, CRITICAL)
        )
        right = sum(
            (found := first(result, ANY, started(result))) is not None and found["cause"] == cause for result in group
        )
        runs = [f"{statistics.median(found) + 1:.0f}" if found else "-" for found in (alerted, paged)]
        common = ", ".join(within(group, (name,), DAY, started) for name in COMMON_RULES)
        print(
            f"    {cause} {size:.0%}: {share(len(alerted), len(group))}; {runs[0]}, {runs[1]}; "
            f"{share(right, len(alerted))}; {common}"
        )


def _print_by_size(results: Sequence[Result]) -> None:
    def sized(low: float, high: float) -> list[Result]:
        return [result for result in results if low <= result["event"]["size"] <= high]

    large = sized(0.5, 1)
    evident = [result for result in large if result["event"]["cause"] in WITH_EVIDENCE]
    others = [result for result in large if result["event"]["cause"] not in WITH_EVIDENCE]
    print(f"  >= 50 %: warning within 24 h {within(large, WARNING_OR_WORSE, DAY, started)}")
    counts = Counter(delay(result, CRITICAL, started(result)) for result in evident)
    runs = ", ".join(f"{n} after {k + 1}" for k, n in sorted((k, n) for k, n in counts.items() if k is not None))
    print(f"    with evidence: runs to critical: {runs}; never {counts[None]}")
    print(f"    without: critical within 4 h {within(others, CRITICAL, 4 * 3600, started)}")
    print(f"    without: critical within 24 h {within(others, CRITICAL, DAY, started)}")
    print(f"  30 %: critical within 24 h {within(sized(0.3, 0.3), CRITICAL, DAY, started)}")
    print(f"  12-20 %: warning within 24 h {within(sized(0.12, 0.2), WARNING_OR_WORSE, DAY, started)}")
    print(f"  7 %: any alert within 3 days {within(sized(0.07, 0.07), ANY, 3 * DAY, started)}")


def print_lasting(results: Sequence[Result]) -> None:
    """Print whether a drop still fires after thirty days."""
    for title, group in (
        ("baseline", [result for result in results if not result["expected"]]),
        ("expected rate", [result for result in results if result["expected"]]),
    ):
        for alerts, name in ((WARNING_OR_WORSE, "warning or critical"), (ANY, "any")):
            still = sum(
                any(s["alert"] in alerts and s["from"] <= after <= s["to"] for s in result["alerts"])
                for result in group
                for after in [started(result) + 30 * DAY // result["interval"]]
            )
            print(f"  lasting, {title}: {name} still fires after 30 days {share(still, len(group))}")
        periods = [sum(s["alert"] == "OllamaProbeThroughputDegraded" for s in result["alerts"]) for result in group]
        print(f"    periods of the warning, per series: {sorted(periods)}")


def print_benign(results: Sequence[Result]) -> None:
    """Print the alerts of changes that must not raise any."""
    for alerts, name in ((CRITICAL, "critical"), (WARNING, "warning"), (INFO, "info")):
        count = sum(period["alert"] in alerts for result in results for period in result["alerts"])
        print(f"  benign changes, {len(results)} series: {name} {count}")


def print_report(files: Sequence[Path]) -> None:
    """Print the report of results files."""
    results = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    groups: dict[tuple[int, str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result["interval"], result["contention"], result["kind"]].append(result)
    reports = {"quiet": print_quiet, "events": print_events, "lasting": print_lasting, "benign": print_benign}
    for (interval, contention, kind), group in sorted(groups.items()):
        print(f"interval {interval // 60} m, {contention} contention, {kind}")
        reports[kind](group)


if __name__ == "__main__":
    print_report([Path(name) for name in sys.argv[1:]])
