"""What is told of each pair after any order of events, and when a reading is withdrawn."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.readings import CARD, FULL, PLAN, TRUNCATED, WORKLOAD

from exporter.errors import Reason
from exporter.metrics.exposition import Format, render
from exporter.metrics.families import READINGS, STATUS, ProbeMetrics, metrics_table, runtime_collectors
from exporter.plan import ModelKey
from exporter.reading import GpuState, Reading, SkipReason, Stages, ThrottleReason
from exporter.state.model_state import BUCKETS_SECONDS

A = ModelKey("gpu-a", "llama3.1")
B = ModelKey("gpu-b", "llama3.1")
AGE_LIMIT = 2 * PLAN.interval_seconds + PLAN.timeout_seconds


@dataclass
class World:
    """Metrics with clocks that a test moves, and short ways to ask them."""

    wall: float = 1_700_000_000.0
    monotonic: float = 5_000.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.metrics = ProbeMetrics(
            self.registry, clock=lambda: self.wall, monotonic=lambda: self.monotonic, collectors=()
        )

    def value(self, name: str, pair: ModelKey = A, **labels: str) -> float | None:
        """Return a sample's value, or None if there is no such sample."""
        return self.registry.get_sample_value(f"ollama_probe_{name}", {**pair._asdict(), **labels})

    def values(self, name: str) -> list[float]:
        """Return the values of all samples of that name, whatever their labels."""
        found = [sample for metric in self.registry.collect() for sample in metric.samples]
        return [sample.value for sample in found if sample.name == f"ollama_probe_{name}"]

    def shown(self) -> set[str]:
        """Return the names of the reading families that have samples."""
        names = {family.name for family in READINGS}
        return {metric.name for metric in self.registry.collect()} & names


@pytest.fixture
def world() -> World:
    """Return a world with one pair that was never run."""
    world = World()
    world.metrics.add_pair(A, PLAN)
    return world


def test_before_the_first_run(world: World) -> None:
    """Every counter is at 0 for every reason; what only a run can tell is absent; the configuration is told."""
    assert world.shown() == set()
    for name in ("success", "last_run_timestamp_seconds", "last_success_timestamp_seconds", "model_info"):
        assert world.values(name) == []
    for name in ("runs", "successes", "cancelled", "generated_tokens", "decode_seconds", "gpu_consumed_joules"):
        assert world.value(f"{name}_total") == 0.0
    assert [world.value("failures_total", reason=reason) for reason in Reason] == [0.0] * len(Reason)
    assert [world.value("skipped_total", reason=reason) for reason in SkipReason] == [0.0] * len(SkipReason)
    assert world.value("run_duration_seconds_count") == 0.0
    assert world.value("interval_seconds") == 900.0
    assert world.value("timeout_seconds") == 120.0
    assert world.value("expected_decode_tokens_per_second") == 100.0
    assert world.value("workload_info", hash=WORKLOAD.hash) == 1.0


def test_full_reading(world: World) -> None:
    """A full reading fills every family of readings, and the sums."""
    world.metrics.succeeded(A, FULL, 6.5)

    assert world.shown() == {family.name for family in READINGS}
    gpu = FULL.gpu
    assert world.value("tokens_per_second", gpu=gpu) == 187 / 2.75
    assert world.value("stage_seconds", gpu=gpu, stage="prefill") == 0.0625
    assert world.value("contended", gpu=gpu, by="gpu") == 1.0
    assert world.value("gpu_throttled_ratio", gpu=gpu, reason="sw_power_cap") == 0.25
    assert world.value("tokens_per_joule", gpu=gpu) == 256 / 800
    assert world.value("model_gpu_info", uuid=FULL.uuids[0]) == 1.0
    assert world.value("generated_tokens_total") == 256.0
    assert world.value("decode_seconds_total") == 2.5
    assert world.value("gpu_consumed_joules_total") == 800.0
    assert world.value("success") == 1.0
    assert world.value("last_run_timestamp_seconds") == FULL.finished_at
    assert world.value("last_success_timestamp_seconds") == FULL.finished_at


def test_truncated_reading(world: World) -> None:
    """A truncated reading is a success that adds nothing to the sums; what it cannot know is absent."""
    world.metrics.succeeded(A, replace(TRUNCATED, gpu_state=FULL.gpu_state, words=None), 120.0)

    assert world.value("truncated", gpu="cpu") == 1.0
    assert world.value("successes_total") == world.value("success") == 1.0
    absent = {"output_tokens", "stage_seconds", "tokens_per_joule", "token_count", "tokens_per_second"}
    assert {f"ollama_probe_{name}" for name in absent} & world.shown() == set()
    for name in ("generated_tokens_total", "decode_seconds_total", "gpu_consumed_joules_total"):
        assert world.value(name) == 0.0


