"""Runs the daemon against ten servers with random faults, discovery that changes and reloads, and gives a verdict.

    python tests/bench/soak.py [--minutes 20] [--reload-seconds 60] [--seed 1]

Each second it scrapes the daemon. The exit status is 1 if the verdict has a complaint. The servers run in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median, quantiles
from typing import Any

import httpx
import psutil
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.daemons import Running, Samples, daemon, target
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel

INTERVAL_SECONDS = 1.0
FAULTY = 8
"""Servers with faults; another one changes its list of models, and one is healthy."""
SETTINGS = {"interval": "1s", "timeout": "2s", "load_timeout": "2s", "when_unloaded": "load"}
WARM_UP_SHARE = 0.2
"""Share of the time that is left out of what must not grow."""
MEMORY_GROWTH_MB = 6.0
PHASE_SHIFT_SECONDS = 0.1
SAMPLE = re.compile(r"^(ollama_probe_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
TYPE = re.compile(r"^# TYPE (\w+) (\w+)$", re.MULTILINE)
SUFFIXES = {"counter": ("",), "histogram": ("_bucket", "_count", "_sum")}
"""Of the samples that never go down, by the type of their family."""


def scripted(*names: str) -> list[ScriptedModel]:
    """Return fast models."""
    return [ScriptedModel(name, tokens_per_second=500, prefill_seconds=0.02, load_seconds=0.05) for name in names]


class TimedEngine(FaultyEngine):
    """An engine without faults that records when it is asked to generate."""

    def __init__(self) -> None:
        super().__init__(scripted("llama3.1"))
        self.asked_at: list[float] = []

    async def intercept(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record the first request to generate of each probe."""
        now = asyncio.get_running_loop().time()
        if request.path == "/api/generate" and (not self.asked_at or now - self.asked_at[-1] > INTERVAL_SECONDS / 2):
            self.asked_at.append(now)
        return await super().intercept(request, handler)

    def phases(self) -> list[float]:
        """Return each probe's time within the interval, from -0.5 to 0.5 intervals around the first one's."""
        first = self.asked_at[0] if self.asked_at else 0.0
        half = INTERVAL_SECONDS / 2
        return [(time - first + half) % INTERVAL_SECONDS - half for time in self.asked_at]


