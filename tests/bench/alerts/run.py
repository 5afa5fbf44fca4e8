"""The drop benchmark: `python tests/bench/alerts/run.py quiet=200 events=2 --interval 900 --results results.jsonl`.

Each scenario is asked for with a number: of series for `quiet` (months in which nothing happens) and `benign` (a
change that nobody should be told of), of rounds over all causes and sizes for `events` (on the tenth day of fourteen)
and `lasting` (for over thirty days). What each series came to is appended to the results file, one line each, so that
a long run can be stopped and continued later; the report is that of the whole file, and `report.py` prints it again.
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

from histories import BENIGN, LONG, USUAL, Event, Pair, exposition, history
from replay import Database, Firing, Grid, Replay, firing
from report import tell
from ruleset import intervals as steps
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


def scenario(kind: str, number: int, interval: float, habits: str, first: int) -> Iterator[Pair]:
    """The histories of one scenario."""
    neighbours = {"usual": USUAL, "long": LONG}[habits]

    def make(name: str, days: float, event: Event | None = None) -> Pair:
        # A changed workload begins a normal of its own: only against an expected rate can it be slow.
        known = True if event and event.cause == "workload_changed" else None
        return history(
            f"{kind}-{habits}-{interval:.0f}-{name}",
            interval=interval,
            days=days,
            habits=neighbours,
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


def spans(fired: set[int]) -> list[tuple[int, int]]:
    """Steps as stretches, both ends included."""
    found: list[tuple[int, int]] = []
    for step in sorted(fired):
        if found and step == found[-1][1] + 1:
            found[-1] = (found[-1][0], step)
        else:
            found.append((step, step))
    return found


def today(database: Database, pairs: Sequence[Pair]) -> dict[str, Firing]:
    """What people use today, each for 10 minutes: 80 % of the usual rate, and 80 % of the last hour's mean."""
    step = database.grid.step
    paces = {pair.model: pair.pace for pair in pairs}
    rates = database.query("ollama_probe_decode_tokens_per_second")
    fixed = {
        labels: {at: value for at, value in values.items() if value < 0.8 * paces[dict(labels)["model"]]}
        for labels, values in rates.items()
    }
    name = "ollama_probe_decode_tokens_per_second"
    mean = database.query(f"{name} < 0.8 * avg_over_time({name}[1h])")
    ten = {"wait": 600.0, "hold": 0.0, "step": step}
    return {
        "today: fixed": firing({labels: values for labels, values in fixed.items() if values}, **ten),
        "today: mean of 1h": firing(mean, **ten),
    }


def results(pairs: Sequence[Pair], interval: int, folder: Path, release: Release) -> Iterator[dict[str, Any]]:
    """What each of some histories of one length came to."""
    days = max(pair.runs[-1].at for pair in pairs) / 86400
    grid = Grid(START, interval, int(days * 86400 // interval))
    database = Database(folder, grid, release)
    database.write(line for pair in pairs for line in exposition(pair, grid))
    step = next(step for step in steps.LADDER if step.low < interval <= step.high)
    alerts = Replay(database, steps.Clock((step,), sampling=max(interval, steps.MINUTE)), ALERTS).run()
    alerts |= today(database, pairs)
    database.close()
    for pair in pairs:
        found = [
            {"alert": name, "cause": dict(labels).get("cause", ""), "from": first, "to": last}
            for name, fired in alerts.items()
            for labels, present in fired.items()
            if dict(labels)["model"] == pair.model
            for first, last in spans(present)
        ]
        slow = [run.at for run in pair.runs if pair.event and run.at >= pair.event.at and run.rate is not None]
        yield {
            "series": pair.model,
            "interval": interval,
            "steps": grid.count,
            "expected": pair.expected is not None,
            "event": asdict(pair.event) if pair.event else None,
            "first_slow": -int(-slow[0] // interval) if slow else None,
            "bursts": [[int(start // interval), int(end // interval)] for start, end in pair.bursts],
            "alerts": found,
        }


def main() -> None:
    """Run the scenarios asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", default=["quiet=20", "events=1"], help="default: quiet=20 events=1")
    parser.add_argument("--interval", type=int, default=900, help="seconds between two probes of a pair")
    parser.add_argument("--neighbours", choices=("usual", "long"), default="usual")
    parser.add_argument("--first", type=int, default=0, help="number of the first seed, to continue")
    parser.add_argument("--batch", type=int, default=16, help="series in one database at a time")
    parser.add_argument("--results", type=Path, help="the file that is appended to (default: none is kept)")
    chosen = parser.parse_args()
    if not releases():
        parser.error(
            "no Prometheus: `make programs` fetches it on Debian; elsewhere put prometheus and promtool on PATH"
        )
    with tempfile.TemporaryDirectory(prefix="alerts-") as folder:
        kept = chosen.results or Path(folder) / "results.jsonl"
        for asked in chosen.scenarios:
            kind, _, number = asked.partition("=")
            source = scenario(kind, int(number), chosen.interval, chosen.neighbours, chosen.first)
            while pairs := list(islice(source, chosen.batch)):
                began = time.monotonic()
                with tempfile.TemporaryDirectory(dir=folder) as place, kept.open("a") as file:
                    for result in results(pairs, chosen.interval, Path(place) / "db", releases()[-1]):
                        file.write(json.dumps({"kind": kind, "neighbours": chosen.neighbours} | result) + "\n")
                print(f"{kind}: {len(pairs)} series in {time.monotonic() - began:.0f} s", flush=True)
        tell([kept])


if __name__ == "__main__":
    main()
