"""Whether other work shared the GPU or the queue during a probe, as far as the server shows it."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.reading import ContendedBy, Figures, GpuObservation, LoadedModel

QUEUE_SECONDS = 0.25
"""A longer wait means that another request held the runner's slot.

Measured on Ollama 0.24 and 0.33: `total - load - prompt_eval - eval` is 2-6 ms on an idle server and 50 ms in the first
two requests after a load, but 0.44 s and more behind another request.
"""


def others_ran(before: tuple[LoadedModel, ...], after: tuple[LoadedModel, ...] | None) -> bool | None:
    """Return whether another model ran between two answers of `/api/ps`, None if that cannot be known.

    A model's `expires_at` moves when a request ends and not while it runs, so an unmoved one proves nothing. `after` is
    None if there was no answer.
    """
    if after is None:
        return None
    known = {entry.name: entry.expires_at for entry in before}
    if any(entry.name not in known or known[entry.name] != entry.expires_at for entry in after):
        return True
    return None if after or before else False


def contended_by(observation: GpuObservation, figures: Figures, *, others: bool | None) -> Mapping[ContendedBy, bool]:
    """Return each kind of contention that could be determined. `others` is what `others_ran` returned."""
    contended: dict[ContendedBy, bool] = dict(observation.contended)
    if others is not None and not contended.get("model"):
        contended["model"] = others
    if figures.stages is not None:
        contended["queue"] = figures.stages.queue_seconds > QUEUE_SECONDS
    return contended