def test_failure_withdraws_and_the_next_good_probe_brings_back(world: World) -> None:
    """A dead server must not look fast: its readings go at once, its status and what is known of its model stay."""
    world.metrics.succeeded(A, FULL, 6.5)
    world.wall += 900
    world.metrics.failed(A, Reason.CONNECT, 0.25)

    assert world.shown() == set()
    assert world.value("success") == 0.0
    assert world.value("failures_total", reason="connect") == 1.0
    assert world.value("last_run_timestamp_seconds") == world.wall
    assert world.value("last_success_timestamp_seconds") == FULL.finished_at
    assert world.values("model_info") == [1.0]
    [row] = world.metrics.rows()
    assert (row.reading, row.success, row.failure, row.gpu) == (None, False, Reason.CONNECT, FULL.gpu)

    world.metrics.succeeded(A, FULL, 6.5)
    assert world.shown() == {family.name for family in READINGS}
    [row] = world.metrics.rows()
    assert (row.reading, row.success, row.failure) == (FULL, True, None)


def test_age_withdraws(world: World) -> None:
    """A reading is told until 2 x interval + timeout after it was taken, not a moment longer; then a new one is."""
    world.metrics.succeeded(A, FULL, 6.5)

    world.monotonic += AGE_LIMIT
    assert world.shown()
    assert world.metrics.rows()[0].age_seconds == AGE_LIMIT
    world.monotonic += 0.001
    assert world.shown() == set()
    assert world.value("success") == 1.0
    assert world.metrics.rows()[0].reading is None

    world.metrics.succeeded(A, FULL, 6.5)
    assert world.shown()


@pytest.mark.parametrize("step", [-3600.0, 86400.0 * 365])
def test_wall_clock_steps_change_nothing(world: World, step: float) -> None:
    """A wall clock that jumps neither withdraws a fresh reading nor revives an old one."""
    world.metrics.succeeded(A, FULL, 6.5)
    world.wall += step
    assert world.shown()

    world.monotonic += AGE_LIMIT + 1
    assert world.shown() == set()
    world.wall = FULL.finished_at
    assert world.shown() == set()


@pytest.mark.parametrize("reason", SkipReason)
def test_skip_leaves_reading_and_verdict(world: World, reason: SkipReason) -> None:
    """A skip withdraws nothing and freshens nothing; only those that looked count as the time of the last run."""
    world.metrics.succeeded(A, FULL, 6.5)
    world.monotonic += AGE_LIMIT
    world.wall += 900

    world.metrics.skipped(A, reason, 3)

    assert world.shown()
    assert world.value("success") == 1.0
    assert world.value("skipped_total", reason=reason) == 3.0
    assert world.value("runs_total") == 1.0
    looked = reason in {"unloaded", "occupied"}
    assert world.value("last_run_timestamp_seconds") == (world.wall if looked else FULL.finished_at)
    assert world.metrics.rows()[0].skip == (reason if looked else None)
    world.monotonic += 1
    assert world.shown() == set()


def test_cancelled_is_no_verdict(world: World) -> None:
    """A run that shutdown or reload ended counts as a run and changes nothing else."""
    world.metrics.succeeded(A, FULL, 6.5)
    world.metrics.cancelled(A)

    assert world.shown()
    assert world.value("runs_total") == 2.0
    assert world.value("cancelled_total") == 1.0
    assert world.value("run_duration_seconds_count") == 1.0
    assert world.value("last_run_timestamp_seconds") == FULL.finished_at


def test_reload_keeps_counters_and_takes_the_new_plan(world: World) -> None:
    """A pair that is added again keeps counters and reading; age is judged by the new interval."""
    world.metrics.succeeded(A, FULL, 6.5)
    world.metrics.add_pair(A, replace(PLAN, interval_seconds=60.0, expected_decode_tokens_per_second=None))

    assert world.value("runs_total") == 1.0
    assert world.value("interval_seconds") == 60.0
    assert world.value("expected_decode_tokens_per_second") is None
    assert world.shown()
    world.monotonic += 2 * 60 + PLAN.timeout_seconds + 1
    assert world.shown() == set()


