"""The warnings of `check-config`: settings that are valid, but probably not what the user wants."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from exporter.durations import Duration
from exporter.plan import ModelPlan, TargetPlan
from exporter.settings.addresses import OLLAMA_PORT
from exporter.settings.schema import Settings

_INTERVALS_OF_RULES = Duration(60), Duration(6 * 3600)
_TYPICAL_TOKENS_PER_SECOND = 50.0
"""Used for a model without an expected rate: about that of an 8B model on an RTX 3090."""
_TYPICAL_TOKENS = 1000
"""Used where num_predict is -1."""
_CONTAINER_FILES = "/.dockerenv", "/run/.containerenv"


def warnings(settings: Settings) -> list[str]:
    """Return the warnings for valid settings: the target or key, the problem and the remedy, in one line each.

    Whether probes fit into their interval is decided by the time that they typically take, not by their timeouts.
    """
    plans = settings.plans()
    found = [*_targets(settings), *_concurrency(plans, settings.max_concurrent_probes)]
    names: dict[str, list[str]] = defaultdict(list)
    for target in plans:
        for text in _target(target):
            names[text].append(target.name)
    for text, (first, *others) in names.items():
        which = f"target {first!r} and {len(others)} more" if others else f"target {first!r}"
        found.append(f"{which}: {text}")
    return found


def in_container() -> bool:
    """Return whether this process appears to run in a container, where the host name is often random."""
    return any(Path(file).exists() for file in _CONTAINER_FILES) or "KUBERNETES_SERVICE_HOST" in os.environ


def _targets(settings: Settings) -> Iterator[str]:
    if settings.config_file and "targets" not in settings.model_fields_set:
        yield (
            f"no targets are configured, so {settings.targets[0].url.url} is probed. Add `targets` to the configuration"
            " file."
        )
    names: dict[str, list[str]] = defaultdict(list)
    for target in settings.targets:
        address = target.url
        names[address.url].append(target.label)
        if target.name is None and address.is_loopback and in_container():
            yield (
                f"target {target.label!r}: its name is this container's host name ({socket.gethostname()}), which may"
                " change whenever the container is created. Set name, such as `name: gpu-a`."
            )
        if address.url.startswith("http:") and not address.port_written:
            yield (
                f"target {target.label!r}: url has no port, so port 80 is used; Ollama's default port is"
                f" {OLLAMA_PORT}. Add the port to url."
            )
    for url, same in names.items():
        if len(same) > 1:
            yield (
                f"{len(same)} targets have the URL {url}, so their probes may run at the same time and slow each other"
                " down. Combine them into one target."
            )


def _concurrency(plans: tuple[TargetPlan, ...], max_concurrent_probes: int) -> Iterator[str]:
    loads = [_load(_models(target)) for target in plans]
    if len(plans) > 1 and max(loads) <= 1 and sum(loads) > max_concurrent_probes:
        yield (
            f"max_concurrent_probes is too low ({max_concurrent_probes}): all targets together need about"
            f" {sum(loads):.1f} probes at a time, so some will be skipped. Raise it, or lengthen the intervals."
        )


def _target(target: TargetPlan) -> Iterator[str]:
    models = _models(target)
    load = _load(models)
    if load > 1:
        shortest = min(model.interval_seconds for model in models)
        yield (
            f"its probes take about {Duration(round(load * shortest))} in each {Duration(shortest)}, so some will be"
            " skipped. Lengthen interval, configure fewer models, or lower num_predict."
        )
    for model in models:
        if model.expected_decode_tokens_per_second and _typical_seconds(model) > model.timeout_seconds:
            yield (
                f"model {model.model!r} needs about {Duration(round(_typical_seconds(model)))} for its answer, which is"
                f" longer than timeout ({Duration(model.timeout_seconds)}). Raise timeout, or lower num_predict."
            )
    shortest_of_rules, longest_of_rules = _INTERVALS_OF_RULES
    outside = {m.interval_seconds for m in models if not shortest_of_rules <= m.interval_seconds <= longest_of_rules}
    if outside:
        intervals = ", ".join(str(Duration(interval)) for interval in sorted(outside))
        yield (
            f"interval is outside of what the alert rules support, {shortest_of_rules} to {longest_of_rules}"
            f" ({intervals}). Change interval, or adapt the rules."
        )
    if target.models == "installed" and target.defaults.when_unloaded == "load":
        yield (
            "`models: installed` with `when_unloaded: load` loads every installed model in turn and evicts models that"
            " are in use. Set when_unloaded: borrow."
        )


def _models(target: TargetPlan) -> tuple[ModelPlan, ...]:
    """Return the plans of a target's models. One plan stands for all discovered models."""
    return (target.defaults,) if isinstance(target.models, str) else target.models


def _load(models: tuple[ModelPlan, ...]) -> float:
    """Return the share of time in which a target is being probed; above 1 its probes do not fit."""
    return sum(_typical_seconds(model) / model.interval_seconds for model in models)


def _typical_seconds(model: ModelPlan) -> float:
    tokens = model.workload.num_predict if model.workload.num_predict > 0 else _TYPICAL_TOKENS
    return tokens / (model.expected_decode_tokens_per_second or _TYPICAL_TOKENS_PER_SECOND)
