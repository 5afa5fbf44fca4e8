"""One probe of one model: look, load, ask, evaluate, look again, give back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from exporter.errors import ProbeError, Reason, SkipReason
from exporter.gpu.base import ProbedModel
from exporter.gpu.monitor import GpuMonitor
from exporter.logs import get_logger
from exporter.ollama.chain import ChunkRecorder, ReferenceChain
from exporter.ollama.client import OllamaClient
from exporter.ollama.entries import ModelFile
from exporter.ollama.error_mapping import map_errors
from exporter.plan import ModelPlan, TargetPlan, canonical_model_name, is_cloud_model
from exporter.probing.contention import contended_by, others_ran
from exporter.probing.evaluate import evaluate
from exporter.probing.loading import give_back, is_unused, load_model, reason_to_skip
from exporter.reading import Answer, Figures, GpuObservation, InstalledModel, LoadedModel, Reading

SETTLE_SECONDS = 0.1
"""Measured on Ollama 0.33: `/api/ps` requested at once after an answer was outdated 1 time in 15."""
_INSTALLED_CHARACTERS_MAX = 400

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The server's lists of models before a probe."""

    installed: InstalledModel | None
    loaded: LoadedModel | None
    others: tuple[LoadedModel, ...]
    """The other loaded models."""


class Prober:
    """Probes the models of one target, one at a time."""

    def __init__(self, target: TargetPlan, client: OllamaClient, chain: ReferenceChain, gpus: GpuMonitor) -> None:
        self.target = target
        self._client = client
        self._chain = chain
        self._gpus = gpus

    async def probe(
        self, plan: ModelPlan, *, chunks: ChunkRecorder | None = None, reference: bool = False
    ) -> Reading | SkipReason:
        """Probe a model and return its reading, or why it was skipped.

        `chunks` records the answer as it arrives. `reference` sends no generation options but `num_ctx`. Raises
        `ProbeError` with all secrets redacted, and nothing else but cancellation.
        """
        with map_errors(self.target, self._client.auth.redact):
            await self._client.version()
            loaded, others = await self._client.find_loaded(plan.model)
            models = await self._client.installed()
            try:
                seen = _Seen(_find_installed(plan, models, loaded), loaded, others)
                if loaded is None and (skip := reason_to_skip(plan, others)):
                    return skip
                return await self._measure(plan, seen, chunks or ChunkRecorder(), reference=reference)
            except ProbeError as error:
                if error.reason is Reason.MODEL_MISSING:
                    raise self._with_installed_models(error, models) from error
                raise

    async def _measure(self, plan: ModelPlan, seen: _Seen, chunks: ChunkRecorder, *, reference: bool) -> Reading:
        """Load the model if necessary, send the question, and return the reading."""
        installed, loaded, others = seen.installed, seen.loaded, seen.others
        load = None
        if loaded is None:
            load = await load_model(self._client, plan)
            loaded, others = await self._client.find_loaded(plan.model)
        file = await self._find_model_file(plan, installed)
        probed = self._probed_model(plan, loaded, file)
        answer, observation = await self._ask(plan, probed, loaded, chunks, reference=reference)
        figures = evaluate(answer)
        loaded_after, others_after = await self._look_again(plan)
        if load and plan.when_unloaded == "borrow" and is_unused(load, answer, figures, loaded, loaded_after):
            await give_back(self._client, plan, self.target.key(plan))
        return Reading(
            finished_at=time.time(),
            figures=figures,
            gpu=observation,
            installed=installed or InstalledModel(),
            loaded=loaded,
            model_load_seconds=load.seconds if load else None,
            contended=contended_by(observation, figures, others=others_ran(others, others_after)),
            bandwidth_utilization_ratio=bandwidth_utilization_ratio(figures, observation, installed, loaded, file),
            text=answer.text,
        )

    async def probed_model(self, plan: ModelPlan) -> ProbedModel:
        """Return what is known about a model to find the GPU that runs it, without probing it."""
        loaded, _ = await self._client.find_loaded(plan.model)
        installed = await self._client.find_installed(plan.model)
        return self._probed_model(plan, loaded, await self._find_model_file(plan, installed))

    def _probed_model(self, plan: ModelPlan, loaded: LoadedModel | None, file: ModelFile | None) -> ProbedModel:
        return ProbedModel(
            key=self.target.key(plan),
            local=self.target.local,
            configured=self.target.gpu,
            blob=file.blob if file else None,
            size_vram_bytes=loaded.size_vram_bytes if loaded else None,
        )

    async def _find_model_file(self, plan: ModelPlan, installed: InstalledModel | None) -> ModelFile | None:
        """Return the model's file, whose blob identifies the runner's process. None if no GPU here could run it."""
        if not self.target.local or not self._gpus.cards():
            return None
        try:
            return await self._client.model_file(plan.model, installed.digest if installed else "")
        except ProbeError as error:
            log.debug("model file not available", **self.target.key(plan)._asdict(), detail=error.detail)
            return None

    async def _ask(
        self,
        plan: ModelPlan,
        probed: ProbedModel,
        loaded: LoadedModel | None,
        chunks: ChunkRecorder,
        *,
        reference: bool,
    ) -> tuple[Answer, GpuObservation]:
        """Send the question while the GPUs are watched, with the context length that the model is loaded with.

        Any other `num_ctx` makes Ollama reload the model for all of its users (`needsReload` in `server/sched.go`).
        """
        watch = await self._gpus.watch(probed)
        chunks.on_first_chunk = watch.first_token
        num_ctx = loaded.context_length if loaded and loaded.context_length else None
        try:
            answer = await self._chain.ask(plan, num_ctx=num_ctx, chunks=chunks, reference=reference)
        except BaseException:
            watch.abandon()
            raise
        return answer, await watch.finish()

    async def _look_again(self, plan: ModelPlan) -> tuple[LoadedModel | None, tuple[LoadedModel, ...] | None]:
        """Return what is loaded after the answer. The reading is kept if the server no longer answers."""
        await asyncio.sleep(SETTLE_SECONDS)
        try:
            return await self._client.find_loaded(plan.model)
        except ProbeError as error:
            log.debug("no answer after the probe", **self.target.key(plan)._asdict(), detail=error.detail)
            return None, None

    def _with_installed_models(self, error: ProbeError, models: tuple[InstalledModel, ...]) -> ProbeError:
        """Return the error with the names of the installed models in its remedy."""
        names = ", ".join(sorted(model.name for model in models)) or "none"
        shown = self._client.auth.redact(names)[:_INSTALLED_CHARACTERS_MAX]
        return ProbeError(error.reason, error.detail, f"{error.remedy} Installed models: {shown}.")


