"""Every answer is bounded, whatever a server sends."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.attacks import ATTACKS, run
from support.loop_watch import watching_the_loop

BLOCK_SECONDS_MAX = 0.5
"""Far above what is measured on an idle machine, and far below what the attacks cost without bounds."""
GROWTH_MEGABYTES_MAX = 60


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_a_failure_with_its_reason_and_does_not_stop_the_loop(name: str) -> None:
    """Other targets are probed meanwhile, so no answer may keep the event loop busy."""
    attack = ATTACKS[name]()
    async with watching_the_loop() as watch:
        reason = await run(attack)

    assert reason is attack.reason
    assert watch.longest_block_seconds < BLOCK_SECONDS_MAX


@pytest.mark.parametrize(
    "name",
    [
        "gzip bomb within gzip",
        "endless answer of tags",
        "endless answer of load",
        "endless error of generate",
        "20 MB of JSON",
        "2 MB of JSON",
        "thinking flood",
        "flood of long tokens",
        "token flood without num_predict",
    ],
)
def test_an_attack_costs_little_memory(name: str) -> None:
    """One server must not use up the memory of the process that probes all others."""
    command = [sys.executable, "-m", "support.attacks", name]
    printed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout

    assert json.loads(printed)["grown_megabytes"] < GROWTH_MEGABYTES_MAX
