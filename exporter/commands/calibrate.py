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
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.prober import Prober
from exporter.reading import Reading

CLEAN_RUNS_RATIO = 0.5
"""A model gets an expected rate if at least this share of its runs was neither truncated nor contended."""
SPREAD_RATIO_MAX = 0.1
"""`calibrate` warns of a spread above this share."""
SPREAD_REASONS = (
    "Likely reasons: other work on the GPU or the machine, a GPU that is still warming up, a power or temperature"
    " limit. Find the reason, and calibrate again."
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The rates of one model's clean runs, in tokens per second."""

    key: ModelKey
    model: str
    rates: tuple[float, ...]

    @property
    def expected_rate(self) -> float:
        """The median."""
        return median(self.rates)

    @property
    def spread_ratio(self) -> float:
        """The range as a share of the expected rate."""
        return (max(self.rates) - min(self.rates)) / self.expected_rate

    @property
    def summary(self) -> str:
        """Number of clean runs, range and spread."""
        spread = f"spread {self.spread_ratio:.1%}"
        return f"{len(self.rates)} clean runs, {min(self.rates):.1f} to {max(self.rates):.1f}, {spread}"


async def calibrate(targets: Sequence[TargetPlan], *, runs: int, console: Console) -> tuple[str, bool]:
    """Probe each model `runs` times as the daemon would.

    Returns the YAML lines, empty if no model got an expected rate, and whether every model got one. Truncated readings
    and those contended on the GPU do not count; a model with too few clean runs gets none. A server that does not
    answer is not asked again.
    """
    monitor = await open_gpu_monitor()
    calibrated: list[tuple[TargetPlan, list[Calibration]]] = []
    complete = True
    try:
        for target in targets:
            async with open_prober(target, monitor) as (prober, client):
                found: list[Calibration] = []
                try:
                    await client.version()
                    models = await models_to_probe(target, client)
                    for model in models:
                        calibration = await _calibrate_model(prober, client, model, runs, console)
                        found.append(calibration)
                except ProbeError as error:
                    print_failure(console, target.name, error)
                    complete = False
                kept = [calibration for calibration in found if len(calibration.rates) >= CLEAN_RUNS_RATIO * runs]
                complete = complete and len(kept) == len(found)
                calibrated.append((target, kept))
    finally:
        await monitor.close()
    for calibration in (each for _, kept in calibrated for each in kept):
        if calibration.spread_ratio > SPREAD_RATIO_MAX:
            console.print(Text(spread_warning(calibration), style="yellow"))
    return calibration_yaml(calibrated), complete


def spread_warning(calibration: Calibration) -> str:
    """Return the warning for a model whose rates differ too much."""
    key, spread = calibration.key, f"{calibration.spread_ratio:.1%}"
    return f"warning: {key.model} on {key.target}: the rates have a spread of {spread}. {SPREAD_REASONS}"


async def _calibrate_model(
    prober: Prober, client: OllamaClient, plan: ModelPlan, runs: int, console: Console
) -> Calibration:
    """Return the rates of a model's clean runs. Raises ProbeError if the server no longer answers after a run."""
    rates = []
    for run in range(1, runs + 1):
        rate = await _clean_rate(prober, plan, f"run {run} of {runs}", console)
        if rate is None:
            await client.version()
        else:
            rates.append(rate)
    return Calibration(prober.target.key(plan), plan.model, tuple(rates))


async def _clean_rate(prober: Prober, plan: ModelPlan, run: str, console: Console) -> float | None:
    """Probe once and print the result; return the rate if it counts."""
    key, chunks = prober.target.key(plan), ChunkRecorder()
    label = f"{key.model} on {key.target}, {run}"
    try:
        async with live_line(console, label, lambda: len(chunks.times)):
            outcome = await prober.probe(plan, chunks=chunks)
    except ProbeError as error:
        print_failure(console, label, error)
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
    """Return the configuration lines, each expected rate with the range of the runs behind it.

    A target without an expected rate is left out; empty if that leaves none.
    """

    def quoted(text: str) -> str:
        return yaml.safe_dump(text, default_style='"', width=10**6, allow_unicode=True).strip()

    lines = ["targets:"]
    for target, calibrations in calibrated:
        if not calibrations:
            continue
        lines += [f"  - name: {quoted(target.name)}", f"    url: {quoted(target.url)}", "    models:"]
        for calibration in calibrations:
            lines += [
                f"      - name: {quoted(calibration.model)}",
                f"        expected_decode_tokens_per_second: {calibration.expected_rate:.1f}  # {calibration.summary}",
            ]
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""
