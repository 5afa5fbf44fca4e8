"""Evaluates the shipped rules over months of history, every expression in a real Prometheus.

Prometheus has no simulated clock, and promtool's takes minutes of CPU time per month. Therefore the raw series are
written as blocks, each rule is evaluated with `query_range` over the whole history, its result is written as blocks in
turn, and so on, each rule after those it reads. Two things depend on more than the database and are implemented here:
records that read themselves (`held_baseline`, `latched`), and an alert's `for` and `keep_firing_for` (`firing`).
tests/deploy/test_alert_benchmark.py compares them with promtool.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "deploy/prometheus")]

from generate_rules import rule_groups  # noqa: E402 - needs the path above
from ruleset import drops, recording, thresholds  # noqa: E402 - needs the path above
from ruleset.alerts import Links  # noqa: E402 - needs the path above
from ruleset.intervals import MODEL_KEY, Clock  # noqa: E402 - needs the path above
from support.programs import Prometheus, Release, run_prometheus  # noqa: E402 - needs the path above

Labels = tuple[tuple[str, str], ...]
Series = dict[Labels, dict[int, float]]
"""Values by labels and by step number."""

Firing = dict[Labels, set[int]]
"""Steps at which an alert fires, by its labels."""
Rule = dict[str, Any]

SAMPLES_PER_QUERY = 10_000  # Prometheus refuses more than 11,000 points per series


@dataclass(frozen=True, slots=True)
class Grid:
    """The times of a history: `count` of them, `step` seconds apart."""

    start: int
    step: int
    count: int

    def times(self) -> range:
        """Return the times in Unix seconds."""
        return range(self.start, self.start + self.step * self.count, self.step)


class Database:
    """A folder of blocks, with a Prometheus that serves them between `write` and `close`."""

    def __init__(self, folder: Path, grid: Grid, release: Release) -> None:
        self.grid = grid
        self._folder, self._release = folder, release
        self._running = ExitStack()
        self._prometheus: Prometheus | None = None
        (folder / "data").mkdir(parents=True)

    def write(self, samples: Iterable[str]) -> None:
        """Add samples, given as OpenMetrics lines without the end marker. Restarts Prometheus, which then sees them."""
        self.close()
        text, blocks = self._folder / "samples.om", self._folder / "blocks"
        with text.open("w") as file:
            file.writelines(samples)
            file.write("# EOF\n")
        create = ["tsdb", "create-blocks-from", "--max-block-duration=1440h", "openmetrics", "-q"]
        subprocess.run([self._release.promtool, *create, text, blocks], check=True, stdout=subprocess.DEVNULL)
        for block in blocks.iterdir():
            shutil.move(block, self._folder / "data" / block.name)
        self._prometheus = self._running.enter_context(
            run_prometheus(
                self._release,
                "{}",
                self._folder,
                "--storage.tsdb.retention.time=100y",
                "--query.max-samples=1000000000",
                "--query.timeout=30m",
                # Backfilled blocks have no staleness markers, so a sample must be valid at its own step only.
                f"--query.lookback-delta={self.grid.step - 1}s",
            )
        )

    def close(self) -> None:
        """Stop Prometheus."""
        self._running.close()

    def query(self, expr: str) -> Series:
        """Return the values of an expression at every step."""
        assert self._prometheus, "nothing was written yet"
        found: Series = {}
        grid = self.grid
        for first in range(0, grid.count, SAMPLES_PER_QUERY):
            last = min(first + SAMPLES_PER_QUERY, grid.count) - 1
            span = {"start": grid.start + first * grid.step, "end": grid.start + last * grid.step, "step": grid.step}
            address = f"{self._prometheus.url}/api/v1/query_range"
            answer = httpx.post(address, data={"query": expr, **span}, timeout=1800, trust_env=False)
            answer.raise_for_status()
            for series in answer.json()["data"]["result"]:
                labels = {key: value for key, value in series["metric"].items() if key != "__name__"}
                values = found.setdefault(tuple(sorted(labels.items())), {})
                values.update((int(t - grid.start) // grid.step, float(v)) for t, v in series["values"])
        return found


def lines(name: str, series: Series, grid: Grid) -> Iterator[str]:
    """Yield the samples of one metric as OpenMetrics lines."""
    for labels, values in series.items():
        matchers = ",".join(f'{key}="{value}"' for key, value in labels)
        head = f"{name}{{{matchers}}} "
        yield from (f"{head}{value!r} {grid.start + step * grid.step}\n" for step, value in sorted(values.items()))


def model_labels(labels: Labels) -> Labels:
    """Return those labels of a series that identify its model."""
    return tuple(item for item in labels if item[0] in MODEL_KEY.split(", "))


def rules(clock: Clock) -> tuple[list[Rule], list[Rule]]:
    """Return the shipped recording rules and alerting rules, rendered for a clock."""
    found = [rule for group in rule_groups(clock, Links("runbook", "dashboard")) for rule in group["rules"]]
    return [rule for rule in found if "record" in rule], [rule for rule in found if "alert" in rule]


def held_baseline(candidate: Series, workload: Series, grid: Grid, clock: Clock) -> Series:
    """Return the record `:own`: the candidate where it is higher than the held value, which decays."""
    decay = 1 - thresholds.BASELINE_DECAY_PER_DAY * clock.slow_sampling / clock.scale / thresholds.DAY
    memory = int(clock.scaled(thresholds.BASELINE_MEMORY) // grid.step)
    baseline: Series = {}
    for labels, present in workload.items():
        values, offered, last = baseline.setdefault(labels, {}), candidate.get(labels, {}), -memory - 1
        for step in sorted(present):
            held = values[last] * decay if step - last <= memory else None
            new = offered.get(step)
            if held is not None or new is not None:
                values[step] = max(value for value in (held, new) if value is not None)
                last = step
    return baseline


def latched(*, fires: Series, clears: Series, exists: Series, first: Series, count: int, memory: int) -> Series:
    """Return the record `ollama_probe:drop:active` of one level: held from when it fires until it clears."""
    causes: dict[Labels, dict[int, str]] = {}
    for labels, values in first.items():
        causes.setdefault(model_labels(labels), {}).update(dict.fromkeys(values, dict(labels)["cause"]))
    active: Series = {}
    for model in exists:
        held: tuple[Labels, float, int] | None = None
        for step in range(count):
            keeps = held and step - held[2] <= memory and step in exists[model] and step not in clears.get(model, {})
            if keeps and held:
                held = (held[0], held[1], step)
            elif step in fires.get(model, {}) and step in causes.get(model, {}):
                held = ((*model, ("cause", causes[model][step])), fires[model][step], step)
            else:
                continue
            active.setdefault(tuple(sorted(held[0])), {})[step] = held[1]
    return active


def firing(truth: Series, *, wait: float, hold: float, step: float) -> Firing:
    """Return the steps at which an alert fires, given where its expression holds, its `for` and `keep_firing_for`."""
    result: Firing = {}
    for labels, values in truth.items():
        since: int | None = None
        missing: int | None = None
        fires = False
        for now in range(min(values), max(values) + int(hold // step) + 2):
            if now in values:
                since, missing = now if since is None else since, None
                fires = fires or (now - since) * step >= wait
            else:
                missing = now if missing is None else missing
                if not fires or (now - missing) * step >= hold:
                    since, fires = None, False
            if fires:
                result.setdefault(labels, set()).add(now)
    return result


def in_order(recording_rules: Sequence[Rule]) -> Iterator[list[str]]:
    """Yield the names of records in batches; each batch reads only records of earlier batches."""
    waiting: dict[str, set[str]] = {}
    for rule in recording_rules:
        waiting.setdefault(rule["record"], set()).update(re.findall(r"ollama_probe:[a-z0-9_:]+", rule["expr"]))
    while waiting:
        ready = sorted(name for name, needs in waiting.items() if not needs & waiting.keys() - {name})
        yield ready
        for name in ready:
            del waiting[name]


@dataclass(frozen=True, slots=True)
class Replay:
    """The rules over one database, for models of one range of intervals."""

    database: Database
    clock: Clock
    only: Sequence[str] = ()
    """Alerts to evaluate; all of them if empty."""

    def run(self) -> dict[str, Firing]:
        """Evaluate all rules and return when each alert fires."""
        recording_rules, alerts = rules(self.clock)
        for names in in_order(recording_rules):
            results = {name: self.record(name, recording_rules) for name in names}
            self.database.write(
                line for name, series in results.items() for line in lines(name, series, self.database.grid)
            )
        return {rule["alert"]: self.alert(rule) for rule in alerts if not self.only or rule["alert"] in self.only}

    def record(self, name: str, recording_rules: Sequence[Rule]) -> Series:
        """Return all series of one record."""
        query, grid = self.database.query, self.database.grid
        if name == f"{recording.RATE}:own":
            workload = query(f"max by ({MODEL_KEY}, hash) (ollama_probe_workload_info)")
            return held_baseline(query(f"{recording.RATE}:candidate"), workload, grid, self.clock)
        if name == recording.DROP:
            return {
                tuple(sorted((*labels, ("level", level.name)))): values
                for level in drops.levels(self.clock)
                for labels, values in self.latch(level).items()
            }
        return {
            tuple(sorted((dict(labels) | rule.get("labels", {})).items())): values
            for rule in recording_rules
            if rule["record"] == name
            for labels, values in query(rule["expr"]).items()
        }

    def latch(self, level: drops.Level) -> Series:
        """Return the latched record of one level."""
        query, grid = self.database.query, self.database.grid
        hold = self.clock.window(thresholds.HOLD_WITHOUT_READINGS)
        exists = query(f"max by ({MODEL_KEY}) (last_over_time(ollama_probe_interval_seconds[{hold}]))")
        memory = int(self.clock.latch_memory // grid.step)
        first = query(f"{recording.SUSPECT}:first")
        fires, clears = query(level.fires), query(level.clears)
        return latched(fires=fires, clears=clears, exists=exists, first=first, count=grid.count, memory=memory)

    def alert(self, rule: Rule) -> Firing:
        """Return when one alert fires."""
        wait, hold = (seconds(rule.get(key, "0s")) for key in ("for", "keep_firing_for"))
        return firing(self.database.query(rule["expr"]), wait=wait, hold=hold, step=self.database.grid.step)


def seconds(duration: str) -> float:
    """Return the seconds of a duration as the generator writes it."""
    match = re.fullmatch(r"(\d+)(d|h|m|s|ms)", duration)
    if not match:
        raise ValueError(f"{duration} is not a duration of a single unit")
    return int(match[1]) * {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}[match[2]]