@dataclass
class Soak:
    """What was observed of the daemon."""

    complaints: Counter[str] = field(default_factory=Counter)
    scrapes: int = 0
    resident_mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    scrape_seconds: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    reloads: int = 0
    last: Samples = field(default_factory=dict)
    phases: list[float] = field(default_factory=list)

    def observe(self, page: str, process: psutil.Process, seconds: float) -> None:
        """Compare a scrape with the previous one, and note what the process takes."""
        samples = {
            (name, frozenset(LABEL.findall(labels))): float(value) for name, labels, value in SAMPLE.findall(page)
        }
        rising = {name + suffix for name, kind in TYPE.findall(page) for suffix in SUFFIXES.get(kind, ())}
        self.scrapes += 1
        self.scrape_seconds.append(seconds)
        self.resident_mb.append(process.memory_info().rss / 1e6)
        self.files.append(process.num_fds())
        self.threads.append(process.num_threads())
        for key, value in samples.items():
            if key[0] in rising and value < self.last.get(key, 0):
                self.complaints[f"{key[0]} went back"] += 1
        for model, runs in totals(samples, "runs").items():
            ended = sum(totals(samples, kind)[model] for kind in ("successes", "failures", "cancelled"))
            if runs != ended:
                self.complaints[f"{model}: runs are not successes + failures + cancelled"] += 1
        self.last = samples

    def phases_at_ends(self) -> tuple[float, float]:
        """Return the healthy target's phase early and late: that of the earliest tenth, because delays are noise."""
        early, late = (quantiles(part, n=10)[0] if len(part) > 1 else 0.0 for part in ends(self.phases))
        return early, late

    def judge(self) -> None:
        """Look for growth, lost runs and drift."""
        # Files and threads depend on how many probes run: a leak raises the minimum.
        checks: tuple[tuple[str, Sequence[float], Callable[[Sequence[float]], float], float], ...] = (
            ("resident memory in MB", self.resident_mb, median, MEMORY_GROWTH_MB),
            ("open files", self.files, min, 2),
            ("threads", self.threads, min, 1),
        )
        for name, values, typical, bound in checks:
            early, late = map(typical, ends(values))
            if late - early > bound:
                self.complaints[f"{name} grew from {early:g} to {late:g}"] += 1
        early, late = self.phases_at_ends()
        if abs(late - early) > PHASE_SHIFT_SECONDS * INTERVAL_SECONDS:
            self.complaints[f"the healthy target's probes drifted by {late - early:.3f} s"] += 1
        healthy = {kind: total(self.last, kind, "healthy") for kind in ("runs", "successes")}
        if not healthy["runs"] or healthy["runs"] != healthy["successes"]:
            self.complaints[f"the healthy target: {healthy}"] += 1
        if internal := sum(value for (_, labels), value in self.last.items() if ("reason", "internal") in labels):
            self.complaints["failures for the reason `internal`"] += int(internal)

    def print_report(self) -> None:
        """Print the figures and the verdict."""
        figures = {
            kind: sum(totals(self.last, kind).values()) for kind in ("runs", "successes", "failures", "cancelled")
        }
        start = int(len(self.resident_mb) * WARM_UP_SHARE)
        slope = linear_regression(range(len(self.resident_mb) - start), self.resident_mb[start:]).slope * 3600
        good = total(self.last, "successes", "healthy")
        skipped = {
            dict(labels)["reason"]: int(value)
            for (name, labels), value in self.last.items()
            if name == "ollama_probe_skipped_total" and ("target", "healthy") in labels and value
        }
        early, late = self.phases_at_ends()
        print(f"scrapes     {self.scrapes}, median {median(self.scrape_seconds) * 1000:.1f} ms,", end=" ")
        print(f"longest {max(self.scrape_seconds) * 1000:.0f} ms; {self.reloads} reloads")
        print(f"faults      {self.faults.total()} of {len(self.faults)} kinds")
        print("probes      " + ", ".join(f"{kind} {value:.0f}" for kind, value in figures.items()), "at the end")
        print(f"healthy     {good:.0f} good runs, skipped: {skipped or 0}; phase {early:+.3f} s, then {late:+.3f} s")
        print(
            f"memory      {self.resident_mb[0]:.1f} MB at first, {self.resident_mb[start]:.1f} MB after the warm-up,",
            end=" ",
        )
        print(f"{self.resident_mb[-1]:.1f} MB at the end, slope {slope:+.1f} MB/h")
        print(f"open files  {min(self.files)} to {max(self.files)}; threads {min(self.threads)} to {max(self.threads)}")
        for complaint, count in self.complaints.most_common():
            print(f"COMPLAINT   {complaint} ({count} times)")
        print("verdict     " + ("bad" if self.complaints else "good"))


