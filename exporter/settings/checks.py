"""What is allowed but hardly meant: the warnings of `check-config`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from exporter.durations import Duration
from exporter.plan import ModelPlan, TargetPlan
from exporter.settings.addresses import OLLAMA_PORT
from exporter.settings.schema import Settings

_RULES_INTERVAL = Duration(60), Duration(6 * 3600)
_LIKELY_TOKENS_PER_SECOND = 50.0
"""Where no rate is expected: about that of an 8B model on the card that the reference program's figures come from."""
_LIKELY_TOKENS = 1000
"""Where the model is left to end by itself."""


def warnings(settings: Settings) -> list[str]:
    """Return what a user should know about settings that are valid, a sentence each, remedy included."""
    plans = settings.plans()
    found = [*_addresses(settings), *_everything(plans, settings.max_concurrent_probes)]
    names: dict[str, list[str]] = {}
    for target in plans:
        for text in _target(target):
            names.setdefault(text, []).append(target.name)
    for text, (first, *others) in names.items():
        which = f"target {first!r} and {len(others)} more" if others else f"target {first!r}"
        found.append(f"{which}: {text}")
    return found


def _addresses(settings: Settings) -> Iterator[str]:
    for target in settings.targets:
        address = target.url
        if address.url.startswith("http:") and not address.port_written:
            yield (
                f"target {target.label!r}: its url has no port, so that http's own, 80, is used; Ollama listens on"
                f" {OLLAMA_PORT} unless told otherwise: write the port"
            )
    counts = Counter(target.url.url for target in settings.targets)
    for url, count in counts.items():
        if count > 1:
            yield (
                f"{count} targets have the url {url}: their probes can run at the same time and would measure each"
                " other: make them one target"
            )


def _everything(plans: tuple[TargetPlan, ...], max_concurrent_probes: int) -> Iterator[str]:
    shares = [sum(_likely_seconds(model) / model.interval_seconds for model in _listed(target)) for target in plans]
    if len(plans) > 1 and max(shares) <= 1 and sum(shares) > max_concurrent_probes:
        yield (
            f"all targets together likely need {sum(shares):.1f} probes at a time, and max_concurrent_probes is"
            f" {max_concurrent_probes}: raise it, or lengthen the intervals; late runs are counted as skipped"
        )


def _target(target: TargetPlan) -> Iterator[str]:
    models = _listed(target)
    if likely := _overload(models, _likely_seconds):
        yield (
            f"its probes likely do not fit in their interval: {likely} of probing: lengthen the interval, list fewer"
            " models or lower num_predict; late runs are counted as skipped"
        )
    elif worst := _overload(models, _worst_seconds):
        yield (
            f"if each of its probes ran into its deadlines, they would not fit in their interval: {worst} of probing,"
            " loading included: lengthen the interval, or shorten timeout or load_timeout; late runs are counted as"
            " skipped"
        )
    for model in models:
        if model.expected_decode_tokens_per_second and _likely_seconds(model) > model.timeout_seconds:
            yield (
                f"{model.model!r} likely needs {Duration(round(_likely_seconds(model)))} for its answer, and its"
                f" timeout is {Duration(model.timeout_seconds)}: its readings would be truncated: lengthen timeout, or"
                " lower num_predict"
            )
    shortest, longest = _RULES_INTERVAL
    if outside := {model.interval_seconds for model in models if not shortest <= model.interval_seconds <= longest}:
        yield (
            f"the shipped alert rules serve intervals from {shortest} to {longest}, and it has"
            f" {', '.join(str(Duration(interval)) for interval in sorted(outside))}: adapt the rules, or the interval"
        )
    if target.models == "installed" and target.defaults.when_unloaded == "load":
        yield (
            "with `installed` and `load`, every installed model is loaded in turn, which evicts the models in use:"
            " write when_unloaded: borrow"
        )


def _listed(target: TargetPlan) -> tuple[ModelPlan, ...]:
    """Return the plans known before the server was asked; one stands for those that discovery will find."""
    return (target.defaults,) if isinstance(target.models, str) else target.models


def _overload(models: tuple[ModelPlan, ...], seconds: Callable[[ModelPlan], float]) -> str:
    """Return in words how much probing the models ask for, where it is more time than there is, else nothing."""
    share = sum(seconds(model) / model.interval_seconds for model in models)
    shortest = min(model.interval_seconds for model in models)
    return f"each {Duration(shortest)} holds {Duration(round(share * shortest))}" if share > 1 else ""


def _worst_seconds(model: ModelPlan) -> float:
    return model.timeout_seconds + (0 if model.when_unloaded == "skip" else model.load_timeout_seconds)


def _likely_seconds(model: ModelPlan) -> float:
    tokens = model.workload.num_predict if model.workload.num_predict > 0 else _LIKELY_TOKENS
    return tokens / (model.expected_decode_tokens_per_second or _LIKELY_TOKENS_PER_SECOND)
