"""One probe: a pair becomes a `Reading`, or a `ProbeError`, or is skipped."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.errors import ProbeError, Reason, SkipReason
from exporter.gpu.base import GpuMonitor, ProbedModel
from exporter.ollama.chain import ChunkRecorder, ReferenceChain
from exporter.ollama.client import ModelFile, OllamaClient, read_time
from exporter.ollama.error_mapping import map_error, probe_error
from exporter.plan import ModelPlan, TargetPlan, canonical_model_name
from exporter.probing.evaluate import QUEUE_SECONDS, evaluate
from exporter.reading import Answer, ContendedBy, Figures, GpuObservation, InstalledModel, LoadedModel, Reading, Stages

JOINED_LOAD_SECONDS = 0.05
"""A load that took less joined one that somebody else had begun."""
SETTLE_SECONDS = 0.1
"""`/api/ps` read at once after a run was stale 1 time in 15."""
TIMER_TOLERANCE = timedelta(milliseconds=50)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load that the probe itself asked for."""

    seconds: float
    keep_alive: timedelta | None
    """`expires_at` less the load's `created_at`, both by the server's clock."""


class Prober:
    """Probes the models of one target, one at a time."""

    def __init__(self, target: TargetPlan, server: OllamaClient, chain: ReferenceChain, gpus: GpuMonitor) -> None:
        self.target = target
        self._server = server
        self._chain = chain
        self._gpus = gpus

    async def probe(
        self, plan: ModelPlan, *, chunks: ChunkRecorder | None = None, bare: bool = False
    ) -> Reading | SkipReason:
        """Look, load, ask, evaluate and give back. `bare` asks as the reference program does, without options.

        Raises `ProbeError` with every secret redacted; only cancellation passes through.
        """
        try:
            return await self._probe(plan, chunks or ChunkRecorder(), bare=bare)
        except Exception as error:  # the one place where a probe's failure gets its reason
            redact = self._server.auth.redact
            failure = map_error(error, redact)
            detail = redact(failure.detail)
            if failure.reason is Reason.CONNECT:
                detail = f"{self.target.url}: {detail}"
            raise ProbeError(failure.reason, detail, redact(failure.remedy)) from error

    async def _probe(self, plan: ModelPlan, chunks: ChunkRecorder, *, bare: bool) -> Reading | SkipReason:
        await self._server.version()
        others, model = split(await self._server.loaded(), plan.model)
        load = None
        if model is None:
            if plan.when_unloaded == "skip":
                return SkipReason.UNLOADED
            if plan.when_unloaded == "borrow" and others:
                return SkipReason.OCCUPIED
            load, others, model = await self._load(plan)
        installed = await self._installed(plan)
        file = await self._file(plan, installed)
        answer, observation = await self._ask(plan, model, file, chunks, bare=bare)
        figures = evaluate(answer)
        await asyncio.sleep(SETTLE_SECONDS)
        others_after, model_after = await self._look_again(plan)
        if load is not None and plan.when_unloaded == "borrow":
            await self._give_back(plan, load, answer, figures, model_after)
        return read(
            figures,
            answer,
            observation=observation,
            model=model,
            installed=installed,
            file=file,
            load=load,
            others_ran=others_ran(others, others_after),
        )

    async def _load(self, plan: ModelPlan) -> tuple[Load, tuple[LoadedModel, ...], LoadedModel | None]:
        began = time.perf_counter()
        try:
            created_at = await self._server.load(plan.model, plan.keep_alive, plan.load_timeout_seconds)
        except ProbeError as error:
            raise await self._name_installed(error) from error
        seconds = time.perf_counter() - began
        others, model = split(await self._server.loaded(), plan.model)
        expires_at = model.expires_at if model is not None else None
        keep_alive = expires_at - created_at if expires_at is not None and created_at is not None else None
        return Load(seconds=seconds, keep_alive=keep_alive), others, model

    async def _name_installed(self, error: ProbeError) -> ProbeError:
        """Return the error; where a model is missing, its remedy names what is installed."""
        if error.reason is not Reason.MODEL_MISSING:
            return error
        try:
            names = ", ".join(sorted(model.name for model in await self._server.installed())) or "nothing"
        except ProbeError:
            return error
        shown = self._server.auth.redact(names)[:400]
        return probe_error(error.reason, error.detail, f"{error.remedy}; installed there: {shown}")

    async def _installed(self, plan: ModelPlan) -> InstalledModel | None:
        name = canonical_model_name(plan.model)
        return next(
            (model for model in await self._server.installed() if canonical_model_name(model.name) == name), None
        )

    async def _file(self, plan: ModelPlan, installed: InstalledModel | None) -> ModelFile | None:
        """Return the model's file where this machine's cards may run it: its blob tells the runner's process."""
        if not self.target.local or not self._gpus.cards():
            return None
        try:
            return await self._server.file(plan.model, installed.digest if installed else "")
        except ProbeError as error:
            log.debug("no model file", extra={"fields": {"target": self.target.name, "detail": error.detail}})
            return None

    async def subject(self, plan: ModelPlan) -> ProbedModel:
        """Return what is known of a model for matching it with a card, without probing it."""
        _, model = split(await self._server.loaded(), plan.model)
        return self._subject(plan, model, await self._file(plan, await self._installed(plan)))

    def _subject(self, plan: ModelPlan, model: LoadedModel | None, file: ModelFile | None) -> ProbedModel:
        return ProbedModel(
            key=self.target.key(plan),
            local=self.target.local,
            configured=self.target.gpu,
            blob=file.blob if file else None,
            size_bytes=model.size_bytes if model else None,
            size_vram_bytes=model.size_vram_bytes if model else None,
        )

    async def _ask(
        self, plan: ModelPlan, model: LoadedModel | None, file: ModelFile | None, chunks: ChunkRecorder, *, bare: bool
    ) -> tuple[Answer, GpuObservation]:
        watch = await self._gpus.watch(self._subject(plan, model, file))
        chunks.on_first_chunk = watch.first_token
        try:
            answer = await self._chain.ask(
                plan.model,
                plan.workload,
                num_ctx=model.context_length if model and model.context_length else None,
                keep_alive=plan.keep_alive,
                seconds=plan.timeout_seconds,
                chunks=chunks,
                bare=bare,
            )
        except BaseException as error:
            watch.abandon()
            if isinstance(error, Exception):
                raise await self._name_installed(map_error(error, self._server.auth.redact)) from error
            raise
        return answer, await watch.finish()

    async def _look_again(self, plan: ModelPlan) -> tuple[tuple[LoadedModel, ...] | None, LoadedModel | None]:
        """Return what is loaded now. A server that died just after the answer does not spoil the reading."""
        try:
            return split(await self._server.loaded(), plan.model)
        except ProbeError as error:
            log.debug("no second look", extra={"fields": {"target": self.target.name, "detail": error.detail}})
            return None, None

    async def _give_back(
        self, plan: ModelPlan, load: Load, answer: Answer, figures: Figures, model: LoadedModel | None
    ) -> None:
        created_at = read_time(answer.final.get("created_at")) if answer.final else None
        if not nobody_else_seen(load, created_at, figures.stages, model):
            return
        try:
            await self._server.unload(plan.model)
        except ProbeError as error:
            log.warning(
                "could not give the model back; its own timer will",
                extra={"fields": {"target": self.target.name, "model": plan.model, "detail": error.detail}},
            )