def test_another_workload_withdraws_the_reading(world: World) -> None:
    """Rates compare within one workload only: a reading is never told under the hash of another."""
    world.metrics.succeeded(A, FULL, 6.5)
    other = replace(WORKLOAD, num_predict=64)
    world.metrics.add_pair(A, replace(PLAN, workload=other))

    assert world.shown() == set()
    assert world.value("workload_info", hash=other.hash) == 1.0
    assert world.value("workload_info", hash=WORKLOAD.hash) is None
    assert world.value("successes_total") == 1.0


def test_changed_gpu_leaves_no_series_behind(world: World) -> None:
    """When a model falls to the CPU, its readings are told under the new label alone."""
    world.metrics.succeeded(A, FULL, 6.5)
    world.metrics.succeeded(A, replace(FULL, gpu="cpu"), 6.5)

    assert world.values("decode_tokens_per_second") == [FULL.decode_tokens_per_second]
    assert world.value("decode_tokens_per_second", gpu="cpu") == FULL.decode_tokens_per_second


def test_pair_that_left(world: World) -> None:
    """All series of a pair go with it, late events of it are dropped, and it starts at 0 when it comes back."""
    world.metrics.add_pair(B, PLAN)
    for pair in (A, B):
        world.metrics.succeeded(pair, FULL, 6.5)
    world.metrics.remove_pair(A)
    world.metrics.remove_pair(A)
    world.metrics.succeeded(A, FULL, 6.5)
    world.metrics.failed(A, Reason.HTTP, 6.5)
    world.metrics.cancelled(A)
    world.metrics.skipped(A, SkipReason.LATE)

    assert b'target="gpu-a"' not in render(world.registry, Format.TEXT)
    assert [row.pair for row in world.metrics.rows()] == [B]
    world.metrics.add_pair(A, PLAN)
    assert world.value("runs_total") == 0.0
    assert world.value("runs_total", B) == 1.0


def test_server_up_and_down(world: World) -> None:
    """`up` follows the newest answer, the version is told while it is known, and both leave with the target."""
    assert world.values("up") == []
    for version, up, known in (("0.13.0", 1.0, ["0.13.0"]), (None, 0.0, []), ("0.14.0", 1.0, ["0.14.0"])):
        world.metrics.server_answered("gpu-a", version)
        assert world.values("up") == [up]
        found = [metric for metric in world.registry.collect() if metric.name == "ollama_probe_server"]
        assert [sample.labels["version"] for metric in found for sample in metric.samples] == known

    world.metrics.add_pair(B, PLAN)
    world.metrics.server_answered("gpu-b", None)
    world.metrics.remove_target("gpu-a")
    assert world.values("up") == [0.0]
    assert [row.pair for row in world.metrics.rows()] == [B]


def test_cards(world: World) -> None:
    """Each card of this machine is told once, as it was set last."""
    world.metrics.set_cards((CARD, replace(CARD, uuid="GPU-2", index=1)))
    world.metrics.set_cards((CARD,))

    labels = {"gpu": CARD.name, "index": "0", "uuid": CARD.uuid, "vendor": "NVIDIA"}
    labels |= {"pci_bus_id": CARD.pci_bus_id, "driver_version": CARD.driver_version}
    assert world.registry.get_sample_value("ollama_probe_gpu_info", labels) == 1.0
    assert world.values("gpu_info") == [1.0]


def test_a_card_named_twice_is_told_once(world: World) -> None:
    """Two runners of one model on one card do not make a duplicate series."""
    world.metrics.succeeded(A, replace(FULL, uuids=("GPU-1", "GPU-1")), 6.5)

    assert world.values("model_gpu_info") == [1.0]


def test_run_durations(world: World) -> None:
    """The histogram counts a run in every bucket whose bound it does not pass."""
    for seconds in (0.0, 1.0, 1.5, 600.0, 601.0):
        world.metrics.failed(A, Reason.TIMEOUT, seconds)

    bounds = [f"{bound:.1f}" for bound in BUCKETS_SECONDS] + ["+Inf"]
    counts = [world.value("run_duration_seconds_bucket", le=bound) for bound in bounds]
    assert counts == [2.0, *[3.0] * 8, 4.0, 5.0]
    assert world.value("run_duration_seconds_count") == 5.0
    assert world.value("run_duration_seconds_sum") == 1203.5


ABSURD: list[Any] = [math.nan, math.inf, -math.inf, -1, -1e-9, 10**400]


UNTOLD = {"truncated", "prompt_tokens"}
NUMBERS_OF_READING = [
    one.name for one in fields(Reading) if isinstance(getattr(FULL, one.name), int | float) and one.name not in UNTOLD
]