def ends(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Return the first and the last third, after the warm-up."""
    kept = values[int(len(values) * WARM_UP_SHARE) :]
    third = max(1, len(kept) // 3)
    return kept[:third], kept[-third:]


def totals(samples: Samples, kind: str) -> Counter[tuple[str, str]]:
    """Return a counter of probes by target and model, its reasons summed."""
    found: Counter[tuple[str, str]] = Counter()
    for (name, labels), value in samples.items():
        if name == f"ollama_probe_{kind}_total":
            by = dict(labels)
            found[by["target"], by["model"]] += int(value)
    return found


def total(samples: Samples, kind: str, target_name: str) -> float:
    """Return a counter's sum over the models of a target."""
    return sum(value for (name, _), value in totals(samples, kind).items() if name == target_name)


async def inject_faults(engines: Sequence[FaultyEngine], soak: Soak, chance: random.Random) -> None:
    """Inject a random fault into a random engine several times a second, about a third of the probes long."""
    kinds = [kind for kind in FaultKind if kind is not FaultKind.LONG_LINE]
    while True:
        await asyncio.sleep(chance.uniform(0.1, 0.8))
        kind = chance.choice(kinds)
        soak.faults[kind] += 1
        engine = chance.choice(engines)
        seconds, tokens = chance.uniform(0.2, 3), chance.choice([0, 0, 3, 40])
        fault = engine.inject(Fault(kind, seconds=seconds, after_tokens=tokens, times=chance.choice([1, 2, 5])))
        asyncio.get_running_loop().call_later(4, fault.end)  # also one whose token never came


async def change_models(engine: FaultyEngine, chance: random.Random) -> None:
    """Change the list of installed models every few seconds."""
    all_models = scripted(*(f"model-{number}" for number in range(6)))
    while True:
        engine.installed = list(chance.sample(all_models, chance.randint(0, 6)))
        await asyncio.sleep(chance.uniform(1, 20))


async def reload(running: Running, soak: Soak, seconds: float) -> None:
    """Change the configuration and send SIGHUP: a target leaves or returns, another changes; one in five is invalid."""
    complete: dict[str, Any] = yaml.safe_load(running.config_file.read_text())
    while True:
        await asyncio.sleep(seconds)
        soak.reloads += 1
        targets = [dict(entry) for entry in complete["targets"]]
        if soak.reloads % 2:
            targets = [entry for entry in targets if entry["name"] != "faulty-0"]
        targets[1]["num_predict"] = 16 + soak.reloads % 32
        text = yaml.safe_dump(complete | {"targets": targets})
        running.config_file.write_text(text if soak.reloads % 5 else text + "intervall: 5m\n")
        running.process.send_signal(signal.SIGHUP)


async def scrape(running: Running, soak: Soak) -> None:
    """Scrape each second. The page is read with patterns: a parser would delay the servers in this process."""
    process = psutil.Process(running.process.pid)
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        while True:
            began = loop.time()
            page = (await client.get(f"{running.url}/metrics")).text
            seconds = loop.time() - began
            soak.observe(page, process, seconds)
            await asyncio.sleep(max(0.0, began + 1 - loop.time()))


@contextlib.asynccontextmanager
async def background(*coroutines: Any) -> AsyncIterator[None]:
    """Run coroutines until the context ends; raise what one of them raises."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        done = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def soak_for(seconds: float, reload_seconds: float, seed: int, folder: Path) -> Soak:
    """Run the daemon for a time and return what was observed, judged."""
    soak, chance = Soak(), random.Random(seed)
    engines = [FaultyEngine(scripted("llama3.1", "qwen3:8b")) for _ in range(FAULTY)]
    changing, healthy = FaultyEngine(scripted("llama3.1")), TimedEngine()
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(OllamaServer(engine)) for engine in (*engines, changing, healthy)]
        targets = [
            target(server, f"faulty-{number}", models=["llama3.1", "qwen3:8b"], **SETTINGS)
            for number, server in enumerate(servers[:FAULTY])
        ]
        targets.append(target(servers[-2], "changing", models="installed", **SETTINGS))
        targets.append(target(servers[-1], "healthy", interval="1s"))
        async with daemon(folder, targets, max_concurrent_probes=20) as running:
            await running.wait_until("success", 1, target="healthy")
            async with background(
                scrape(running, soak),
                inject_faults(engines, soak, chance),
                change_models(changing, chance),
                reload(running, soak, reload_seconds),
            ):
                end_at = asyncio.get_running_loop().time() + seconds
                while asyncio.get_running_loop().time() < end_at and running.process.returncode is None:
                    await asyncio.sleep(1)
                    for server in servers:
                        server.requests.clear()
            soak.phases = healthy.phases()
            if running.process.returncode is not None or await running.end() != 0:
                soak.complaints[f"the daemon ended with {running.process.returncode}"] += 1
            for line in running.lines:
                if "Traceback" in line:
                    soak.complaints[re.sub(r"ts=\S+ ", "", line)[:300]] += 1
    soak.judge()
    return soak


def main() -> int:
    """Soak and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--reload-seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            soak = asyncio.run(soak_for(options.minutes * 60, options.reload_seconds, options.seed, Path(folder)))
        except httpx.HTTPError as error:
            print(f"verdict     bad: a scrape failed: {error!r}")
            return 1
    soak.print_report()
    return 1 if soak.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