def split(loaded: tuple[LoadedModel, ...], model: str) -> tuple[tuple[LoadedModel, ...], LoadedModel | None]:
    """Return the other loaded models, and this one or None."""
    name = canonical_model_name(model)
    others = tuple(entry for entry in loaded if canonical_model_name(entry.name) != name)
    return others, next((entry for entry in loaded if canonical_model_name(entry.name) == name), None)


def others_ran(before: tuple[LoadedModel, ...], after: tuple[LoadedModel, ...] | None) -> bool | None:
    """Return whether another model ran meanwhile, by `/api/ps`; None where that cannot be known.

    A model's `expires_at` moves when a request ends, not while it runs: unmoved tells nothing.
    """
    if after is None:
        return None
    known = {entry.name: entry.expires_at for entry in before}
    if any(entry.name not in known or known[entry.name] != entry.expires_at for entry in after):
        return True
    return None if after or before else False


def nobody_else_seen(
    load: Load, final_created_at: datetime | None, stages: Stages | None, model: LoadedModel | None
) -> bool:
    """Return whether a borrowed model can be unloaded without harm to anybody whom the API shows.

    A request that is queued or has run since ours shifts `expires_at`; one that ran before ours shows as queue time.
    """
    if load.seconds <= JOINED_LOAD_SECONDS or load.keep_alive is None:
        return False
    if final_created_at is None or stages is None or model is None or model.expires_at is None:
        return False
    shift = model.expires_at - final_created_at - load.keep_alive
    return abs(shift) <= TIMER_TOLERANCE and stages.queue_seconds < QUEUE_SECONDS


def read(
    figures: Figures,
    answer: Answer,
    *,
    observation: GpuObservation,
    model: LoadedModel | None,
    installed: InstalledModel | None,
    file: ModelFile | None,
    load: Load | None,
    others_ran: bool | None,
) -> Reading:
    """Return the reading: the figures, with what was seen of the model, the server and the GPU."""
    contended: dict[ContendedBy, bool] = dict(observation.contended)
    if others_ran is not None and not contended.get("model"):
        contended["model"] = others_ran
    if figures.stages is not None:
        contended["queue"] = figures.stages.queue_seconds > QUEUE_SECONDS
    gpu_ratio = model.gpu_ratio if model else None
    peak = observation.peak_bandwidth_bytes_per_second
    bandwidth = None
    if peak and file and file.dense and installed and installed.size_bytes and gpu_ratio in {None, 1.0}:
        bandwidth = figures.decode_tokens_per_second * installed.size_bytes / peak
    return Reading(
        finished_at=time.time(),
        figures=figures,
        gpu=observation,
        installed=installed or InstalledModel(),
        loaded=model,
        model_load_seconds=load.seconds if load else None,
        contended=contended,
        bandwidth_utilization_ratio=bandwidth,
        text=answer.text,
    )
