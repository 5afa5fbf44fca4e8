"""The bodies of Ollama's API: how requests are validated and responses are built, as Ollama 0.33 does it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Mapping
from typing import Any

from exporter.durations import Duration
from exporter.embedded.engine import Runner
from exporter.embedded.values import NANOSECONDS, GenerateRequest, Line, Model, OllamaError, rfc3339

LONGEST_NS = 2**63 - 1
"""Go's longest duration, 292 years: what a negative `keep_alive` means."""
_NUMBER = (int, float)
_INTEGERS = (
    "num_ctx num_batch num_gpu main_gpu num_thread num_keep seed num_predict top_k repeat_last_n draft_num_predict"
)
_FLOATS = "top_p min_p typical_p temperature repeat_penalty presence_penalty frequency_penalty"
OPTION_TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys(_INTEGERS.split(), ("integer", _NUMBER)),
    **dict.fromkeys(_FLOATS.split(), ("float32", _NUMBER)),
    "use_mmap": ("boolean", (bool,)),
    "stop": ("array", (list,)),
}
"""By option: the name of its type in Ollama's errors, and the Python types of its JSON values."""


def parse_keep_alive(value: Any) -> int | None:
    """Return nanoseconds. Numbers are seconds, strings are Go durations; anything negative is LONGEST_NS.

    Raises OllamaError where Ollama refuses the value.
    """
    if value is None:
        return None
    if isinstance(value, str):
        unsigned = value[1:] if value[:1] in {"+", "-"} else value
        try:
            seconds = float(Duration.parse("0s" if unsigned == "0" else unsigned))
        except ValueError:
            raise OllamaError(400, f'time: invalid duration "{value}"') from None
        return LONGEST_NS if value.startswith("-") else round(seconds * NANOSECONDS)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OllamaError(400, "invalid keep_alive")
    return LONGEST_NS if value < 0 else round(value * NANOSECONDS)


def parse_body(raw: bytes) -> Mapping[str, Any]:
    """Return the JSON object that was sent. Raises OllamaError with the messages of Go's decoder."""
    text = raw.decode(errors="replace")
    if not text:
        raise OllamaError(400, "missing request body")
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text):
            raise OllamaError(400, "unexpected EOF") from None
        expected = "object key string" if "property name" in error.msg else "value"
        raise OllamaError(400, f"invalid character '{text[error.pos]}' looking for beginning of {expected}") from None
    types = {"model": str, "name": str, "prompt": str, "options": dict, "stream": bool, "raw": bool}
    for name, type_ in types.items() if isinstance(body, dict) else [("", dict)]:
        value = body.get(name) if isinstance(body, dict) else body
        if value is not None and not isinstance(value, type_):
            raise OllamaError(400, f"json: cannot unmarshal {type(value).__name__} into Go struct field {name}")
    return body or {}


def generate_request(body: Mapping[str, Any], model: Model, received_at: float) -> GenerateRequest:
    """Return the request that a body of `/api/generate` describes. Without `think`, a thinking model thinks."""
    can_think, think = "thinking" in model.capabilities, body.get("think")
    return GenerateRequest(
        model=model,
        requested_name=body["model"],
        prompt=body.get("prompt") or "",
        raw=bool(body.get("raw")),
        think=can_think if think is None else bool(think),
        options=body.get("options") or {},
        keep_alive_ns=parse_keep_alive(body.get("keep_alive")),
        received_at=received_at,
    )


def check_request(request: GenerateRequest) -> None:
    """Raise OllamaError for what the model cannot do, then for options of a wrong type: in Ollama's order."""
    for capability, wanted, name in (("thinking", request.think, "thinking"), ("completion", True, "generate")):
        if wanted and capability not in request.model.capabilities:
            raise OllamaError(400, f'"{request.requested_name}" does not support {name}')
    for key, value in request.options.items():
        _check_option(key, value)


def _check_option(key: str, value: Any) -> None:
    if value is None or key not in OPTION_TYPES:
        return
    type_name, types = OPTION_TYPES[key]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise OllamaError(500, f'option "{key}" must be of type {type_name}')


async def join_lines(lines: AsyncIterable[Line | bytes]) -> Line:
    """Return the answer to a request without streaming: the last line, with the text of all lines."""
    last: Line = {}
    text = thinking = ""
    async for line in lines:
        if isinstance(line, dict):
            last, text, thinking = line, text + line["response"], thinking + line.get("thinking", "")
    return last | {"response": text} | ({"thinking": thinking} if thinking else {})


def tags_entry(model: Model) -> Line:
    """Return an installed model's entry in `/api/tags`."""
    lengths = {"context_length": model.context_length, "embedding_length": model.embedding_length}
    return (
        {"name": model.full_name, "model": model.full_name}
        | _remote(model)
        | {"modified_at": rfc3339(model.modified_ns), "size": model.size_bytes, "digest": model.sha256}
        | {"details": _details(model) | lengths, "capabilities": list(model.capabilities)}
    )


def ps_entry(model: Model, runner: Runner, now_ns: int) -> Line:
    """Return a loaded model's entry in `/api/ps`."""
    size, size_vram = model.resident_bytes()
    expires_ns = now_ns + runner.keep_alive_ns if runner.expires_ns is None else runner.expires_ns
    return {
        "name": model.full_name,
        "model": model.full_name,
        "size": size,
        "digest": model.sha256,
        "details": _details(model),
        "expires_at": rfc3339(expires_ns),
        "size_vram": size_vram,
        "context_length": runner.context_length,
    }


def show_response(model: Model) -> Line:
    """Return the response of `/api/show`."""
    head = '# Modelfile generated by "ollama show"\n\n'
    return _remote(model) | {
        "modelfile": f"{head}FROM {model.path}\nTEMPLATE {{{{ .Prompt }}}}\n",
        "template": "{{ .Prompt }}",
        "details": _details(model),
        "model_info": {
            "general.architecture": model.family,
            "general.parameter_count": _parameter_count(model.parameter_size),
            f"{model.family}.context_length": model.context_length,
            f"{model.family}.embedding_length": model.embedding_length,
        },
        "capabilities": list(model.capabilities),
        "modified_at": rfc3339(model.modified_ns),
    }


def _details(model: Model) -> Line:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization_level,
    }


def _remote(model: Model) -> Line:
    return {"remote_model": model.name, "remote_host": model.remote_host} if model.remote_host else {}


def _parameter_count(size: str) -> int:
    """Return the number for a size such as `8.0B`, 0 if it is not a size."""
    scale = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
    return round(float(size[:-1]) * scale[size[-1]]) if size[-1:] in scale else 0
