"""The commands that ask servers once and end: probe, calibrate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import yaml
from rich.console import Console
from rich.text import Text

from exporter.commands.console import live_line, open_console, print_reading, reading_json
from exporter.commands.probers import models_to_probe, open_prober, print_failure, print_failure_json, print_json
from exporter.errors import ProbeError
from exporter.gpu.detect import open_gpu_monitor
from exporter.ollama.chain import ChunkRecorder
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.prober import Prober
from exporter.reading import Reading

__all__ = ["calibrate", "open_console", "probe"]


def _tell_failure(console: Console, pair: ModelKey, error: ProbeError, *, as_json: bool = False) -> None:
    if as_json:
        print_failure_json(pair, error)
    else:
        print_failure(console, pair, error)


async def probe(targets: Sequence[TargetPlan], *, reference: bool, as_json: bool, console: Console) -> int:
    """Probe each pair once and show what came of it; 1 if any measured nothing.

    `reference` asks as the reference program does: without options, and counting the words of the answer alone.
    """
    gpus = await open_gpu_monitor()
    status = 0
    try:
        for target in targets:
            async with open_prober(target, gpus) as (prober, server):
                try:
                    models = await models_to_probe(target, server)
                except ProbeError as error:
                    _tell_failure(console, ModelKey(target.name, str(target.models)), error, as_json=as_json)
                    status = 1
                    continue
                for model in models:
                    if not as_json and len(targets) + len(models) > 2:  # noqa: PLR2004 - more than one pair
                        console.print(Text(f"\n--- {model.model} on {target.name}", style="bold"))
                    plan = replace(model, when_unloaded="load") if reference else model
                    good = await _probe_one(prober, plan, reference=reference, as_json=as_json, console=console)
                    status = status if good else 1
    finally:
        await gpus.close()
    return status


async def _probe_one(prober: Prober, plan: ModelPlan, *, reference: bool, as_json: bool, console: Console) -> bool:
    pair, chunks = prober.target.key(plan), ChunkRecorder()
    try:
        async with live_line(console, f"{pair.model} on {pair.target}", lambda: len(chunks.times)):
            outcome = await prober.probe(plan, chunks=chunks, reference=reference)
    except ProbeError as error:
        _tell_failure(console, pair, error, as_json=as_json)
        return False
    if not isinstance(outcome, Reading):
        if as_json:
            print_json(pair, skipped=outcome, remedy=outcome.text)
        else:
            console.print(Text(f"{pair.model} on {pair.target} was skipped ({outcome}): {outcome.text}"))
        return False
    if reference and outcome.figures.words is not None:
        outcome = replace(outcome, figures=replace(outcome.figures, words=len(outcome.text.split())))
    if as_json:
        print_json(pair, **reading_json(outcome))
    else:
        print_reading(console, pair, outcome)
    return True


@dataclass(frozen=True, slots=True)
class Calibration:
    """The clean rates of one pair, in tokens per second."""

    pair: ModelKey
    model: str
    rates: tuple[float, ...]

    @property
    def spread(self) -> str:
        """The median's company, in words."""
        low, high = min(self.rates), max(self.rates)
        return f"{len(self.rates)} clean runs, {low:.1f} to {high:.1f}, spread {(high - low) / median(self.rates):.1%}"


async def calibrate(targets: Sequence[TargetPlan], *, runs: int, console: Console) -> tuple[str, bool]:
    """Probe each pair `runs` times as the daemon would; return the YAML lines, and whether every pair has its own.

    Truncated readings, and those taken beside other work on the GPU, do not count. A pair with fewer than half of its
    runs clean gets no line.
    """
    gpus = await open_gpu_monitor()
    calibrated: list[tuple[TargetPlan, list[Calibration]]] = []
    complete = True
    try:
        for target in targets:
            async with open_prober(target, gpus) as (prober, server):
                try:
                    models = await models_to_probe(target, server)
                except ProbeError as error:
                    _tell_failure(console, ModelKey(target.name, str(target.models)), error)
                    complete = False
                    continue
                found = [await _calibrate_one(prober, model, runs, console) for model in models]
                kept = [calibration for calibration in found if 2 * len(calibration.rates) >= runs]
                complete = complete and len(kept) == len(found)
                calibrated.append((target, kept))
    finally:
        await gpus.close()
    return calibration_yaml(calibrated), complete


async def _calibrate_one(prober: Prober, plan: ModelPlan, runs: int, console: Console) -> Calibration:
    pair, rates = prober.target.key(plan), []
    for run in range(1, runs + 1):
        chunks = ChunkRecorder()
        label = f"{pair.model} on {pair.target}, run {run} of {runs}"
        try:
            async with live_line(console, label, lambda chunks=chunks: len(chunks.times)):  # type: ignore[misc]
                outcome = await prober.probe(plan, chunks=chunks)
        except ProbeError as error:
            _tell_failure(console, pair, error)
            continue
        if not isinstance(outcome, Reading):
            console.print(Text(f"{label}: skipped ({outcome}): {outcome.text}"))
            continue
        beside = outcome.contended.get("gpu") or outcome.contended.get("model")
        note = (
            "not counted: the stream was cut"
            if outcome.figures.truncated
            else "not counted: contended"
            if beside
            else ""
        )
        if not note:
            rates.append(outcome.figures.decode_tokens_per_second)
        console.print(Text(f"{label}: {outcome.figures.decode_tokens_per_second:.1f} tokens/s {note}".rstrip()))
    return Calibration(pair, plan.model, tuple(rates))


def calibration_yaml(calibrated: Sequence[tuple[TargetPlan, Sequence[Calibration]]]) -> str:
    """Return the configuration lines, each expected rate with the spread it was seen with."""

    def quoted(text: str) -> str:
        return yaml.safe_dump(text, default_style='"', width=10**6, allow_unicode=True).strip()

    lines = ["targets:"]
    for target, calibrations in calibrated:
        lines += [f"  - name: {quoted(target.name)}", f"    url: {quoted(target.url)}", "    models:"]
        for calibration in calibrations:
            rate = f"{median(calibration.rates):.1f}"
            lines += [
                f"      - name: {quoted(calibration.model)}",
                f"        expected_decode_tokens_per_second: {rate}  # {calibration.spread}",
            ]
        if not calibrations:
            lines[-1] += " []  # no pair had enough clean runs"
    return "\n".join(lines) + "\n"
