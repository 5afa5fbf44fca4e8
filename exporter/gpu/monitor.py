"""NVIDIA's cards: samples them while probes run, and tells of each probe who ran the model and how the card fared."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from exporter.gpu.attribution import Attribution, attribute
from exporter.gpu.base import Card, Explanation, ProbedModel, Watch
from exporter.gpu.contention import contention
from exporter.gpu.evidence import CardEvidence, Evidence, state
from exporter.gpu.labels import Choice, Labels, choose
from exporter.gpu.none import ClaimWatch, claim
from exporter.gpu.nvidia import NoDriverError, Nvml
from exporter.gpu.processes import Processes
from exporter.gpu.recording import Clock, Recording
from exporter.gpu.worker import Worker
from exporter.plan import ModelKey
from exporter.reading import GpuObservation

OPEN_SECONDS = 10.0
"""How long the driver may take to wake its cards: seconds, where persistence mode is off."""
SAMPLE_SECONDS = 0.25


async def open_nvidia(
    log: logging.Logger,
    load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
    *,
    processes: Processes | None = None,
    clock: Clock | None = None,
    sample_seconds: float = SAMPLE_SECONDS,
) -> NvidiaMonitor:
    """Return NVIDIA's cards. `load` returns the object with NVML's function names.

    Raises NoDriverError, whose message says what is missing.
    """
    worker = Worker(log)
    try:
        opening = asyncio.wrap_future(worker.submit(lambda: Nvml(load())))
        nvml = await asyncio.wait_for(opening, OPEN_SECONDS)
    except BaseException as error:
        worker.close()
        if isinstance(error, TimeoutError):
            raise NoDriverError(f"NVML: the driver did not answer within {OPEN_SECONDS:g} s") from error
        if isinstance(error, Exception) and not isinstance(error, NoDriverError):
            raise NoDriverError(f"NVML: {error}") from error
        raise
    for fixed in nvml.fixed:
        card = fixed.card
        log.info("found card %d: %s, %s, driver %s", card.index, card.name, card.uuid, card.driver_version)
    return NvidiaMonitor(
        nvml=nvml,
        worker=worker,
        log=log,
        processes=processes or Processes(),
        clock=clock or Clock(),
        sample_seconds=sample_seconds,
    )


class NvidiaMonitor:
    """The room of NVIDIA's cards. It asks the driver nothing while no probe runs."""

    def __init__(
        self,
        *,
        nvml: Nvml,
        worker: Worker,
        log: logging.Logger,
        processes: Processes,
        clock: Clock,
        sample_seconds: float,
    ) -> None:
        self._nvml = nvml
        self._worker = worker
        self._log = log
        self._processes = processes
        self._clock = clock
        self._sample_seconds = sample_seconds
        self._labels = Labels()
        self._told: dict[ModelKey, str] = {}
        self._recordings: set[Recording] = set()
        self._sampling: asyncio.Task[None] | None = None

    def cards(self) -> tuple[Card, ...]:
        """Return the cards found at start."""
        return tuple(fixed.card for fixed in self._nvml.fixed)

    async def watch(self, subject: ProbedModel) -> Watch:
        """Begin to watch; a server elsewhere has no card here."""
        if not subject.local:
            return ClaimWatch(subject)
        recording = await self._worker.ask(lambda: self._record(subject))
        if recording is not None:
            self._recordings.add(recording)
            if self._sampling is None or self._sampling.done():
                self._sampling = asyncio.create_task(self._sample())
        return NvidiaWatch(self, subject, recording)

    async def explain(self, subject: ProbedModel) -> Explanation:
        """Return how the label would be chosen by what is on the cards now."""
        if not subject.local:
            return claim(subject)
        evidence = await self._worker.ask(lambda: self._record(subject).end())
        verdict = attribute(evidence, subject) if evidence else UNANSWERED
        choice = self._choose(verdict, subject)
        return Explanation(label=choice.label, reason=choice.reason)

    def forget(self, key: ModelKey) -> None:
        """Drop what was observed of a key."""
        self._labels.forget(key)
        self._told.pop(key, None)

    async def close(self) -> None:
        """End the sampling and let the driver go."""
        self._recordings.clear()
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        await self._worker.ask(self._nvml.close)
        self._worker.close()

    def first_token(self, recording: Recording) -> None:
        """Have the state begin, as soon as the thread is free."""
        self._worker.tell(recording.first_token)

    async def sample(self) -> bool:
        """Sample every card once for all watches; False where the driver does not answer."""
        return await self._worker.ask(partial(self._sample_once, tuple(self._recordings))) is not None

    def drop(self, recording: Recording) -> None:
        """Sample no more for a recording."""
        self._recordings.discard(recording)

    async def end(self, recording: Recording) -> Evidence | None:
        """End a recording and return what was seen; None where the driver does not answer."""
        self.drop(recording)
        return await self._worker.ask(recording.end)

    def observe(self, subject: ProbedModel, evidence: Evidence | None) -> GpuObservation:
        """Return what the evidence of a probe says, in the light of the probes before."""
        verdict = attribute(evidence, subject) if evidence else UNANSWERED
        choice = self._choose(self._labels.settle(subject.key, verdict), subject)
        if self._told.get(subject.key) != choice.label:
            self._told[subject.key] = choice.label
            self._log.info(
                "gpu of %s on %s: %s (%s)", subject.key.model, subject.key.target, choice.label, choice.reason
            )
        uuids = tuple(self._nvml.fixed[number].card.uuid for number in choice.cards)
        if evidence is None:
            return GpuObservation(label=choice.label, uuids=uuids)
        cards = [evidence.cards[number] for number in choice.cards]
        return GpuObservation(
            label=choice.label,
            uuids=uuids,
            state=state(cards),
            contended=contention(evidence, cards, verdict.runner),
            peak_bandwidth_bytes_per_second=peak_bandwidth(cards),
        )

    def _choose(self, verdict: Attribution, subject: ProbedModel) -> Choice:
        fixed = self._nvml.fixed
        return choose(verdict, subject, [one.card.name for one in fixed], mig=any(one.mig for one in fixed))

    def _record(self, subject: ProbedModel) -> Recording:
        return Recording(self._nvml, self._processes, self._clock, subject.blob)

    async def _sample(self) -> None:
        while self._recordings:
            await asyncio.sleep(self._sample_seconds)
            if not await self.sample():
                return

    def _sample_once(self, recordings: Sequence[Recording]) -> bool:
        samples = [self._nvml.sample(number, self._clock.monotonic()) for number in range(len(self._nvml.fixed))]
        for recording in recordings:
            recording.add(samples)
        return True


class NvidiaWatch:
    """One probe being watched; without a recording where the driver did not answer in time."""

    def __init__(self, gpus: NvidiaMonitor, subject: ProbedModel, recording: Recording | None) -> None:
        self._gpus = gpus
        self._subject = subject
        self._recording = recording

    def first_token(self) -> None:
        """Begin the state."""
        if self._recording is not None:
            self._gpus.first_token(self._recording)

    async def finish(self) -> GpuObservation:
        """Return what was seen, at worst the label alone."""
        if self._recording is None:
            return self._gpus.observe(self._subject, None)
        return self._gpus.observe(self._subject, await self._gpus.end(self._recording))

    def abandon(self) -> None:
        """Forget what was recorded."""
        if self._recording is not None:
            self._gpus.drop(self._recording)


UNANSWERED = Attribution(cards=None, reason="the driver did not answer")


def peak_bandwidth(cards: Sequence[CardEvidence]) -> float | None:
    """Return the peak bandwidth of one card of the model's, None unless they are of one kind.

    One card's also where the model spans several: Ollama splits by layers, and a token passes one card after the other.
    """
    kinds = {(card.name, card.peak_bandwidth_bytes_per_second) for card in cards}
    return kinds.pop()[1] if len(kinds) == 1 else None
