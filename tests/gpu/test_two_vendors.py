"""The monitor with recorded NVIDIA GPUs and one of another vendor, whose only code is tests/support/other_vendor.py."""

from __future__ import annotations

import pytest
from support.other_vendor import NAME, OtherCardReader, OtherReader
from support.recorded_gpus import H100, Machine, probed_model


async def test_gpus_of_two_vendors(one: Machine) -> None:
    """Both are listed with different indexes, and a model gets the label of the one that it runs on."""
    other = OtherCardReader(pids={77: 8 * 2**30})
    reader = OtherReader((other,))
    monitor = one.open(reader)
    assert [(card.index, card.vendor, card.name) for card in monitor.cards()] == [
        (0, "NVIDIA", H100),
        (1, "AMD", NAME),
    ]
    one.command_lines[77] = ("ollama", "runner", "--model", f"/blobs/sha256-{'c' * 64}")

    on_nvidia = await one.probe(monitor, "alone")
    assert (on_nvidia.label, on_nvidia.uuids) == (H100, (monitor.cards()[0].uuid,))
    assert on_nvidia.contended == {"model": False, "gpu": False}
    assert on_nvidia.state is not None
    assert on_nvidia.state.clock_max_hertz == 1.98e9

    other.started = False
    model = probed_model(key=probed_model().key._replace(model="b"), blob="c" * 64)
    on_other = await one.probe(monitor, "cpu_idle", model)
    assert (on_other.label, on_other.uuids, on_other.contended) == (NAME, ("f00d",), {})
    assert on_other.state is not None
    assert on_other.state.power_watts == pytest.approx(300)
    assert "GPU 1" in (await monitor.explain(model)).reason

    await monitor.close()
    assert reader.closed


async def test_a_model_on_gpus_of_two_vendors(one: Machine) -> None:
    """The label has both, the energy is summed, and there is no common peak bandwidth."""
    monitor = one.open(OtherReader((OtherCardReader(pids={one.runner("alone"): 8 * 2**30}),)))
    nvidia_only = one.open()
    alone = (await one.probe(nvidia_only, "alone")).state
    await nvidia_only.close()
    both = await one.probe(monitor, "alone")
    assert (both.label, both.uuids) == (f"{H100} + {NAME}", tuple(card.uuid for card in monitor.cards()))
    assert both.peak_bandwidth_bytes_per_second is None
    assert alone is not None
    assert alone.power_watts is not None
    assert both.state is not None
    assert both.state.power_watts == pytest.approx(alone.power_watts + 300, rel=0.01)
    await monitor.close()


async def test_with_two_vendors_activity_decides_where_pids_do_not_match(one: Machine) -> None:
    """Only the other vendor's GPU became active."""
    monitor = one.open(OtherReader((OtherCardReader(pids={500: None}),)))
    observation = await one.probe(monitor, "cpu_idle", probed_model(size_vram_bytes=8 * 10**9), processes=False)
    assert (observation.label, observation.uuids) == (NAME, ("f00d",))
    await monitor.close()


async def test_a_reader_that_lets_a_bad_number_through_fails_no_probe(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, and the observation has no state."""
    machine = Machine("nvml-h100.json")
    monitor = machine.open(OtherReader((OtherCardReader(watts=-5.0, pids={1: None}),)))
    observation = await machine.probe(monitor, "alone")
    assert observation.state is None
    assert "Sample.power_watts is -5.0" in caplog.text
    await monitor.close()
