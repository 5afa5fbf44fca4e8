"""Discovery: which of a server's models are probed where the configuration does not list them."""

from __future__ import annotations

from dataclasses import replace

from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan, canonical_model_name, model_label
from exporter.reading import InstalledModel


async def discover(target: TargetPlan, client: OllamaClient) -> dict[ModelKey, ModelPlan]:
    """Return the installed or loaded models of a server that can generate, cloud models excluded.

    Raises `ProbeError`.
    """
    models = [model for model in await client.installed() if model.name]
    plan = target.defaults
    if target.models == "loaded":
        loaded = {canonical_model_name(model.name) for model in await client.loaded()}
        models = [model for model in models if canonical_model_name(model.name) in loaded]
        plan = replace(plan, when_unloaded="skip")  # a model that its users no longer have loaded is not loaded again
    plans = [plan.of(model_label(model.name)) for model in models if await _can_be_probed(model, client)]
    return {target.key(plan): plan for plan in sorted(plans, key=lambda plan: plan.model)}


async def _can_be_probed(model: InstalledModel, client: OllamaClient) -> bool:
    """Return whether a model generates on this server. Ollama 0.24 reports that in `/api/show` only."""
    if model.cloud:
        return False
    if model.can_generate is not None:
        return model.can_generate
    file = await client.model_file(model.name, model.digest)
    return not file.cloud and file.can_generate is not False
