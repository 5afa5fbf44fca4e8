"""Replays months of history through the shipped rules, with a real Prometheus as the judge of every expression.

Prometheus cannot be given another clock, and promtool's simulated one takes minutes of CPU for each month. So the raw
series are written as blocks, each rule is asked with `query_range` over the whole history, its answer is written as
blocks in turn, and so on, a rule after those that it reads. Two things are not functions of what came before in the
database, and are a few lines here: the records that carry themselves (`own_normal`, `latched`), and an alert's `for`
and `keep_firing_for` (`firing`). tests/test_rules.py holds them to promtool's word.
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

from generate_rules import rule_groups  # noqa: E402
from ruleset import intervals as steps  # noqa: E402
from ruleset import readings as records  # noqa: E402
from ruleset.alerts import Links  # noqa: E402
from support.programs import Prometheus, Release, run_prometheus  # noqa: E402

Labels = tuple[tuple[str, str], ...]
Series = dict[Labels, dict[int, float]]
"""Values by labels and by number of the step."""

Firing = dict[Labels, set[int]]
"""The steps at which an alert fires, by its labels."""
Rule = dict[str, Any]

PAIR = ("job", "target", "model")


@dataclass(frozen=True, slots=True)
class Grid:
    """The moments of a history: `count` of them, `step` seconds apart."""

    start: int
    step: int
    count: int

    def times(self) -> range:
        """Unix seconds."""
        return range(self.start, self.start + self.step * self.count, self.step)


class Database:
    """A folder of blocks, and a Prometheus that answers for them between `write` and `close`."""

    def __init__(self, folder: Path, grid: Grid, release: Release) -> None:
        self.grid = grid
        self._folder, self._release = folder, release
        self._running = ExitStack()
        self._prometheus: Prometheus | None = None
        (folder / "data").mkdir(parents=True)

    def write(self, samples: Iterable[str]) -> None:
        """Add samples, given as OpenMetrics lines without the end; Prometheus is restarted to see them."""
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
                # Blocks written afterwards hold no marks of where a series ends: a sample counts at its own step alone.
                f"--query.lookback-delta={self.grid.step - 1}s",
            )
        )

    def close(self) -> None:
        """Stop Prometheus."""
        self._running.close()

    def query(self, expr: str) -> Series:
        """What an expression says at each step."""
        assert self._prometheus, "nothing was written yet"
        found: Series = {}
        grid, at_once = self.grid, 10_000
        for first in range(0, grid.count, at_once):
            last = min(first + at_once, grid.count) - 1
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
    """OpenMetrics lines of one metric."""
    for labels, values in series.items():
        pairs = ",".join(f'{key}="{value}"' for key, value in labels)
        head = f"{name}{{{pairs}}} "
        yield from (f"{head}{value!r} {grid.start + step * grid.step}\n" for step, value in sorted(values.items()))


def pair(labels: Labels) -> Labels:
    """A series' pair."""
    return tuple(item for item in labels if item[0] in PAIR)


def rules(clock: steps.Clock) -> tuple[list[Rule], list[Rule]]:
    """The recording and the alerting rules that are shipped, rendered for a clock."""
    found = [rule for group in rule_groups(clock, Links("runbook", "dashboard")) for rule in group["rules"]]
    return [rule for rule in found if "record" in rule], [rule for rule in found if "alert" in rule]


