"""Which GPU ran a model, and how it fared meanwhile: the seam between a probe and a vendor's library.

A second vendor fits in as another `Gpus`, chosen in `open_gpus`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from exporter.plan import Pair
from exporter.reading import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card of this machine."""

    uuid: str
    name: str
    index: int
    pci_bus_id: str
    vendor: str
    driver_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is known of a model that is about to be probed."""

    pair: Pair
    local: bool
    """Whether its server runs on this machine."""
    configured: str | None
    """The operator's name for the card."""
    blob: str | None
    """Hex digest of the model's file, from the `FROM` line of `/api/show`; the runner's command line holds it."""
    size_bytes: int | None
    size_vram_bytes: int | None
    """What `/api/ps` claims; it can be wrong."""


class Watch(Protocol):
    """One probe being watched. Its methods are called on the event loop and return at once, but for `finish`."""

    def first_token(self) -> None:
        """Say that the first text has just arrived: the state to report begins here."""

    async def finish(self) -> Observation:
        """End the watch at the last token and return what was seen. Never raises for what a card cannot tell."""

    def abandon(self) -> None:
        """End the watch of a probe that failed or was cancelled."""


class Gpus(Protocol):
    """The cards of this machine."""

    def cards(self) -> tuple[Card, ...]:
        """Return the cards found at start."""

    async def watch(self, subject: Subject) -> Watch:
        """Begin to watch, just before the request is sent."""

    def forget(self, pair: Pair) -> None:
        """Drop what is remembered of a pair that left the configuration."""

    async def close(self) -> None:
        """Release the vendor's library."""
