"""probe and calibrate against a real HTTP server: what they print, and what they return."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler
from support.configurations import load
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import model_plan, target_plan, workload

from exporter.commands.probe import calibrate, open_console, probe
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.plan import TargetPlan

FAST = ScriptedModel("llama3.1", tokens_per_second=1000, load_seconds=0.06)
OTHER = ScriptedModel("b", tokens_per_second=1000, load_seconds=0.06)


class Shared(FaultyEngine):
    """An engine on which somebody uses model b as soon as a probe has asked."""

    async def intercept(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Start the other client."""
        if request.path == "/api/generate":
            self.other_client("b", seconds=0.01)
        return await super().intercept(request, handler)


async def run(capsys: pytest.CaptureFixture[str], *targets: TargetPlan, **how: bool) -> tuple[int, list[str]]:
    """Probe once; return the exit status and the lines printed."""
    choice = {"reference": False, "as_json": False} | how
    status = await probe(targets, **choice, console=open_console(stderr=choice["as_json"]))
    return status, capsys.readouterr().out.splitlines()


async def run_json(capsys: pytest.CaptureFixture[str], *targets: TargetPlan) -> tuple[int, list[dict[str, Any]]]:
    """Probe once with `--json`; return the exit status and the objects printed."""
    status, lines = await run(capsys, *targets, as_json=True)
    return status, [json.loads(line) for line in lines]


async def test_probe_prints_one_result(capsys: pytest.CaptureFixture[str]) -> None:
    """The answer, the statistics and what Ollama says; nothing else, and 0."""
    async with OllamaServer(FaultyEngine([FAST])) as server:
        status, lines = await run(capsys, target_plan(server.url, model_plan()))

    assert status == 0
    assert lines[:2] == ["Result:", FAST.answer(32).splitlines()[0]]
    assert f"Token Count: {len(FAST.answer(32).split())}" in lines
    assert "What Ollama says of llama3.1 on t:" in lines
    assert f"{'Output tokens':21}32" in lines


async def test_probe_names_each_of_several_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    """Each result has its pair above it, and one that failed does not keep the others from being probed."""
    async with OllamaServer(FaultyEngine([FAST, OTHER])) as server:
        plans = model_plan(), model_plan("missing"), model_plan("b")
        status, lines = await run(capsys, target_plan(server.url, *plans))

    assert status == 1
    assert [line for line in lines if line.startswith("---")] == [
        "--- llama3.1 on t",
        "--- missing on t",
        "--- b on t",
    ]
    assert lines.count("Result:") == 2
    assert any(line.startswith("missing on t failed: model_missing: ") for line in lines)
    assert any(line.startswith("Remedy: ") and "llama3.1:latest" in line for line in lines)


async def test_json_is_one_object_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    """Good ones with their figures, bad ones with their reason and remedy."""
    async with OllamaServer(FaultyEngine([FAST])) as server:
        status, [good, bad] = await run_json(capsys, target_plan(server.url, model_plan(), model_plan("missing")))

    assert status == 1
    assert (good["target"], good["model"], good["gpu"]) == ("t", "llama3.1", "unknown")
    assert good["result"] == FAST.answer(32)
    assert good["output_tokens"] == 32
    assert good["token_count"] == len(FAST.answer(32).split())
    assert good["model_load_seconds"] > 0.05
    assert bad.keys() == {"target", "model", "reason", "detail", "remedy"}
    assert bad["reason"] == "model_missing"


async def test_a_skipped_probe_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was measured: 1, and the setting that would change it."""
    async with OllamaServer(FaultyEngine([FAST, OTHER])) as server:
        target = target_plan(server.url, replace(model_plan(), when_unloaded="skip"), model_plan("b"))
        status, lines = await run(capsys, target)
        assert status == 1
        assert any("llama3.1 on t was skipped (unloaded)" in line and "when_unloaded: skip" in line for line in lines)

        status, [answer] = await run_json(
            capsys, target_plan(server.url, replace(model_plan(), when_unloaded="borrow"))
        )
    assert status == 1
    assert answer["skipped"] == "occupied"
    assert "when_unloaded: load" in answer["remedy"]


@pytest.mark.parametrize(("models", "remedy"), [("installed", "ollama pull"), ("loaded", "Load a model")])
async def test_nothing_to_probe_is_a_failure(models: Any, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A server without a model that can generate is no success."""
    async with OllamaServer(FaultyEngine([])) as server:
        status, lines = await run(capsys, target_plan(server.url, models=models))
        json_status, [answer] = await run_json(capsys, target_plan(server.url, models=models))

    assert status == json_status == 1
    assert lines[0].startswith(f"{models} on t failed: model_missing")
    assert remedy in lines[1]
    assert answer["reason"] == "model_missing"


