"""Values that several tests need: a plan, a full reading, a truncated one, a failure."""

from __future__ import annotations

from dataclasses import replace

from exporter.errors import Failure, Reason
from exporter.gpu.base import Card
from exporter.plan import ModelPlan, Workload
from exporter.reading import (
    Figures,
    GpuObservation,
    GpuState,
    InstalledModel,
    LoadedModel,
    Reading,
    Stages,
    ThrottleReason,
)

WORKLOAD = Workload(
    template="Question: {question}",
    question="What is a neuron?",
    num_predict=256,
    temperature=0.0,
    seed=42,
    reasoning=False,
)

PLAN = ModelPlan(
    model="llama3.1:latest",
    workload=WORKLOAD,
    interval_seconds=900.0,
    timeout_seconds=120.0,
    load_timeout_seconds=300.0,
    when_unloaded="borrow",
    expected_decode_tokens_per_second=100.0,
)

FULL = Reading(
    finished_at=1_700_000_000.25,
    figures=Figures(
        words=187,
        elapsed_seconds=2.75,
        decode_tokens_per_second=102.4,
        output_tokens=256,
        prompt_tokens=46,
        time_to_first_token_seconds=0.125,
        stages=Stages(queue_seconds=0.004, load_seconds=0.046, prefill_seconds=0.0625, decode_seconds=2.5),
        truncated=False,
        distinct_chunks_ratio=0.5,
    ),
    gpu=GpuObservation(
        label="NVIDIA GeForce RTX 3090",
        uuids=("GPU-11111111-2222-3333-4444-555555555555",),
        state=GpuState(
            energy_joules=800.0,
            power_watts=320.0,
            clock_hertz=1.695e9,
            clock_max_hertz=2.1e9,
            temperature_celsius=71.0,
            utilization_ratio=0.97,
            throttled_ratio={**dict.fromkeys(ThrottleReason, 0.0), ThrottleReason.SW_POWER_CAP: 0.25},
        ),
    ),
    installed=InstalledModel(
        name="llama3.1:latest",
        digest="46e0c10c039e",
        family="llama",
        parameter_size="8.0B",
        quantization="Q4_K_M",
    ),
    loaded=LoadedModel(name="llama3.1:latest", size_bytes=8, size_vram_bytes=8, context_length=4096),
    model_load_seconds=3.5,
    contended={"queue": False, "model": False, "gpu": True},
    bandwidth_utilization_ratio=0.53,
)
"""Everything is known."""

TRUNCATED = replace(
    FULL,
    figures=replace(
        FULL.figures,
        words=60,
        elapsed_seconds=120.0,
        decode_tokens_per_second=2.0,
        output_tokens=None,
        stages=None,
        truncated=True,
    ),
    gpu=GpuObservation(label="cpu"),
    loaded=LoadedModel(name="llama3.1:latest", size_bytes=8, size_vram_bytes=0, context_length=4096),
    model_load_seconds=None,
    contended={},
    bandwidth_utilization_ratio=None,
)
"""The stream was cut at its deadline, on the CPU."""

FAILURE = Failure(Reason.STALLED, "nothing arrived for 30 s", "See Ollama's log.")

CARD = Card(
    uuid="GPU-11111111-2222-3333-4444-555555555555",
    name="NVIDIA GeForce RTX 3090",
    index=0,
    pci_bus_id="00000000:01:00.0",
    vendor="NVIDIA",
    driver_version="550.54.15",
)


def failure(reason: Reason) -> Failure:
    """Return a failure with the reason's general remedy."""
    return Failure(reason, "what was seen", reason.remedy)
