"""`calibrate` against a real HTTP server: which runs count, and the configuration that it prints."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler
from support.configurations import load
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import model_plan, target_plan

from exporter.commands.calibrate import calibrate
from exporter.commands.console import open_console
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.plan import TargetPlan

FAST = ScriptedModel("llama3.1", tokens_per_second=1000, load_seconds=0.06)
OTHER = ScriptedModel("b", tokens_per_second=1000, load_seconds=0)


class SharedEngine(FaultyEngine):
    """An engine on which another client uses model b whenever a probe generates."""

    async def intercept(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Start the other client with each generate request."""
        if request.path == "/api/generate":
            self.other_client("b", seconds=0.01)
        return await super().intercept(request, handler)


async def run(*targets: TargetPlan, runs: int) -> tuple[str, bool]:
    """Return the printed configuration and whether it is complete."""
    return await calibrate(targets, runs=runs, console=open_console(stderr=True))


async def test_prints_a_configuration_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The lines load as a configuration file, and the expected rate is the median of the runs' rates."""
    async with OllamaServer(ScriptedEngine([FAST])) as server:
        target = replace(target_plan(server.url, model_plan()), name='odd "name": #1')
        lines, complete = await run(target, runs=3)

    [plan] = load(tmp_path, lines).plans()
    assert complete
    assert (plan.name, plan.url) == (target.name, server.url)
    [model] = plan.listed_models().values()
    assert model.model == "llama3.1"
    printed = capsys.readouterr()
    assert printed.out == ""
    rates = re.findall(r"^llama3\.1 on .*, run \d of 3: ([\d.]+) tokens/s$", printed.err, re.MULTILINE)
    assert model.expected_decode_tokens_per_second == median(map(float, rates))
    assert f"# 3 clean runs, {min(rates, key=float)} to {max(rates, key=float)}, spread " in lines


async def test_failed_and_truncated_runs_do_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the runs are enough: one failed and one truncated run of four leave two."""
    engine = FaultyEngine([FAST])
    async with OllamaServer(engine) as server:
        engine.inject(Fault(FaultKind.CUT, after_tokens=3, times=1))
        engine.inject(Fault(FaultKind.NO_DONE, after_tokens=20, times=1))
        lines, complete = await run(target_plan(server.url, model_plan()), runs=4)

    printed = capsys.readouterr().err
    assert complete
    assert "# 2 clean runs" in lines
    assert printed.count("not counted: truncated") == 1
    assert len(re.findall("failed: (protocol|connect)", printed)) == 1


async def test_contended_runs_do_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    """A model whose runs were all contended gets no rate, and the result is incomplete."""
    async with OllamaServer(SharedEngine([FAST, OTHER])) as server:
        lines, complete = await run(target_plan(server.url, model_plan()), runs=1)

    assert not complete
    assert "not counted: contended" in capsys.readouterr().err
    assert yaml.safe_load(lines)["targets"][0]["models"] == []


async def test_server_that_is_down_gets_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Its failure is printed, and the result is incomplete."""
    server = OllamaServer(ScriptedEngine())
    url = await server.start()
    await server.stop()
    lines, complete = await run(target_plan(url, models="installed"), runs=1)

    assert not complete
    assert "failed: connect" in capsys.readouterr().err
    assert yaml.safe_load(lines) == {"targets": None}
