"""`calibrate`: probe each model several times and print its expected rate as configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import yaml
from rich.console import Console
from rich.text import Text

from exporter.commands.console import live_line
from exporter.commands.probers import models_to_probe, open_prober, print_failure
from exporter.errors import ProbeError
from exporter.gpu.detect import open_gpu_monitor
from exporter.ollama.chain import ChunkRecorder
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.prober import Prober
from exporter.reading import Reading

CLEAN_RUNS_RATIO = 0.5
"""A model gets an expected rate if at least this share of its runs was neither truncated nor contended."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The rates of one model's clean runs, in tokens per second."""

    model: str
    rates: tuple[float, ...]

    @property
    def expected_rate(self) -> float:
        """The median."""
        return median(self.rates)

    @property
    def summary(self) -> str:
        """Number of clean runs, range and spread."""
        low, high = min(self.rates), max(self.rates)
        spread = (high - low) / self.expected_rate
        return f"{len(self.rates)} clean runs, {low:.1f} to {high:.1f}, spread {spread:.1%}"


async def calibrate(targets: Sequence[TargetPlan], *, runs: int, console: Console) -> tuple[str, bool]:
    """Probe each model `runs` times as the daemon would.

    Returns the YAML lines, and whether every model got an expected rate. Truncated readings and those contended on the
    GPU do not count; a model with too few clean runs gets none.
    """
    monitor = await open_gpu_monitor()
    calibrated: list[tuple[TargetPlan, list[Calibration]]] = []
    complete = True
    try:
        for target in targets:
            async with open_prober(target, monitor) as (prober, client):
                try:
                    models = await models_to_probe(target, client)
                except ProbeError as error:
                    print_failure(console, ModelKey(target.name, str(target.models)), error)
                    complete = False
                    continue
                found = [await _calibrate_model(prober, model, runs, console) for model in models]
                kept = [calibration for calibration in found if len(calibration.rates) >= CLEAN_RUNS_RATIO * runs]
                complete = complete and len(kept) == len(found)
                calibrated.append((target, kept))
    finally:
        await monitor.close()
    return calibration_yaml(calibrated), complete


async def _calibrate_model(prober: Prober, plan: ModelPlan, runs: int, console: Console) -> Calibration:
    rates = []
    for run in range(1, runs + 1):
        rate = await _clean_rate(prober, plan, f"run {run} of {runs}", console)
        if rate is not None:
            rates.append(rate)
    return Calibration(plan.model, tuple(rates))


async def _clean_rate(prober: Prober, plan: ModelPlan, run: str, console: Console) -> float | None:
    """Probe once and print the result; return the rate if it counts."""
    key, chunks = prober.target.key(plan), ChunkRecorder()
    label = f"{key.model} on {key.target}, {run}"
    try:
        async with live_line(console, label, lambda: len(chunks.times)):
            outcome = await prober.probe(plan, chunks=chunks)
    except ProbeError as error:
        print_failure(console, key, error)
        return None
    if not isinstance(outcome, Reading):
        console.print(Text(f"{label}: skipped ({outcome}). {outcome.text}"))
        return None
    note = _why_not_counted(outcome)
    rate = outcome.figures.decode_tokens_per_second
    console.print(Text(f"{label}: {rate:.1f} tokens/s{f', not counted: {note}' if note else ''}"))
    return None if note else rate


def _why_not_counted(reading: Reading) -> str:
    if reading.figures.truncated:
        return "truncated"
    if reading.contended.get("gpu") or reading.contended.get("model"):
        return "contended"
    return ""


def calibration_yaml(calibrated: Sequence[tuple[TargetPlan, Sequence[Calibration]]]) -> str:
    """Return the configuration lines, each expected rate with the range of the runs behind it."""

    def quoted(text: str) -> str:
        return yaml.safe_dump(text, default_style='"', width=10**6, allow_unicode=True).strip()

    lines = ["targets:"]
    for target, calibrations in calibrated:
        lines += [f"  - name: {quoted(target.name)}", f"    url: {quoted(target.url)}", "    models:"]
        for calibration in calibrations:
            lines += [
                f"      - name: {quoted(calibration.model)}",
                f"        expected_decode_tokens_per_second: {calibration.expected_rate:.1f}  # {calibration.summary}",
            ]
        if not calibrations:
            lines[-1] += " []  # no model had enough clean runs"
    return "\n".join(lines) + "\n"
