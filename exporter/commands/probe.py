"""The commands that ask servers once and end: probe, calibrate, gpus."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exporter.commands.console import live_line, open_console, print_reading, reading_json
from exporter.commands.gpus import CARD_COLUMNS, LABEL_COLUMNS, describe
from exporter.errors import ProbeError, Reason
from exporter.gpu.base import GpuMonitor, open_gpu_monitor
from exporter.ollama.chain import ChunkRecorder, ReferenceChain
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.discovery import discover
from exporter.probing.prober import Prober
from exporter.reading import Reading

__all__ = ["calibrate", "open_console", "probe", "show_gpus"]

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def _prober(target: TargetPlan, gpus: GpuMonitor) -> AsyncIterator[tuple[Prober, OllamaClient]]:
    server = OllamaClient(target)
    chain = ReferenceChain(target, server.auth)
    try:
        yield Prober(target, server, chain, gpus), server
    finally:
        await chain.close()
        await server.close()


async def _models(target: TargetPlan, server: OllamaClient) -> Sequence[ModelPlan]:
    if not isinstance(target.models, str):
        return target.models
    models = await discover(target, server)
    if not models:
        remedy = "load one, or name the models" if target.models == "loaded" else "pull one with `ollama pull`"
        raise ProbeError(Reason.MODEL_MISSING, f"no model that generates is {target.models} there", remedy)
    return tuple(models.values())


def _tell_failure(console: Console, pair: ModelKey, error: ProbeError, *, as_json: bool = False) -> None:
    if as_json:
        _print_json(pair, reason=error.reason, detail=error.detail, remedy=error.remedy)
        return
    console.print(Text(f"{pair.model} on {pair.target} failed: {error.reason}: {error.detail}", style="red"))
    console.print(Text(f"Remedy: {error.remedy}"))


def _print_json(pair: ModelKey, **fields: Any) -> None:
    print(json.dumps(pair._asdict() | fields))  # noqa: T201 - the command's output


async def probe(targets: Sequence[TargetPlan], *, reference: bool, as_json: bool, console: Console) -> int:
    """Probe each pair once and show what came of it; 1 if any measured nothing.

    `reference` asks as the reference program does: without options, and counting the words of the answer alone.
    """
    gpus = await open_gpu_monitor(log)
    status = 0
    try:
        for target in targets:
            async with _prober(target, gpus) as (prober, server):
                try:
                    models = await _models(target, server)
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
            _print_json(pair, skipped=outcome, remedy=outcome.text)
        else:
            console.print(Text(f"{pair.model} on {pair.target} was skipped ({outcome}): {outcome.text}"))
        return False
    if reference and outcome.figures.words is not None:
        outcome = replace(outcome, figures=replace(outcome.figures, words=len(outcome.text.split())))
    if as_json:
        _print_json(pair, **reading_json(outcome))
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
    gpus = await open_gpu_monitor(log)
    calibrated: list[tuple[TargetPlan, list[Calibration]]] = []
    complete = True
    try:
        for target in targets:
            async with _prober(target, gpus) as (prober, server):
                try:
                    models = await _models(target, server)
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


async def show_gpus(targets: Sequence[TargetPlan], console: Console) -> int:
    """Show the cards of this machine, and how the label of each model on a local target would be chosen."""
    gpus = await open_gpu_monitor(log)
    subjects, remote = [], []
    try:
        for target in targets:
            if not target.local:
                remote.append(target.name)
                continue
            async with _prober(target, gpus) as (prober, server):
                try:
                    subjects += [await prober.probed_model(model) for model in await _models(target, server)]
                except ProbeError as error:
                    _tell_failure(console, ModelKey(target.name, "any model"), error)
        report = await describe(gpus, subjects)
    finally:
        await gpus.close()
    for columns, rows, nothing in (
        (CARD_COLUMNS, report.cards, "No GPU can be read from here."),
        (LABEL_COLUMNS, report.labels, "No local target answers."),
    ):
        table = Table(*columns)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table if rows else nothing, soft_wrap=False)
    if remote:
        names = ", ".join(remote)
        console.print(Text(f"On other machines, labelled by their `gpu` key or by what the server claims: {names}"))
    return 0
