"""`probe`: run a single probe of each configured model and print the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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


async def probe(targets: Sequence[TargetPlan], *, reference: bool, as_json: bool, console: Console) -> int:
    """Probe each model once and print the results; return 1 if any probe gave no reading, else 0.

    `reference` sends the request of the reference program, which has no generation options, and counts the answer's
    text alone. Unlike that program it sends the loaded model's `num_ctx`, so that Ollama does not reload the model for
    its users, and `keep_alive` if it is configured. `when_unloaded` applies. Failures are printed on standard error.
    """
    monitor = await open_gpu_monitor()
    status = 0
    try:
        for target in targets:
            async with open_prober(target, monitor) as (prober, client):
                try:
                    models = await models_to_probe(target, client)
                except ProbeError as error:
                    _print_error(ModelKey(target.name, str(target.models)), error, as_json=as_json)
                    status = 1
                    continue
                for model in models:
                    if not as_json and (len(targets) > 1 or len(models) > 1):
                        console.print(Text(f"\n--- {model.model} on {target.name}", style="bold"))
                    succeeded = await _probe_model(prober, model, reference=reference, as_json=as_json, console=console)
                    status = status if succeeded else 1
    finally:
        await monitor.close()
    return status


async def _probe_model(prober: Prober, plan: ModelPlan, *, reference: bool, as_json: bool, console: Console) -> bool:
    """Probe one model, print the result, and return whether it is a reading."""
    key, chunks = prober.target.key(plan), ChunkRecorder()
    try:
        async with live_line(console, f"{key.model} on {key.target}", lambda: len(chunks.times)):
            outcome = await prober.probe(plan, chunks=chunks, reference=reference)
    except ProbeError as error:
        _print_error(key, error, as_json=as_json)
        return False
    if not isinstance(outcome, Reading):
        if as_json:
            print_json(key, skipped=outcome, remedy=outcome.text)
        else:
            errors = open_console(stderr=True)
            errors.print(Text(f"{key.model} on {key.target} was skipped ({outcome}). {outcome.text}"))
        return False
    if reference and outcome.figures.words is not None:  # the reference program does not count thinking
        outcome = replace(outcome, figures=replace(outcome.figures, words=len(outcome.text.split())))
    if as_json:
        print_json(key, **reading_json(outcome))
    else:
        print_reading(console, key, outcome)
    return True


def _print_error(key: ModelKey, error: ProbeError, *, as_json: bool) -> None:
    if as_json:
        print_failure_json(key, error)
    else:
        print_failure(open_console(stderr=True), f"{key.model} on {key.target}", error)