def own_normal(candidate: Series, workload: Series, grid: Grid, clock: steps.Clock) -> Series:
    """`…:own`: the candidate where it is higher than what was held, which decays."""
    decay = 1 - steps.OWN_DECAY_PER_DAY * clock.slow_step / clock.scale / steps.DAY
    memory = int(clock.scaled(steps.OWN_MEMORY) // grid.step)
    own: Series = {}
    for labels, present in workload.items():
        values, offered, last = own.setdefault(labels, {}), candidate.get(labels, {}), -memory - 1
        for step in sorted(present):
            held = values[last] * decay if step - last <= memory else None
            new = offered.get(step)
            if held is not None or new is not None:
                values[step] = max(value for value in (held, new) if value is not None)
                last = step
    return own


def latched(*, fires: Series, clears: Series, exists: Series, first: Series, count: int, memory: int) -> Series:
    """`…:drop:active` of one level: held with its cause and value from when it fires until it clears."""
    causes: dict[Labels, dict[int, str]] = {}
    for labels, values in first.items():
        causes.setdefault(pair(labels), {}).update(dict.fromkeys(values, dict(labels)["cause"]))
    active: Series = {}
    for who in exists:
        held: tuple[Labels, float, int] | None = None
        for step in range(count):
            keeps = held and step - held[2] <= memory and step in exists[who] and step not in clears.get(who, {})
            if keeps and held:
                held = (held[0], held[1], step)
            elif step in fires.get(who, {}) and step in causes.get(who, {}):
                held = ((*who, ("cause", causes[who][step])), fires[who][step], step)
            else:
                continue
            active.setdefault(tuple(sorted(held[0])), {})[step] = held[1]
    return active


def firing(truth: Series, *, wait: float, hold: float, step: float) -> Firing:
    """When an alert fires: `for` and `keep_firing_for` over what its expression says."""
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


def in_order(recording: Sequence[Rule]) -> Iterator[list[str]]:
    """Names of records, each after those that it reads, in lists of which none needs another."""
    waiting: dict[str, set[str]] = {}
    for rule in recording:
        waiting.setdefault(rule["record"], set()).update(re.findall(r"ollama_probe:[a-z0-9_:]+", rule["expr"]))
    while waiting:
        ready = sorted(name for name, needs in waiting.items() if not needs & waiting.keys() - {name})
        yield ready
        for name in ready:
            del waiting[name]


@dataclass(frozen=True, slots=True)
class Replay:
    """The rules over one database, for pairs of one step of the ladder."""

    database: Database
    clock: steps.Clock
    only: Sequence[str] = ()
    """Alerts to ask for; all of them if empty."""

    def run(self) -> dict[str, Firing]:
        """Evaluate everything; returns when each alert fires, by its labels."""
        recording, alerts = rules(self.clock)
        for names in in_order(recording):
            answers = {name: self.answer(name, recording) for name in names}
            self.database.write(
                line for name, series in answers.items() for line in lines(name, series, self.database.grid)
            )
        return {rule["alert"]: self.alert(rule) for rule in alerts if not self.only or rule["alert"] in self.only}

    def answer(self, name: str, recording: Sequence[Rule]) -> Series:
        """All series of one record."""
        query, grid = self.database.query, self.database.grid
        if name == f"{records.RATE}:own":
            workload = query(f"max by ({steps.PAIR}, hash) (ollama_probe_workload_info)")
            return own_normal(query(f"{records.RATE}:candidate"), workload, grid, self.clock)
        if name == records.DROP:
            return {
                tuple(sorted((*labels, ("level", level.name)))): values
                for level in records.levels(self.clock)
                for labels, values in self.latch(level).items()
            }
        return {
            tuple(sorted((dict(labels) | rule.get("labels", {})).items())): values
            for rule in recording
            if rule["record"] == name
            for labels, values in query(rule["expr"]).items()
        }

    def latch(self, level: records.Level) -> Series:
        """One level of a drop."""
        query, grid = self.database.query, self.database.grid
        hold = self.clock.window(steps.HOLD_WITHOUT_READINGS)
        exists = query(f"max by ({steps.PAIR}) (last_over_time(ollama_probe_interval_seconds[{hold}]))")
        memory = int(self.clock.latch_memory // grid.step)
        first = query("ollama_probe:suspect:first")
        fires, clears = query(level.fires), query(level.clears)
        return latched(fires=fires, clears=clears, exists=exists, first=first, count=grid.count, memory=memory)

    def alert(self, rule: Rule) -> Firing:
        """When one alert fires."""
        wait, hold = (seconds(rule.get(key, "0s")) for key in ("for", "keep_firing_for"))
        return firing(self.database.query(rule["expr"]), wait=wait, hold=hold, step=self.database.grid.step)


def seconds(duration: str) -> float:
    """A duration of the rules in seconds."""
    match = re.fullmatch(r"(\d+)(d|h|m|s|ms)", duration)
    if not match:
        raise ValueError(f"{duration}: not a duration as the generator writes it")
    return int(match[1]) * {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}[match[2]]
