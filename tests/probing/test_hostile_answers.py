"""Any answer of a server, in any pieces, gives a counted probe and a valid exposition."""

from __future__ import annotations

import asyncio
import logging
import math
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import programs
from support.hostile_answers import ANSWERS, GOOD_CHUNK, GOOD_FINAL, generating, json_line
from support.probing import model_plan, target_plan
from support.raw_server import RawAnswer, RawServer

from exporter.gpu.monitor import GpuMonitor
from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import Format, render
from exporter.probing.target import Target
from exporter.state.store import StateStore

EXAMPLES = 60
PHASES = (Phase.explicit, Phase.generate)
"""A failing example is not shrunk, because the counters go on from one example to the next."""
TIMEOUT_SECONDS = 0.4
"""An example may keep the connection open that long."""
ALLOWED_COMPLAINT = "ollama_probe_token_count"
"""promtool objects to this name, which is part of the metric contract."""
CHUNKS = json_line(GOOD_CHUNK) * 20


@dataclass
class Probed:
    """A target on the raw server, with its metrics and the number of its probes."""

    server: RawServer
    target: Target
    registry: CollectorRegistry
    runs: int = 0

    async def probe(self, answers: Mapping[str, RawAnswer]) -> None:
        """Probe once."""
        self.server.answers = answers
        [key] = self.target.models
        await asyncio.wait_for(self.target.probe(key), 30)
        self.server.close_connections()
        self.runs += 1

    def check(self) -> Mapping[str, float]:
        """Check the exposition in both formats, and return the sum of each metric over its samples."""
        sums: defaultdict[str, float] = defaultdict(float)
        for format_, parse in ((Format.TEXT, parse_text), (Format.OPENMETRICS, parse_openmetrics)):
            sums.clear()
            for family in parse(render(self.registry, format_).decode()):
                for sample in family.samples:
                    assert 0 <= sample.value < math.inf, sample
                    sums[sample.name.removeprefix("ollama_probe_")] += sample.value
                    if sample.labels.get("reason") == "internal":
                        assert sample.value == 0
        assert sums["runs_total"] == sums["successes_total"] + sums["failures_total"] + sums["cancelled_total"]
        assert sums["runs_total"] == self.runs
        return sums


async def open_target() -> Probed:
    """Return a target with one model."""
    server = RawServer()
    await server.start()
    registry = CollectorRegistry()
    store = StateStore()
    ProbeCollector(store, registry, collectors=())
    model = model_plan(timeout_seconds=TIMEOUT_SECONDS, load_timeout_seconds=TIMEOUT_SECONDS)
    plan = target_plan(server.url, model)
    store.add_model(plan.key(model), model)
    target = Target(plan, GpuMonitor(), store, lambda *_: asyncio.sleep(0))
    await target.start()
    await target.stop_checking()
    return Probed(server, target, registry)


def test_any_answers_give_valid_metrics(newest_release: programs.Release, caplog: pytest.LogCaptureFixture) -> None:
    """Each probe is counted once, by a reason other than `internal`, and both parsers and promtool accept the page."""
    caplog.set_level(logging.ERROR)
    with asyncio.Runner() as runner:
        probed = runner.run(open_target())

        @settings(max_examples=EXAMPLES, phases=PHASES, suppress_health_check=list(HealthCheck), database=None)
        @example(generating(b"[" * 100_000 + b"\n"))
        @example(generating(CHUNKS + b"[]\n"))
        @example(generating(CHUNKS + json_line({"error": [{}]})))
        @example(generating(CHUNKS + b'{"eval_count":' + b"9" * 5000 + b"}\n"))
        @example(generating(CHUNKS + json_line({**GOOD_FINAL, "eval_duration": math.nan})))
        @example(generating(CHUNKS + json_line({**GOOD_FINAL, "eval_duration": -(10**8)})))
        @example(generating(CHUNKS + json_line({**GOOD_FINAL, "load_duration": -(10**8)})))
        @example(generating(CHUNKS, framing="close"))
        @example(generating(b"", status=b"500 Oh", headers=(b"Content-Type: text/plain; charset=hex",)))
        @given(ANSWERS)
        def probe(answers: dict[str, RawAnswer]) -> None:
            runner.run(probed.probe(answers))
            probed.check()
            assert caplog.records == []

        probe()
        runner.run(probed.probe(generating(CHUNKS + json_line(GOOD_FINAL))))
        sums = probed.check()
        exposition = render(probed.registry, Format.TEXT)
        runner.run(probed.target.close())
        runner.run(probed.server.stop())

    assert sums["success"] == 1
    assert sums["decode_tokens_per_second"] == 200
    command: list[str | Path] = [newest_release.promtool, "check", "metrics"]
    checked = subprocess.run(command, input=exposition, capture_output=True, check=False, timeout=60)
    complaints = (checked.stdout + checked.stderr).decode().splitlines()
    assert [line for line in complaints if not line.startswith(ALLOWED_COMPLAINT)] == []