async def test_discovered_models_are_probed(capsys: pytest.CaptureFixture[str]) -> None:
    """`installed` is asked of the server."""
    async with OllamaServer(FaultyEngine([FAST, OTHER])) as server:
        target = target_plan(server.url, models="installed", defaults=model_plan(""))
        status, answers = await run_json(capsys, target)

    assert status == 0
    assert {answer["model"] for answer in answers} == {"llama3.1", "b"}


async def test_a_server_that_is_down_is_told_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """Its URL is in the text, and the next target is probed all the same."""
    server = OllamaServer(FaultyEngine())
    url = await server.start()
    await server.stop()
    async with OllamaServer(FaultyEngine([FAST])) as good:
        down = replace(target_plan(url, models="installed"), name="down")
        status, lines = await run(capsys, down, target_plan(good.url, model_plan()))

    assert status == 1
    assert lines[0].startswith(f"installed on down failed: connect: {url}: ")
    assert "OLLAMA_HOST" in lines[1]
    assert "Result:" in lines


async def test_reference_sends_no_options_and_counts_the_answer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A thinking model's thoughts are no words of the reference program's, and `skip` does not apply."""
    model = replace(FAST, length=64, thinking_ratio=0.5, always_thinks=True)
    async with OllamaServer(FaultyEngine([model])) as server:
        plan = replace(model_plan(), when_unloaded="skip", workload=workload(num_predict=32))
        status, [line] = await run(capsys, target_plan(server.url, plan), reference=True, as_json=True)
        body = [request.body for request in server.requests if request.path == "/api/generate"][-1]

    answer = json.loads(line)
    assert status == 0
    assert answer["output_tokens"] == 64
    assert answer["token_count"] == len("".join(model.tokens()[32:]).split())
    assert body["options"] == {"num_ctx": 4096}
    assert "think" not in body


async def test_calibrated_lines_are_a_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    """Pasted into a file they load; the rate is the median of the clean runs, and the spread stands beside it."""
    async with OllamaServer(FaultyEngine([FAST])) as server:
        target = replace(target_plan(server.url, model_plan()), name='odd "name": #1')
        lines, complete = await calibrate([target], runs=3, console=open_console(stderr=True))

    [plan] = load(tmp_path, lines).plans()
    assert complete
    assert (plan.name, plan.url) == (target.name, server.url)
    assert not isinstance(plan.models, str)
    [model] = plan.models
    assert model.model == "llama3.1"
    said = capsys.readouterr()
    assert said.out == ""
    rates = re.findall(r"^llama3\.1 on .*, run \d of 3: ([\d.]+) tokens/s$", said.err, re.MULTILINE)
    assert model.expected_decode_tokens_per_second == median(map(float, rates))
    assert f"# 3 clean runs, {min(rates, key=float)} to {max(rates, key=float)}, spread " in lines


async def test_calibrate_leaves_out_what_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed run, a cut one and one beside another model are told and not counted; half clean runs are enough."""
    engine = FaultyEngine([FAST])
    async with OllamaServer(engine) as server:
        engine.inject(Fault(FaultKind.CUT, after_tokens=3, times=1))  # the first run fails
        engine.inject(Fault(FaultKind.NO_DONE, after_tokens=20, times=1))  # the second is truncated
        target = target_plan(server.url, model_plan())
        lines, complete = await calibrate([target], runs=4, console=open_console(stderr=True))
        said = capsys.readouterr().err
        assert complete
        assert "2 clean runs" in lines
        assert said.count("not counted: the stream was cut") == 1
        assert said.count("failed: protocol") + said.count("failed: connect") == 1

    async with OllamaServer(Shared([FAST, replace(OTHER, load_seconds=0)])) as server:
        target = target_plan(server.url, model_plan())
        lines, complete = await calibrate([target], runs=1, console=open_console(stderr=True))
    assert not complete
    assert "not counted: contended" in capsys.readouterr().err
    assert yaml.safe_load(lines)["targets"][0]["models"] == []


async def test_a_target_that_is_down_gets_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Its failure is told, and the others are calibrated."""
    server = OllamaServer(FaultyEngine())
    url = await server.start()
    await server.stop()
    lines, complete = await calibrate([target_plan(url, models="installed")], runs=1, console=open_console(stderr=True))

    assert not complete
    assert "connect" in capsys.readouterr().err
    assert yaml.safe_load(lines) == {"targets": None}