def with_number(part: str, name: str, number: Any) -> Reading:
    """Return the full reading with one of its numbers, or of its stages' or its GPU's, made another."""
    if part == "reading":
        return replace(FULL, **{name: number})
    value: Any = {ThrottleReason.HW_THERMAL: number} if name == "throttled_ratio" else number
    return replace(FULL, **{part: replace(getattr(FULL, part), **{name: value})})


@pytest.mark.parametrize("number", ABSURD, ids=[f"{number}"[:5] for number in ABSURD])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        *(("reading", name) for name in NUMBERS_OF_READING),
        *(("stages", one.name) for one in fields(Stages)),
        *(("gpu_state", one.name) for one in fields(GpuState)),
    ],
)
def test_absurd_readings_are_refused_whole(part: str, name: str, number: float) -> None:
    """A reading with a number that is not finite or is negative raises ValueError and changes nothing."""
    refused_whole(with_number(part, name, number))


def test_absurd_quotients_are_refused_whole() -> None:
    """Numbers that are right each for themselves can make a rate beyond any number."""
    refused_whole(replace(FULL, words=10**300, elapsed_seconds=5e-324))
    refused_whole(replace(FULL, words=10**400))


def refused_whole(reading: Reading) -> None:
    """Check that the reading raises ValueError and leaves a failing pair as it was."""
    world = World()
    world.metrics.add_pair(A, PLAN)
    world.metrics.failed(A, Reason.HTTP, 1.0)
    before = render(world.registry, Format.TEXT)

    with pytest.raises(ValueError, match="nothing was updated"):
        world.metrics.succeeded(A, reading, 6.5)

    assert render(world.registry, Format.TEXT) == before
    assert world.metrics.rows()[0].success is False


@pytest.mark.parametrize("seconds", ABSURD[:5])
def test_absurd_durations_are_refused(world: World, seconds: float) -> None:
    """A run cannot have taken less than nothing, nor for ever."""
    before = render(world.registry, Format.TEXT)

    with pytest.raises(ValueError, match="nothing was updated"):
        world.metrics.failed(A, Reason.TIMEOUT, seconds)
    with pytest.raises(ValueError, match="nothing was updated"):
        world.metrics.succeeded(A, FULL, seconds)

    assert render(world.registry, Format.TEXT) == before


def test_sums_that_would_overflow_are_refused(world: World) -> None:
    """A counter never becomes infinite."""
    assert FULL.stages is not None
    vast = replace(FULL, stages=replace(FULL.stages, decode_seconds=1.5e308))
    world.metrics.succeeded(A, vast, 1.0)

    with pytest.raises(ValueError, match="decode_seconds_total"):
        world.metrics.succeeded(A, vast, 1.0)

    assert world.value("runs_total") == 1.0


PAIRS = st.sampled_from([A, B, ModelKey("gpu-a", 'mi"st\nral'), ModelKey("gpu-a", "")])
NUMBERS = st.floats() | st.floats(0, 1e6) | st.integers(-2, 10**20)
MAYBE = st.none() | NUMBERS
READINGS_OF_ALL_KINDS = st.builds(
    Reading,
    finished_at=st.floats(0, 2e9),
    gpu=st.sampled_from(["cpu", "unknown", "NVIDIA H100"]),
    uuids=st.lists(st.sampled_from(["GPU-1", "GPU-2"])).map(tuple),
    words=st.none() | st.integers(-1, 10**6),
    elapsed_seconds=NUMBERS,
    decode_tokens_per_second=NUMBERS,
    output_tokens=st.none() | st.integers(-1, 10**6),
    prompt_tokens=st.none() | st.integers(0, 100),
    time_to_first_token_seconds=NUMBERS,
    stages=st.none() | st.builds(Stages, **dict.fromkeys([one.name for one in fields(Stages)], NUMBERS)),
    model_load_seconds=MAYBE,
    truncated=st.booleans(),
    contended=st.dictionaries(st.sampled_from(["queue", "model", "gpu"]), st.booleans()),
    distinct_chunks_ratio=st.floats(0, 1),
    model_gpu_ratio=st.none() | st.floats(0, 1),
    gpu_state=st.none() | st.builds(GpuState, energy_joules=MAYBE, power_watts=MAYBE, throttled_ratio=st.just({})),
    bandwidth_utilization_ratio=st.none() | st.floats(0, 1),
    model=st.just(FULL.model),
    text=st.just("words"),
) | st.sampled_from([FULL, TRUNCATED])


