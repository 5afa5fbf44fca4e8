"""`gpus`: show the GPUs of this machine, and which `gpu` label each model of a local target would get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exporter.commands.probers import models_to_probe, open_prober, print_failure
from exporter.errors import ProbeError
from exporter.gpu.base import Card
from exporter.gpu.detect import open_gpu_monitor
from exporter.gpu.labels import LabelChoice
from exporter.gpu.monitor import GpuMonitor
from exporter.plan import ModelKey, TargetPlan


async def show_gpus(targets: Sequence[TargetPlan], console: Console) -> int:
    """Print the GPUs and the labels; return 1 if a local target could not be asked, else 0."""
    status = 0
    choices: dict[ModelKey, LabelChoice] = {}
    monitor = await open_gpu_monitor()
    try:
        print_cards(console, monitor.cards())
        for target in targets:
            if target.local:
                try:
                    choices |= await choose_labels(target, monitor)
                except ProbeError as error:
                    print_failure(console, target.name, error)
                    status = 1
    finally:
        await monitor.close()
    print_labels(console, choices)
    print_remote(console, [target.name for target in targets if not target.local])
    return status


async def choose_labels(target: TargetPlan, monitor: GpuMonitor) -> Mapping[ModelKey, LabelChoice]:
    """Return the label that each model of a target would get now. Raises ProbeError if the server does not answer."""
    async with open_prober(target, monitor) as (prober, client):
        models = [await prober.probed_model(plan) for plan in await models_to_probe(target, client)]
    return {model.key: await monitor.explain(model) for model in models}


def print_cards(console: Console, cards: Iterable[Card]) -> None:
    """Print a table of GPUs."""
    table = Table("index", "name", "uuid", "pci bus id", "vendor", "driver")
    for card in cards:
        row = (str(card.index), card.name, card.uuid, card.pci_bus_id, card.vendor, card.driver_version)
        table.add_row(*map(Text, row))
    console.print(table if table.rows else "No GPU can be read from here.")


def print_labels(console: Console, choices: Mapping[ModelKey, LabelChoice]) -> None:
    """Print a table of labels with their reasons."""
    table = Table("target", "model", "gpu", "why")
    for key, choice in choices.items():
        table.add_row(*map(Text, (key.target, key.model, choice.label, choice.reason)))
    console.print(table if table.rows else "No model of a local target was found.")


def print_remote(console: Console, names: Sequence[str]) -> None:
    """Print which targets run on other machines, if any."""
    if names:
        text = "Targets on other machines, labelled by their `gpu` setting or by what the server reports"
        console.print(Text(f"{text}: {', '.join(names)}"))