def _find_installed(
    plan: ModelPlan, models: tuple[InstalledModel, ...], loaded: LoadedModel | None
) -> InstalledModel | None:
    """Return a model's entry in the list of installed models, None if only the list of loaded ones has it.

    Raises `ProbeError` if the model can never be probed: it is neither installed nor loaded, or runs in the cloud.
    """
    name = canonical_model_name(plan.model)
    installed = next((entry for entry in models if canonical_model_name(entry.name) == name), None)
    if is_cloud_model(plan.model) or (installed is not None and installed.cloud):
        raise ProbeError(
            Reason.UNSUPPORTED,
            "the model runs on a cloud service and not on this server",
            "Remove cloud models from the configuration: a probe of them would measure no GPU of this server.",
        )
    if installed is None and loaded is None:
        raise ProbeError(Reason.MODEL_MISSING, "the model is not installed on the server")
    return installed


def bandwidth_utilization_ratio(
    figures: Figures,
    observation: GpuObservation,
    installed: InstalledModel | None,
    loaded: LoadedModel | None,
    file: ModelFile | None,
) -> float | None:
    """Return the share of the GPU's peak memory bandwidth that generating used: rate x model size / peak.

    None unless the model is dense and wholly on the GPU: every token then reads the whole model.
    """
    peak = observation.peak_bandwidth_bytes_per_second
    gpu_ratio = loaded.gpu_ratio if loaded else None
    if not peak or not file or not file.dense or not installed or not installed.size_bytes:
        return None
    if gpu_ratio not in {None, 1.0}:
        return None
    return figures.decode_tokens_per_second * installed.size_bytes / peak
