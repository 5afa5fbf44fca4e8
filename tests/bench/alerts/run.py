"""Run the alert benchmark: `python tests/bench/alerts/run.py quiet=200 events=2 --interval 900 --results out.jsonl`.

Each scenario takes a number: of series for `quiet` (months without events) and `benign` (changes that must not raise an
alert), of rounds over all causes and sizes for `events` (on the tenth day of fourteen) and `lasting` (for more than
thirty days). The result of each series is appended to the results file as one line, so that a long run can be stopped
and continued. The report covers the whole file; `report.py` prints it again.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from histories import BENIGN, LONG, USUAL, Event, History, draw_history, exposition
from replay import Database, Firing, Grid, Replay, firing
from report import COMMON_RULES, print_report
from ruleset.intervals import INTERVAL_RANGES, Clock
from ruleset.thresholds import MINUTE
from support.programs import Release, releases

START = 1_700_006_400 - 1_700_006_400 % 86400
ALERTS = (
    "OllamaProbeThroughputDropped",
    "OllamaProbeThroughputLow",
    "OllamaProbeThroughputDegraded",
    "OllamaProbeThroughputReduced",
    "OllamaProbeAlwaysContended",
    "OllamaProbeModelMissing",
    "OllamaProbeGenerationHangs",
    "OllamaProbeFailing",
)
EVENTS: dict[str, tuple[float, ...]] = {
    "cpu": (0.7, 0.9),
    "partial_offload": (0.3, 0.5, 0.9),
    "thermal": (0.12, 0.2, 0.3, 0.5),
    "hw_power_brake": (0.3, 0.5, 0.7),
    "hw_slowdown": (0.5,),
    "contended": (0.3, 0.6),
    "power_cap": (0.07, 0.12, 0.2, 0.5),
    "workload_changed": (0.15, 0.3, 0.5),
    "version_changed": (0.07, 0.12, 0.2, 0.3, 0.5),
    "digest_changed": (0.15, 0.3, 0.5, 0.9),
    "driver_changed": (0.07, 0.15, 0.5),
    "clock_low": (0.12, 0.3, 0.5),
    "none_visible": (0.07, 0.12, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9),
}
LASTING: dict[str, tuple[float, ...]] = {
    "none_visible": (0.12, 0.2, 0.5),
    "version_changed": (0.12, 0.3),
    "thermal": (0.3,),
}
SIZES = {"gain": -0.2}


def scenario(kind: str, number: int, interval: float, contention: str, first: int) -> Iterator[History]:
    """Yield the histories of one scenario."""
    profile = {"usual": USUAL, "long": LONG}[contention]

    def make(name: str, days: float, event: Event | None = None) -> History:
        # A changed workload starts a new baseline: it can be slow only in comparison with an expected rate.
        known = True if event and event.cause == "workload_changed" else None
        return draw_history(
            f"{kind}-{contention}-{interval:.0f}-{name}",
            interval=interval,
            days=days,
            profile=profile,
            event=event,
            known=known,
        )

    for index in range(first, first + number):
        moment = random.Random(f"{kind}-{index}")
        if kind == "quiet":
            yield make(f"{index}", 30)
        elif kind == "benign":
            cause = BENIGN[index % len(BENIGN)]
            yield make(f"{cause}-{index}", 16, Event(cause, SIZES.get(cause, 0.0), moment.uniform(9, 10) * 86400))
        else:
            for cause, sizes in (EVENTS if kind == "events" else LASTING).items():
                for size in sizes:
                    at = moment.uniform(9, 10) * 86400 if kind == "events" else moment.uniform(5, 6) * 86400
                    days = 14.0 if kind == "events" else 38.0
                    yield make(f"{cause}-{size:g}-{index}", days, Event(cause, size, at))


def periods(fired: set[int]) -> list[tuple[int, int]]:
    """Return consecutive steps as first and last step."""
    found: list[tuple[int, int]] = []
    for step in sorted(fired):
        if found and step == found[-1][1] + 1:
            found[-1] = (found[-1][0], step)
        else:
            found.append((step, step))
    return found


def common_rules(database: Database, histories: Sequence[History]) -> dict[str, Firing]:
    """Return when rules that people commonly use fire.

    Below 80 % of the usual rate, and below 80 % of the mean of the last hour, each for 10 minutes.
    """
    step = database.grid.step
    usual = {history.model: history.rate for history in histories}
    rates = database.query("ollama_probe_decode_tokens_per_second")
    fixed = {
        labels: {at: value for at, value in values.items() if value < 0.8 * usual[dict(labels)["model"]]}
        for labels, values in rates.items()
    }
    name = "ollama_probe_decode_tokens_per_second"
    mean = database.query(f"{name} < 0.8 * avg_over_time({name}[1h])")
    ten = {"wait": 600.0, "hold": 0.0, "step": step}
    return {
        COMMON_RULES[0]: firing({labels: values for labels, values in fixed.items() if values}, **ten),
        COMMON_RULES[1]: firing(mean, **ten),
    }


def evaluate(histories: Sequence[History], interval: int, folder: Path, release: Release) -> Iterator[dict[str, Any]]:
    """Yield the result of each of some histories of the same length."""
    days = max(history.runs[-1].at for history in histories) / 86400
    grid = Grid(START, interval, int(days * 86400 // interval))
    database = Database(folder, grid, release)
    database.write(line for history in histories for line in exposition(history, grid))
    interval_range = next(r for r in INTERVAL_RANGES if r.low < interval <= r.high)
    alerts = Replay(database, Clock((interval_range,), sampling_seconds=max(interval, MINUTE)), ALERTS).run()
    alerts |= common_rules(database, histories)
    database.close()
    for history in histories:
        found = [
            {"alert": name, "cause": dict(labels).get("cause", ""), "from": first, "to": last}
            for name, fired in alerts.items()
            for labels, present in fired.items()
            if dict(labels)["model"] == history.model
            for first, last in periods(present)
        ]
        slow = [run.at for run in history.runs if history.event and run.at >= history.event.at and run.rate is not None]
        yield {
            "series": history.model,
            "interval": interval,
            "steps": grid.count,
            "expected": history.expected is not None,
            "event": asdict(history.event) if history.event else None,
            "first_slow": -int(-slow[0] // interval) if slow else None,
            "bursts": [[int(start // interval), int(end // interval)] for start, end in history.bursts],
            "alerts": found,
        }


def main() -> None:
    """Run the scenarios of the command line."""
    parser = argparse.ArgumentParser(description="Run the alert benchmark.")
    parser.add_argument("scenarios", nargs="*", default=["quiet=20", "events=1"], help="default: quiet=20 events=1")
    parser.add_argument(
        "--interval", type=int, default=900, help="seconds between two probes of a model (default: %(default)s)"
    )
    parser.add_argument(
        "--contention", choices=("usual", "long"), default="usual", help="sessions of other work (default: %(default)s)"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first seed, to continue a run (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=16, help="series in one database at a time (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="file to append results to (default: results are not kept)")
    options = parser.parse_args()
    if not releases():
        parser.error(
            "Prometheus not found. Run `make programs` on Debian; elsewhere put prometheus, promtool, alertmanager and "
            "amtool on PATH."
        )
    with tempfile.TemporaryDirectory(prefix="alerts-") as folder:
        file_path = options.results or Path(folder) / "results.jsonl"
        for requested in options.scenarios:
            kind, _, number = requested.partition("=")
            source = scenario(kind, int(number), options.interval, options.contention, options.first)
            while histories := list(islice(source, options.batch)):
                began = time.monotonic()
                with tempfile.TemporaryDirectory(dir=folder) as place, file_path.open("a") as file:
                    for result in evaluate(histories, options.interval, Path(place) / "db", releases()[-1]):
                        file.write(json.dumps({"kind": kind, "contention": options.contention} | result) + "\n")
                print(f"{kind}: {len(histories)} series in {time.monotonic() - began:.0f} s", flush=True)
        print_report([file_path])


if __name__ == "__main__":
    main()