class AnyOrder(RuleBasedStateMachine):
    """Any order of events, on any pair, with readings of any kind."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.metrics = self.world.metrics
        self.present: set[ModelKey] = set()
        self.runs: Counter[ModelKey] = Counter()
        self.former: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    @initialize()
    def start(self) -> None:
        """Begin with one pair."""
        self.add(A)

    @rule(pair=PAIRS)
    def add(self, pair: ModelKey) -> None:
        """Start, or reload."""
        self.metrics.add_pair(pair, PLAN)
        self.present.add(pair)

    @rule(pair=PAIRS)
    def remove(self, pair: ModelKey) -> None:
        """Reload without the pair."""
        self.metrics.remove_pair(pair)
        self.present.discard(pair)
        del self.runs[pair]
        self.former = {key: value for key, value in self.former.items() if not set(pair._asdict().items()) <= key[1]}

    @rule(pair=PAIRS, reading=READINGS_OF_ALL_KINDS, seconds=NUMBERS)
    def succeed(self, pair: ModelKey, reading: Reading, seconds: float) -> None:
        """End well, or be refused."""
        try:
            self.metrics.succeeded(pair, reading, seconds)
        except ValueError:
            return
        self.runs[pair] += pair in self.present

    @rule(pair=PAIRS, reason=st.sampled_from(Reason), seconds=st.floats(0, 1e6))
    def fail(self, pair: ModelKey, reason: Reason, seconds: float) -> None:
        """End badly."""
        self.metrics.failed(pair, reason, seconds)
        self.runs[pair] += pair in self.present

    @rule(pair=PAIRS)
    def cancel(self, pair: ModelKey) -> None:
        """Be cut short."""
        self.metrics.cancelled(pair)
        self.runs[pair] += pair in self.present

    @rule(pair=PAIRS, reason=st.sampled_from(SkipReason), count=st.integers(1, 100))
    def skip(self, pair: ModelKey, reason: SkipReason, count: int) -> None:
        """Measure nothing."""
        self.metrics.skipped(pair, reason, count)

    @rule(seconds=st.floats(0, 3000), step=st.floats(-1e6, 1e6))
    def wait(self, seconds: float, step: float) -> None:
        """Let time pass, and the wall clock jump."""
        self.world.monotonic += seconds
        self.world.wall += step

    @invariant()
    def adds_up(self) -> None:
        """Runs are the sum of their ends, for every pair; every number is finite and from 0 up; counters only grow."""
        ends: Counter[ModelKey] = Counter()
        runs: Counter[ModelKey] = Counter()
        for metric in self.world.registry.collect():
            for sample in metric.samples:
                assert 0 <= sample.value < math.inf
                if metric.type in {"counter", "histogram"}:
                    key = (sample.name, frozenset(sample.labels.items()))
                    assert self.former.get(key, 0) <= sample.value
                    self.former[key] = sample.value
                if sample.name == "ollama_probe_runs_total":
                    runs[ModelKey(sample.labels["target"], sample.labels["model"])] += int(sample.value)
                if sample.name.endswith(("_successes_total", "_failures_total", "_cancelled_total")):
                    ends[ModelKey(sample.labels["target"], sample.labels["model"])] += int(sample.value)
        assert runs == ends == self.runs

    def teardown(self) -> None:
        """What is left is parsed by both formats' own parsers."""
        list(parse_text(render(self.world.registry, Format.TEXT).decode()))
        list(parse_openmetrics(render(self.world.registry, Format.OPENMETRICS).decode()))  # type: ignore[no-untyped-call]


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_metrics_table_is_sound() -> None:
    """Every metric says where it comes from; readings say whose they are; no counter takes a gauge's name."""
    table = metrics_table()
    by_kind = {kind: {row.name for row in table if row.type == kind} for kind in ("gauge", "counter")}

    assert len({row.name for row in table}) == len(table) == len(READINGS) + len(STATUS) + 5
    assert all(
        row.name.startswith("ollama_probe_") and row.help.endswith(".") and "\n" not in row.help for row in table
    )
    assert all(family.help.endswith("Of the last scheduled probe.") for family in READINGS)
    assert {name.removesuffix("_total") for name in by_kind["counter"]} & by_kind["gauge"] == set()
    assert {row.labels[:3] for row in table[: len(READINGS)]} == {("target", "model", "gpu")}


def test_library_collectors() -> None:
    """The process, the platform and garbage collection are told as prometheus_client tells them."""
    registry = CollectorRegistry()
    ProbeMetrics(registry)
    text = render(registry, Format.TEXT)

    assert len(runtime_collectors()) == 3
    for name in (b"process_resident_memory_bytes", b"python_info", b"python_gc_collections_total"):
        assert b"\n" + name in text
    assert b"_created" not in text
