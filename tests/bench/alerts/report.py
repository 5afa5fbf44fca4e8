"""Tells what the benchmark found: `python tests/bench/alerts/report.py results.jsonl`.

Shares are printed with their counts. None in N series-months shows at best that it happens less than 3/N times a
month.
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

CRITICAL = ("OllamaProbeThroughputDropped", "OllamaProbeThroughputLow")
WARNED = (*CRITICAL, "OllamaProbeThroughputDegraded", "OllamaProbeAlwaysContended")
TOLD = (*WARNED, "OllamaProbeThroughputReduced")
OUTAGES = ("OllamaProbeFailing", "OllamaProbeModelMissing", "OllamaProbeGenerationHangs")
TODAY = ("today: fixed", "today: mean of 1h")
EVIDENT = {"cpu", "partial_offload", "thermal", "hw_power_brake", "hw_slowdown", "clock_low"}
DAY = 86400


def share(hits: int, of: int) -> str:
    """Hits of cases."""
    return f"{hits}/{of}" + (f" ({hits / of:.0%})" if of else "")


def first(result: Result, alerts: Sequence[str], begin: int) -> dict[str, Any] | None:
    """The first stretch of these alerts that is there at or after a step."""
    found = [stretch for stretch in result["alerts"] if stretch["alert"] in alerts and stretch["to"] >= begin]
    return min(found, key=lambda stretch: max(stretch["from"], begin), default=None)


def delay(result: Result, alerts: Sequence[str], begin: int) -> int | None:
    """Steps until the first of these alerts."""
    found = first(result, alerts, begin)
    return None if found is None else max(found["from"], begin) - begin


def within(results: Iterable[Result], alerts: Sequence[str], seconds: float, begin: Callable[[Result], int]) -> str:
    """Share of series told of in time, counted from the first slow reading."""
    delays = [(delay(result, alerts, begin(result)), result["interval"]) for result in results]
    return share(sum(steps is not None and steps * interval <= seconds for steps, interval in delays), len(delays))


def started(result: Result) -> int:
    """The step of the first slow reading."""
    return int(result["first_slow"])


def quiet(results: Sequence[Result]) -> None:
    """False alarms of months in which nothing happened, and what fake events in them would have met."""
    months = sum(result["steps"] * result["interval"] for result in results) / (30 * DAY)
    print(f"  quiet: {months:.1f} series-months ({len(results)} series)")
    for title, alerts in (
        ("critical", CRITICAL),
        ("warning", WARNED[2:]),
        ("info", TOLD[-1:]),
        *((t, (t,)) for t in TODAY),
    ):
        count = sum(stretch["alert"] in alerts for result in results for stretch in result["alerts"])
        bound = f" (at most {3 / months:.3f} with 95 % confidence)" if not count else ""
        print(f"    {title}: {count}, {count / months:.2f} a series-month{bound}")
    chance, bursts = 0, 0
    for result in results:
        for stretch in result["alerts"]:
            if stretch["alert"] in OUTAGES:
                real = any(start <= stretch["from"] <= end + 4 for start, end in result["bursts"])
                bursts, chance = bursts + real, chance + (not real)
    print(f"    failing: {bursts} in bursts of failures, {chance} by chance")
    source = random.Random("placebo")
    fakes = [(result, source.randrange(result["steps"] // 2)) for result in results for _ in range(5)]
    for title, alerts in (("warned", WARNED), *((t, (t,)) for t in TODAY)):
        hits = sum(
            (found := delay(result, alerts, at)) is not None and found * result["interval"] <= DAY
            for result, at in fakes
        )
        print(f"    placebo, {title} within 24 h of a fake event: {share(hits, len(fakes))}")


def events(results: Sequence[Result]) -> None:
    """What was found of each cause and size, and the bars."""
    by_cause: dict[tuple[str, float], list[Result]] = defaultdict(list)
    for result in results:
        by_cause[result["event"]["cause"], result["event"]["size"]].append(result)
    print("  cause, size: found; median delay in runs of first alert, critical; right cause; today")
    for (cause, size), group in sorted(by_cause.items()):
        told, paged = (
            [steps for result in group if (steps := delay(result, alerts, started(result))) is not None]
            for alerts in (TOLD, CRITICAL)
        )
        right = sum(
            (found := first(result, TOLD, started(result))) is not None and found["cause"] == cause for result in group
        )
        runs = [f"{statistics.median(found) + 1:.0f}" if found else "-" for found in (told, paged)]
        now = ", ".join(within(group, (today,), DAY, started) for today in TODAY)
        print(
            f"    {cause} {size:.0%}: {share(len(told), len(group))}; {runs[0]}, {runs[1]}; "
            f"{share(right, len(told))}; {now}"
        )
    judged = [result for result in results if result["event"]["cause"] != "contended"]

    def sized(low: float, high: float) -> list[Result]:
        return [result for result in judged if low <= result["event"]["size"] <= high]

    large = sized(0.5, 1)
    evident = [result for result in large if result["event"]["cause"] in EVIDENT]
    others = [result for result in large if result["event"]["cause"] not in EVIDENT]
    print(f"  >= 50 %: warned within 24 h {within(large, WARNED, DAY, started)}")
    counts = Counter(delay(result, CRITICAL, started(result)) for result in evident)
    told_after = ", ".join(f"{n} after {k + 1}" for k, n in sorted((k, n) for k, n in counts.items() if k is not None))
    print(f"    with evidence: runs to critical: {told_after}; never {counts[None]}")
    print(f"    without: critical within 4 h {within(others, CRITICAL, 4 * 3600, started)}")
    print(f"    without: critical within 24 h {within(others, CRITICAL, DAY, started)}")
    print(f"  30 %: critical within 24 h {within(sized(0.3, 0.3), CRITICAL, DAY, started)}")
    print(f"  12-20 %: warned within 24 h {within(sized(0.12, 0.2), WARNED, DAY, started)}")
    print(f"  7 %: told within 3 days {within(sized(0.07, 0.07), TOLD, 3 * DAY, started)}")
    contended = [result for result in results if result["event"]["cause"] == "contended"]
    print(f"  lasting marked contention: warned within 24 h {within(contended, WARNED, DAY, started)}")
    firsts = [(result, first(result, TOLD, started(result))) for result in results]
    named = [(result, found) for result, found in firsts if found]
    right = sum(found["cause"] == result["event"]["cause"] for result, found in named)
    print(f"  right cause at the first alert {share(right, len(named))}")
    wrong = Counter((result["event"]["cause"], found["cause"]) for result, found in named)
    print("    wrong: " + ", ".join(f"{a} as {b}: {n}" for (a, b), n in wrong.items() if a != b))
    early = sum(s["alert"] in TOLD and s["from"] < started(result) for result in results for s in result["alerts"])
    print(f"  alerts before the event: {early}")


def lasting(results: Sequence[Result]) -> None:
    """Whether a drop still fires after thirty days."""
    for title, group in (
        ("own normal", [result for result in results if not result["expected"]]),
        ("expected rate", [result for result in results if result["expected"]]),
    ):
        for alerts, name in ((WARNED, "warning or critical"), (TOLD, "any")):
            still = sum(
                any(s["alert"] in alerts and s["from"] <= after <= s["to"] for s in result["alerts"])
                for result in group
                for after in [started(result) + 30 * DAY // result["interval"]]
            )
            print(f"  lasting, {title}: {name} still fires after 30 days {share(still, len(group))}")
        stretches = [sum(s["alert"] == "OllamaProbeThroughputDegraded" for s in result["alerts"]) for result in group]
        print(f"    stretches of the warning, per series: {sorted(stretches)}")


def benign(results: Sequence[Result]) -> None:
    """Changes that nobody should be told of."""
    for alerts, name in ((CRITICAL, "critical"), (WARNED[2:], "warning"), (TOLD[-1:], "info")):
        count = sum(stretch["alert"] in alerts for result in results for stretch in result["alerts"])
        print(f"  benign changes, {len(results)} series: {name} {count}")


def tell(files: Sequence[Path]) -> None:
    """Print the report of results files."""
    results = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    groups: dict[tuple[int, str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result["interval"], result["neighbours"], result["kind"]].append(result)
    reports = {"quiet": quiet, "events": events, "lasting": lasting, "benign": benign}
    for (interval, neighbours, kind), group in sorted(groups.items()):
        print(f"interval {interval // 60} m, {neighbours} neighbours, {kind}")
        reports[kind](group)


if __name__ == "__main__":
    tell([Path(name) for name in sys.argv[1:]])
