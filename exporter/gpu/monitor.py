"""Observes the GPUs of this machine while probes run: which of them ran the model, their state, and contention."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from exporter.gpu.attribution import UNREADABLE, attribute
from exporter.gpu.base import Card, CardReader, GpuReader, ProbedModel
from exporter.gpu.contention import contention
from exporter.gpu.evidence import CardEvidence, Evidence, gpu_state
from exporter.gpu.labels import AttributionHistory, LabelChoice, choose_label, reported_label
from exporter.gpu.processes import Processes
from exporter.gpu.recording import Clock, Recording
from exporter.gpu.worker import Worker
from exporter.logs import get_logger
from exporter.plan import ModelKey
from exporter.reading import GpuObservation

SAMPLE_SECONDS = 0.25

log = get_logger(__name__)


class GpuMonitor:
    """The GPUs of this machine, of any vendor. It reads them only while a probe of a local server runs.

    Without readers, and for servers on other machines, it only has the configured label and what the server reports.
    """

    def __init__(
        self,
        readers: Sequence[GpuReader] = (),
        *,
        processes: Processes | None = None,
        clock: Clock | None = None,
        sample_seconds: float = SAMPLE_SECONDS,
    ) -> None:
        self._readers = readers
        self._cards = number_cards(readers)
        self._worker = Worker()
        self._processes = processes or Processes()
        self._clock = clock or Clock()
        self._sample_seconds = sample_seconds
        self._history = AttributionHistory()
        self._logged_labels: dict[ModelKey, str] = {}
        self._recordings: set[Recording] = set()
        self._sampling: asyncio.Task[None] | None = None

    def cards(self) -> tuple[Card, ...]:
        """Return the GPUs that can be read."""
        return tuple(self._cards)

    async def watch(self, model: ProbedModel) -> GpuWatch:
        """Start to observe the GPUs, just before the request is sent."""
        recording = None
        if self._readable(model):
            recording = await self._worker.ask(lambda: self._record(model))
        if recording is not None:
            self._recordings.add(recording)
            if self._sampling is None or self._sampling.done():
                self._sampling = asyncio.create_task(self._keep_sampling(), name="GPU sampling")
        return GpuWatch(self, model, recording)

    async def explain(self, model: ProbedModel) -> LabelChoice:
        """Return the label that a model would get now, and why, without a probe."""
        if not self._readable(model):
            return reported_label(model)
        evidence = await self._worker.ask(lambda: self._record(model).end())
        return choose_label(attribute(evidence, model) if evidence else UNREADABLE, model, self.cards())

    def forget(self, key: ModelKey) -> None:
        """Drop what is stored of a model that left the configuration."""
        self._history.forget(key)
        self._logged_labels.pop(key, None)

    async def close(self) -> None:
        """Stop sampling and release the vendors' libraries."""
        self._recordings.clear()
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        for reader in self._readers:
            await self._worker.ask(reader.close)
        self._worker.close()

    def first_token(self, recording: Recording) -> None:
        """Begin the time for which the state is reported, as soon as the worker is free."""
        self._worker.post(recording.first_token)

    async def sample(self) -> bool:
        """Sample every GPU once for all recordings; return whether the GPU libraries answered."""
        return await self._worker.ask(lambda: self._sample(tuple(self._recordings))) is not None

    def drop(self, recording: Recording) -> None:
        """Take no more samples for a recording."""
        self._recordings.discard(recording)

    async def end(self, recording: Recording) -> Evidence | None:
        """End a recording and return what was observed; None if a GPU library does not answer."""
        self.drop(recording)
        return await self._worker.ask(recording.end)

    def observe(self, model: ProbedModel, evidence: Evidence | None) -> GpuObservation:
        """Return what one probe showed, given the previous ones. `evidence` is None if no GPU library answered."""
        if not self._readable(model):
            return GpuObservation(label=reported_label(model).label)
        attribution = attribute(evidence, model) if evidence else UNREADABLE
        choice = choose_label(self._history.update(model.key, attribution), model, self.cards())
        self._log_change(model.key, choice)
        uuids = tuple(card.uuid for card in choice.cards)
        if evidence is None:
            return GpuObservation(label=choice.label, uuids=uuids)
        cards = [card for card in evidence.cards if card.card in choice.cards]
        return GpuObservation(
            label=choice.label,
            uuids=uuids,
            state=gpu_state(cards),
            contended=contention(evidence, cards, attribution.runner),
            peak_bandwidth_bytes_per_second=peak_bandwidth(cards),
        )

    def _readable(self, model: ProbedModel) -> bool:
        return bool(self._cards) and model.local

    def _log_change(self, key: ModelKey, choice: LabelChoice) -> None:
        if self._logged_labels.get(key) != choice.label:
            self._logged_labels[key] = choice.label
            log.info("gpu label set", target=key.target, model=key.model, gpu=choice.label, reason=choice.reason)

    def _record(self, model: ProbedModel) -> Recording:
        return Recording(self._cards, self._processes, self._clock, model.blob)

    async def _keep_sampling(self) -> None:
        while self._recordings:
            await asyncio.sleep(self._sample_seconds)
            if not await self.sample():
                return

    def _sample(self, recordings: Iterable[Recording]) -> bool:
        samples = {card: reader.sample(self._clock.monotonic()) for card, reader in self._cards.items()}
        for recording in recordings:
            recording.add(samples)
        return True


class GpuWatch:
    """The observation of one probe. Its methods are called on the event loop, and only `finish` waits."""

    def __init__(self, monitor: GpuMonitor, model: ProbedModel, recording: Recording | None) -> None:
        """Create the watch; without a recording if there is nothing to read, or a GPU library did not answer."""
        self._monitor = monitor
        self._model = model
        self._recording = recording

    def first_token(self) -> None:
        """Begin the time for which the state is reported: the first text has just arrived."""
        if self._recording is not None:
            self._monitor.first_token(self._recording)

    async def finish(self) -> GpuObservation:
        """End the observation at the last token and return it. Never raises for what a GPU does not report."""
        evidence = await self._monitor.end(self._recording) if self._recording is not None else None
        return self._monitor.observe(self._model, evidence)

    def abandon(self) -> None:
        """End the observation of a probe that failed or was cancelled."""
        if self._recording is not None:
            self._monitor.drop(self._recording)


def number_cards(readers: Iterable[GpuReader]) -> Mapping[Card, CardReader]:
    """Return all GPUs with their readers. Each vendor counts from 0, so the indexes of further vendors are shifted."""
    cards: dict[Card, CardReader] = {}
    for reader in readers:
        first = max((card.index + 1 for card in cards), default=0)
        cards |= {replace(each.card, index=first + each.card.index): each for each in reader.cards}
    return cards


def peak_bandwidth(cards: Sequence[CardEvidence]) -> float | None:
    """Return the peak bandwidth of one of a model's GPUs, None unless they are all of one kind.

    It is the bandwidth of a single GPU even for a model on several: Ollama splits a model by layers, so that for each
    token the GPUs work one after another.
    """
    kinds = {(card.card.name, card.card.peak_bandwidth_bytes_per_second) for card in cards}
    return kinds.pop()[1] if len(kinds) == 1 else None
