"""`probe` against a real HTTP server: what it prints, and its exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support.probing import model_plan, target_plan, workload

from exporter.commands.console import open_console
from exporter.commands.probe import probe
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.plan import TargetPlan

FAST = ScriptedModel("llama3.1", tokens_per_second=1000, load_seconds=0.06)
OTHER = ScriptedModel("b", tokens_per_second=1000, load_seconds=0.06)


async def run(
    capsys: pytest.CaptureFixture[str], *targets: TargetPlan, **options: bool
) -> tuple[int, list[str], list[str]]:
    """Return the exit status of one `probe`, and its lines on standard output and standard error."""
    chosen = {"reference": False, "as_json": False} | options
    status = await probe(targets, **chosen, console=open_console(stderr=chosen["as_json"]))
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err.splitlines()


async def run_json(capsys: pytest.CaptureFixture[str], *targets: TargetPlan) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit status and the printed objects of one `probe --json`."""
    status, lines, _ = await run(capsys, *targets, as_json=True)
    return status, [json.loads(line) for line in lines]


async def test_prints_the_answer_and_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """The answer comes first, then the reference program's figures, then Ollama's; the exit status is 0."""
    async with OllamaServer(ScriptedEngine([FAST])) as server:
        status, lines, errors = await run(capsys, target_plan(server.url, model_plan()))

    assert status == 0
    assert errors == []
    assert lines[:2] == ["Result:", FAST.answer(32).splitlines()[0]]
    assert f"Token Count: {len(FAST.answer(32).split())}" in lines
    assert f"{'Output tokens':21}32" in lines


async def test_failure_of_one_model_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """Each model has a heading, all are probed, the failure names what is installed, and the exit status is 1."""
    async with OllamaServer(ScriptedEngine([FAST, OTHER])) as server:
        plans = model_plan(), model_plan("missing"), model_plan("b")
        status, lines, errors = await run(capsys, target_plan(server.url, *plans))

    assert status == 1
    headings = [line for line in lines if line.startswith("---")]
    assert headings == ["--- llama3.1 on t", "--- missing on t", "--- b on t"]
    assert lines.count("Result:") == 2
    failure, remedy = errors
    assert failure.startswith("missing on t failed: model_missing: ")
    assert remedy.startswith("Remedy: ")
    assert "llama3.1:latest" in remedy


async def test_json_is_one_object_per_model(capsys: pytest.CaptureFixture[str]) -> None:
    """A reading has its figures, a failure its reason, detail and remedy."""
    async with OllamaServer(ScriptedEngine([FAST])) as server:
        status, [good, bad] = await run_json(capsys, target_plan(server.url, model_plan(), model_plan("missing")))

    assert status == 1
    assert (good["target"], good["model"], good["gpu"]) == ("t", "llama3.1", "unknown")
    assert good["result"] == FAST.answer(32)
    assert good["output_tokens"] == 32
    assert good["token_count"] == len(FAST.answer(32).split())
    assert good["model_load_seconds"] > 0.05
    assert bad.keys() == {"target", "model", "reason", "detail", "remedy"}
    assert bad["reason"] == "model_missing"


async def test_skipped_probe_names_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 1, and the text names the setting that decides."""
    async with OllamaServer(ScriptedEngine([FAST, OTHER])) as server:
        target = target_plan(server.url, replace(model_plan(), when_unloaded="skip"), model_plan("b"))
        status, _, [line] = await run(capsys, target)
        assert status == 1
        assert "llama3.1 on t was skipped (unloaded)" in line
        assert "when_unloaded: skip" in line

        borrowing = target_plan(server.url, replace(model_plan(), when_unloaded="borrow"))
        status, [answer] = await run_json(capsys, borrowing)
    assert status == 1
    assert answer["skipped"] == "occupied"
    assert "when_unloaded: load" in answer["remedy"]


@pytest.mark.parametrize("models", ["installed", "loaded"])
async def test_server_without_a_model_is_a_failure(models: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Discovery that finds no model that can generate fails as model_missing, on a terminal and in JSON."""
    async with OllamaServer(ScriptedEngine([])) as server:
        status, lines, errors = await run(capsys, target_plan(server.url, models=models))
        json_status, [answer] = await run_json(capsys, target_plan(server.url, models=models))

    assert status == json_status == 1
    assert lines == []
    assert errors[0].startswith(f"{models} on t failed: model_missing")
    assert errors[1].startswith("Remedy: ")
    assert answer["reason"] == "model_missing"


async def test_discovered_models_are_probed(capsys: pytest.CaptureFixture[str]) -> None:
    """`installed` probes every model that the server has."""
    async with OllamaServer(ScriptedEngine([FAST, OTHER])) as server:
        target = target_plan(server.url, models="installed", defaults=model_plan(""))
        status, answers = await run_json(capsys, target)

    assert status == 0
    assert {answer["model"] for answer in answers} == {"llama3.1", "b"}


async def test_server_that_is_down_does_not_stop_the_next_target(capsys: pytest.CaptureFixture[str]) -> None:
    """The failure names the server's URL, and the next target is probed."""
    server = OllamaServer(ScriptedEngine())
    url = await server.start()
    await server.stop()
    async with OllamaServer(ScriptedEngine([FAST])) as good:
        down = replace(target_plan(url, models="installed"), name="down")
        status, lines, errors = await run(capsys, down, target_plan(good.url, model_plan()))

    assert status == 1
    assert errors[0].startswith(f"installed on down failed: connect: {url}: ")
    assert "Result:" in lines


@pytest.mark.parametrize("keep_alive", [None, "5m"])
async def test_reference_sends_no_generation_options(keep_alive: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It sends the `num_ctx` of the loaded model, and `keep_alive` only if configured. Thinking is not counted."""
    model = replace(FAST, length=64, thinking_ratio=0.5, always_thinks=True)
    async with OllamaServer(ScriptedEngine([model])) as server:
        plan = replace(model_plan(), keep_alive=keep_alive, workload=workload(num_predict=32))
        status, [line], _ = await run(capsys, target_plan(server.url, plan), reference=True, as_json=True)
        body = [
            request.body or {}
            for request in server.requests
            if request.path == "/api/generate" and (request.body or {}).get("prompt")
        ][-1]

    answer = json.loads(line)
    assert status == 0
    assert answer["output_tokens"] == 64
    assert answer["token_count"] == len("".join(model.tokens()[32:]).split())
    assert body["options"] == {"num_ctx": 4096}
    assert body.get("keep_alive") == keep_alive
    assert "think" not in body


@pytest.mark.parametrize(("when_unloaded", "reason"), [("skip", "unloaded"), ("borrow", "occupied")])
async def test_reference_does_not_evict(when_unloaded: Any, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`when_unloaded` applies as without `--reference`: another client's model stays loaded."""
    engine = ScriptedEngine([FAST, OTHER])
    async with OllamaServer(engine) as server:
        await run(capsys, target_plan(server.url, replace(model_plan("b"), when_unloaded="load")))
        plan = replace(model_plan(), when_unloaded=when_unloaded)
        before = len(server.requests)
        status, [line], _ = await run(capsys, target_plan(server.url, plan), reference=True, as_json=True)
        generated = [request for request in list(server.requests)[before:] if request.path == "/api/generate"]

    assert status == 1
    assert json.loads(line)["skipped"] == reason
    assert generated == []
