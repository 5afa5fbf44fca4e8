"""`calibrate` against a real HTTP server: which runs count, and the configuration that it prints."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

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
    assert lines == ""


async def test_target_without_a_clean_run_is_left_out(tmp_path: Path) -> None:
    """The configuration has the other targets, and loads."""
    async with OllamaServer(ScriptedEngine([FAST])) as good, OllamaServer(ScriptedEngine([])) as empty:
        targets = replace(target_plan(empty.url, model_plan()), name="empty"), target_plan(good.url, model_plan())
        lines, complete = await run(*targets, runs=1)

    assert not complete
    assert [plan.name for plan in load(tmp_path, lines).plans()] == ["t"]


@pytest.mark.parametrize("models", ["listed", "installed"])
async def test_server_that_is_down_is_asked_once(models: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Its failure is printed once, whatever the number of models and runs, and there are no lines for it."""
    server = OllamaServer(ScriptedEngine())
    url = await server.start()
    await server.stop()
    plans = (model_plan(), model_plan("b"))
    target = target_plan(url, *plans) if models == "listed" else target_plan(url, models=models)
    lines, complete = await run(target, runs=10)

    assert not complete
    assert capsys.readouterr().err.count("failed: connect") == 1
    assert lines == ""


async def test_server_that_goes_down_is_not_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured before is kept; the remaining runs and models are not tried."""
    engine = FaultyEngine([FAST, OTHER])
    async with OllamaServer(engine) as server:
        plans = (model_plan(), model_plan("b"), model_plan("c"))
        running = asyncio.create_task(run(target_plan(server.url, *plans), runs=2))
        async with asyncio.timeout(60):
            while sum((request.body or {}).get("model") == "b" for request in server.requests) == 0:
                await asyncio.sleep(0.001)
        await server.stop()
        lines, complete = await running

    assert not complete
    printed = capsys.readouterr().err
    assert "run 2 of 2" not in printed.partition("b on t")[2]
    assert "c on t" not in printed
    assert [model["name"] for model in yaml.safe_load(lines)["targets"][0]["models"]] == ["llama3.1"]


@pytest.mark.parametrize(("rates", "warned"), [((95.0, 100.0, 104.9), False), ((90.0, 100.0, 101.0), True)])
async def test_large_spread_draws_a_warning(
    rates: tuple[float, ...], warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates that differ by more than a tenth are not normal; the warning names the model and the spread."""
    left = iter(rates)

    async def next_rate(*_: object) -> float:
        return next(left)

    monkeypatch.setattr("exporter.commands.calibrate._clean_rate", next_rate)
    async with OllamaServer(ScriptedEngine([FAST])) as server:
        _, complete = await run(target_plan(server.url, model_plan()), runs=len(rates))

    assert complete
    assert ("warning: llama3.1 on t: the rates have a spread of 11.0%" in capsys.readouterr().err) == warned
