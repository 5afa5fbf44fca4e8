"""Values that several tests need: a plan, a full reading, one cut off."""

from __future__ import annotations

from dataclasses import replace

from exporter.gpu.base import Card
from exporter.plan import ModelPlan, Workload
from exporter.reading import GpuState, ModelInfo, Reading, Stages, ThrottleReason

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
    gpu="NVIDIA GeForce RTX 3090",
    uuids=("GPU-11111111-2222-3333-4444-555555555555",),
    words=187,
    elapsed_seconds=2.75,
    decode_tokens_per_second=102.4,
    output_tokens=256,
    prompt_tokens=46,
    time_to_first_token_seconds=0.125,
    stages=Stages(queue_seconds=0.004, load_seconds=0.046, prefill_seconds=0.0625, decode_seconds=2.5),
    model_load_seconds=3.5,
    truncated=False,
    contended={"queue": False, "model": False, "gpu": True},
    distinct_chunks_ratio=0.5,
    model_gpu_ratio=1.0,
    gpu_state=GpuState(
        energy_joules=800.0,
        power_watts=320.0,
        clock_hertz=1.695e9,
        clock_max_hertz=2.1e9,
        temperature_celsius=71.0,
        utilization_ratio=0.97,
        throttled_ratio={**dict.fromkeys(ThrottleReason, 0.0), ThrottleReason.SW_POWER_CAP: 0.25},
    ),
    bandwidth_utilization_ratio=0.53,
    model=ModelInfo(
        digest="46e0c10c039e",
        model_name="llama3.1:latest",
        family="llama",
        parameter_size="8.0B",
        quantization="Q4_K_M",
        context_length=4096,
    ),
)

TRUNCATED = replace(
    FULL,
    gpu="cpu",
    uuids=(),
    words=60,
    elapsed_seconds=120.0,
    decode_tokens_per_second=2.0,
    output_tokens=None,
    stages=None,
    model_load_seconds=None,
    truncated=True,
    contended={},
    model_gpu_ratio=0.0,
    gpu_state=None,
    bandwidth_utilization_ratio=None,
)

CARD = Card(
    uuid="GPU-11111111-2222-3333-4444-555555555555",
    name="NVIDIA GeForce RTX 3090",
    index=0,
    pci_bus_id="00000000:01:00.0",
    vendor="NVIDIA",
    driver_version="550.54.15",
)
