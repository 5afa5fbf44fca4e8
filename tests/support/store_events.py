"""Random events on a `StateStore`: a base for state machine tests of the store and of what is exposed of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from support.readings import FULL, PLAN, TRUNCATED, failure

from exporter.errors import Reason, SkipReason
from exporter.plan import ModelKey
from exporter.reading import CPU, NUMBER_MAX, UNKNOWN, Figures, GpuObservation, GpuState, Reading, Stages
from exporter.state.store import DiscoveryState, StateStore

KEY = ModelKey("gpu-a", "llama3.1")
KEYS = st.sampled_from([KEY, ModelKey("gpu-b", "llama3.1"), ModelKey("gpu-a", 'mi"st\nral'), ModelKey("gpu-a", "")])
NUMBERS = st.floats(0, 1e9) | st.sampled_from([0, NUMBER_MAX])
MAYBE = st.none() | NUMBERS
READINGS = st.sampled_from([FULL, TRUNCATED]) | st.builds(
    Reading,
    finished_at=st.floats(0, 2e9),
    figures=st.builds(
        Figures,
        words=st.none() | st.integers(0, 10**6),
        elapsed_seconds=st.floats(1e-6, 1e9),
        decode_tokens_per_second=NUMBERS,
        output_tokens=st.none() | st.integers(0, 10**6),
        prompt_tokens=st.none() | st.integers(0, 100),
        time_to_first_token_seconds=NUMBERS,
        stages=st.none() | st.builds(Stages, **dict.fromkeys([one.name for one in fields(Stages)], NUMBERS)),
        truncated=st.booleans(),
        distinct_chunks_ratio=st.floats(0, 1),
    ),
    gpu=st.builds(
        GpuObservation,
        label=st.sampled_from([CPU, UNKNOWN, "NVIDIA H100"]),
        uuids=st.lists(st.sampled_from(["GPU-1", "GPU-2"])).map(tuple),
        state=st.none()
        | st.builds(
            GpuState, energy_joules=st.none() | st.floats(1e-6, 1e9), power_watts=MAYBE, throttled_ratio=st.just({})
        ),
    ),
    installed=st.just(FULL.installed),
    loaded=st.none() | st.just(FULL.loaded),
    model_load_seconds=MAYBE,
    contended=st.dictionaries(st.sampled_from(["queue", "model", "gpu"]), st.booleans()),
    bandwidth_utilization_ratio=st.none() | st.floats(0, 1),
)


class StoreEvents(RuleBasedStateMachine):
    """Any order of events on any model, with readings of any kind and clocks that move."""

    def __init__(self) -> None:
        super().__init__()
        self.wall = 1_700_000_000.0
        self.monotonic = 5_000.0
        self.store = StateStore(clock=lambda: self.wall, monotonic=lambda: self.monotonic)
        self.present: set[ModelKey] = set()
        self.runs: Counter[ModelKey] = Counter()

    @initialize()
    def start(self) -> None:
        """Begin with one model."""
        self.add(KEY)

    @rule(key=KEYS)
    def add(self, key: ModelKey) -> None:
        """Start or reload with the model."""
        self.store.add_model(key, PLAN)
        self.present.add(key)

    @rule(key=KEYS)
    def remove(self, key: ModelKey) -> None:
        """Reload without the model."""
        self.store.remove_model(key)
        self.present.discard(key)
        del self.runs[key]

    @rule(server=st.sampled_from(["gpu-a", "gpu-b"]))
    def remove_target(self, server: str) -> None:
        """Reload without the target."""
        self.store.remove_target(server)
        for key in [key for key in self.present if key.target == server]:
            self.remove(key)

    @rule(key=KEYS, reading=READINGS, seconds=st.floats(0, 1e6))
    def succeed(self, key: ModelKey, reading: Reading, seconds: float) -> None:
        """End a probe with a reading."""
        self.store.probe_succeeded(key, reading, seconds)
        self.runs[key] += key in self.present

    @rule(key=KEYS, reason=st.sampled_from(Reason), seconds=st.floats(0, 1e6))
    def fail(self, key: ModelKey, reason: Reason, seconds: float) -> None:
        """End a probe with a failure."""
        self.store.probe_failed(key, failure(reason), seconds)
        self.runs[key] += key in self.present

    @rule(key=KEYS)
    def cancel(self, key: ModelKey) -> None:
        """Cancel a probe."""
        self.store.probe_cancelled(key)
        self.runs[key] += key in self.present

    @rule(key=KEYS, reason=st.sampled_from(SkipReason), count=st.integers(1, 100))
    def skip(self, key: ModelKey, reason: SkipReason, count: int) -> None:
        """Skip due probes."""
        self.store.probe_skipped(key, reason, count)

    @rule(server=st.sampled_from(["gpu-a", "gpu-b"]), version=st.none() | st.sampled_from(["0.13.0", "0.14.0"]))
    def check(self, server: str, version: str | None) -> None:
        """Check a server."""
        self.store.server_checked(server, version)

    @rule(
        server=st.sampled_from(["gpu-a", "gpu-b"]),
        discovery=st.none() | st.builds(DiscoveryState, success=st.booleans(), ignored_models=st.none() | st.just(3)),
    )
    def discover(self, server: str, discovery: DiscoveryState | None) -> None:
        """Discover a server's models."""
        self.store.discovery_checked(server, discovery)

    @rule(seconds=st.floats(0, 3000), step=st.floats(-1e6, 1e6))
    def wait(self, seconds: float, step: float) -> None:
        """Let time pass, and step the wall clock."""
        self.monotonic += seconds
        self.wall += step
