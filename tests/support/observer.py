"""What an attack costs the daemon: the longest time without an answer of `/metrics`, and the memory used."""

from __future__ import annotations

import http.client
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Self

import psutil

PAUSE_SECONDS = 0.02
MEMORY_LIMIT_MB = 1000
"""The daemon is killed when it takes more."""


@dataclass
class Observer:
    """Scrapes a daemon from a thread, all the time, as a context manager."""

    pid: int
    url: str
    longest_gap_seconds: float = 0
    """Longest time from one complete answer of `/metrics` to the next, once the daemon is ready."""
    resident_mb: float = 0
    """Highest resident memory."""
    killed: bool = False
    page: str = ""
    """The last answer."""
    elapsed_seconds: list[float] = field(default_factory=list)
    """Of the target `healthy`, at each scrape."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Create the threads: memory is watched also while an answer is awaited."""
        self._threads = [threading.Thread(target=work) for work in (self._scrape, self._watch_memory)]

    def __enter__(self) -> Self:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def samples(self, name: str, **labels: str) -> dict[str, float]:
        """Return a metric's samples with these labels from the last answer, by the text of their labels."""
        found = re.findall(rf"^ollama_probe_{name}(?:\{{(.*)\}})? (\S+)$", self.page, re.MULTILINE)
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return {text: float(value) for text, value in found if all(label in text for label in wanted)}

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels in the last answer."""
        return sum(self.samples(name, **labels).values())

    def reasons(self, target: str) -> set[str]:
        """Return the reasons of a target's failures."""
        failures = self.samples("failures_total", target=target)
        return {found[1] for text, value in failures.items() if value and (found := re.search('reason="(.*?)"', text))}

    def _scrape(self) -> None:
        host = self.url.removeprefix("http://")
        path = "/-/ready"
        answered_at = time.monotonic()
        while not self._ended.wait(PAUSE_SECONDS):
            connection = http.client.HTTPConnection(host, timeout=30)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                page = answer.read().decode()
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()
            if answer.status != http.client.OK:
                continue
            now = time.monotonic()
            if path == "/metrics":
                self.longest_gap_seconds = max(self.longest_gap_seconds, now - answered_at)
                self.page = page
                self.elapsed_seconds += self.samples("elapsed_seconds", target="healthy").values()
            path, answered_at = "/metrics", now
        if not self.killed:
            self.longest_gap_seconds = max(self.longest_gap_seconds, time.monotonic() - answered_at)

    def _watch_memory(self) -> None:
        try:
            process = psutil.Process(self.pid)
            while not self._ended.wait(PAUSE_SECONDS):
                self.resident_mb = max(self.resident_mb, process.memory_info().rss / 1e6)
                if self.resident_mb > MEMORY_LIMIT_MB:
                    self.killed = True
                    process.kill()
                    return
        except psutil.NoSuchProcess:
            return
