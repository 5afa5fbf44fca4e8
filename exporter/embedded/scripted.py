"""A simulated GPU: words, tokens and pace known beforehand, durations as they really were, and faults on cue."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from exporter.embedded.engine import (
    FOREVER,
    Ask,
    Engine,
    Hangup,
    Line,
    Model,
    OllamaError,
    Runner,
    Timings,
    parse_keep_alive,
)
from exporter.embedded.faults import Fault, FaultKind

CPU_PACE = 0.03
"""What was measured on an H100's host: 5.4 of 161.8 tokens a second."""
VOCABULARY = (
    "a an the of to in and is are with from each when which that this over under between layer layers weight weights "
    "bias input output hidden state gradient gradients loss function activ|ation network networks neuron data sample "
    "batch epoch learning deep machine train|ing test valid|ation error rate moment|um optim|izer regular|ization "
    "drop|out normal|ization convolution kernel pooling stride padding recurrent sequence token tokens embed|ding "
    "attention query key value head heads trans|former encoder decoder language model vision image feature map class "
    "label un|supervised rein|force|ment reward policy agent environ|ment estimate prior posterior latent variable "
    "auto|encoder generator discrimin|ator adversarial noise diffusion step back|propagation chain rule matrix vector "
    "tensor product mean variance softmax linear depth width memory compute precision quant|ization pruning transfer "
    "fine-tun|ing prompt context window scaling law general|ization over|fitting capacity trade-off"
)


@lru_cache
def scripted_tokens(seed: str, count: int) -> tuple[str, ...]:
    """Return the first `count` tokens of the text that belongs to a name: words of one to three tokens, sentences."""
    return tuple(itertools.islice(_endless_tokens(seed), count))


def _endless_tokens(seed: str) -> Iterator[str]:
    dice = random.Random(seed)  # noqa: S311 - a text, not a secret
    words, space = VOCABULARY.split(), ""
    while True:
        for position in range(dice.randint(5, 12)):
            first, *rest = dice.choice(words).split("|")
            yield space + (first if position else first.capitalize())
            yield from rest
            space = " "
        yield "."
        if not dice.randrange(4):
            yield "\n\n"
            space = ""


@dataclass(frozen=True)
class ScriptedModel(Model):
    """A model whose every answer is known beforehand."""

    name: str = "llama3.1"
    tokens_per_second: float = 100
    prefill_seconds: float = 0.02
    load_seconds: float = 0.2
    vram_share: float = 1.0
    """How much of it is on the GPU, and told so."""
    length: int = 512
    """Tokens after which it stops by itself."""
    text: str | None = None
    """What it says, a word a token; None is a text made from its name."""
    thinking_ratio: float = 0.0
    """Share of the tokens that are thinking, where it may think."""
    always_thinks: bool = False
    """Whether it thinks even when told not to."""

    def tokens(self, num_predict: int | None = None) -> tuple[str, ...]:
        """Return the tokens of an answer; joined they are its text, thinking included."""
        count = self.length if num_predict is None or num_predict <= 0 else min(num_predict, self.length)
        if self.text is not None:
            return tuple(re.findall(r"\s*\S+", self.text)[:count])
        return scripted_tokens(self.full_name, count)

    def answer(self, num_predict: int | None = None) -> str:
        """Return the whole text of an answer."""
        return "".join(self.tokens(num_predict))

    def resident_bytes(self) -> tuple[int, int]:
        """Return `size` and `size_vram` of `/api/ps`: the weights and a tenth for the cache."""
        size = self.size_bytes + self.size_bytes // 10
        return size, round(size * self.vram_share)


class _StreamEndsError(Exception):
    """The answer ends here, without its final line."""


FAULTS = {
    FaultKind.BUSY,
    FaultKind.STALL_BEFORE_FIRST_TOKEN,
    FaultKind.STALL_IN_THE_MIDDLE,
    FaultKind.CUT,
    FaultKind.HALF_CLOSED,
    FaultKind.NO_DONE,
    FaultKind.JUNK_LINE,
    FaultKind.ERROR_LINE,
    FaultKind.OUT_OF_MEMORY,
    FaultKind.LONG_LINE,
}
TEMPLATE_TOKENS = 5
"""What the chat template adds to a prompt that is not raw."""
RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"
NO_MEMORY = "llama runner process has terminated: cudaMalloc failed: out of memory"
BUSY_TEXT = "server busy, please try again.  maximum pending requests exceeded"


class ScriptedEngine(Engine):
    """Play faults with `play`, other users with `other_client`. One token is one chunk; deadlines are absolute."""

    def __init__(self, models: Iterable[ScriptedModel] = (ScriptedModel(),), **scheduling: Any) -> None:
        super().__init__(models, **scheduling)
        self._faults: list[Fault] = []
        self._other_clients: set[asyncio.Task[None]] = set()

    def inject(self, fault: Fault) -> Fault:
        """Start a fault's clock, in the running loop, and return it; `fault.end()` ends it."""
        fault.starts = asyncio.get_running_loop().time() + fault.after_seconds
        self._faults.append(fault)
        if fault.kind is FaultKind.BUSY and not fault.after_tokens:
            self._start_other_client(fault)
        return fault

    def other_client(
        self,
        model: str | None = None,
        *,
        seconds: float | None = None,
        tokens: int | None = None,
        after_seconds: float = 0,
        keep_alive: float | str | None = None,
        num_ctx: int | None = None,
    ) -> asyncio.Task[None]:
        """Send somebody else's request: it loads, waits and holds a slot as any other, for `seconds` or `tokens`.

        With neither it holds the slot until the task is cancelled.
        """

        async def use() -> None:
            await asyncio.sleep(after_seconds)
            found = self.find(model) if model else self.models()[0]
            if found is None:
                raise OllamaError(404, f"model '{model}' not found")
            holding = tokens / self._staged(found).tokens_per_second if tokens is not None else seconds
            options = {} if num_ctx is None else {"num_ctx": num_ctx}
            async with self.hold(found, options, parse_keep_alive(keep_alive)) as runner, runner.slots:
                await (asyncio.Event().wait() if holding is None else asyncio.sleep(holding))

        task = asyncio.create_task(use(), name="other_client")
        self._other_clients.add(task)
        task.add_done_callback(self._other_clients.discard)
        return task

    async def close(self) -> None:
        """End the faults, send the other_clients home, unload."""
        for fault in self._faults:
            fault.end()
        self._faults.clear()
        tasks = list(self._other_clients)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()

    async def enter(self, path: str) -> AsyncIterator[bytes] | None:
        """Refuse, stall or send endless headers, where a fault says so."""
        if self._spent(FaultKind.UNAUTHORIZED, path=path):
            raise OllamaError(401, "unauthorized")
        if self._spent(FaultKind.FORBIDDEN, path=path):
            raise OllamaError(403, None)
        if self._spent(FaultKind.SERVER_BUSY, path=path):
            raise OllamaError(503, BUSY_TEXT)
        if fault := self._spent(FaultKind.ENDLESS_HEADERS, path=path):
            return _endless_headers(fault.value(0.01))
        if (fault := self._acting(FaultKind.STALL_BEFORE_FIRST_TOKEN, path=path)) and fault.path:
            self._spend(fault)
            await fault.until_over()
        return None

    def models(self) -> list[Model]:
        """Return the models as the faults of now have them."""
        return [self._staged(model) for model in self.installed if isinstance(model, ScriptedModel)]

    def expired(self, runner: Runner) -> bool:
        """Whether an idle model's time is up, or it is cold by a fault."""
        return bool(self._acting(FaultKind.COLD, runner.model)) or super().expired(runner)

    def stale(self, runner: Runner, context_length: int, options: Mapping[str, Any]) -> bool:
        """Whether the runner must be started anew: by the options, or because it is dead."""
        return self._dead(runner) or super().stale(runner, context_length, options)

    async def load(self, model: Model, context_length: int) -> None:  # noqa: ARG002 - a scripted load is a wait
        """Take `load_seconds`."""
        scripted = self._staged(model)
        loaded_at = asyncio.get_running_loop().time() + scripted.load_seconds
        if fault := self._spent(FaultKind.OUT_OF_MEMORY, model):
            raise OllamaError(500, fault.text or NO_MEMORY)
        if fault := self._acting(FaultKind.LOAD_FOREVER, model):
            await fault.until_over()
        await _sleep_until(loaded_at)

    async def answer(self, ask: Ask, runner: Runner, loaded_at: float) -> AsyncGenerator[Line | bytes, None]:
        """Yield a token a line, each at its own time, and whatever the faults make of it."""
        model = self._staged(ask.model)
        clock = asyncio.get_running_loop().time
        begun = clock()
        tokens = model.tokens(ask.num_predict)
        thoughts = round(len(tokens) * model.thinking_ratio) if ask.think or model.always_thinks else 0
        deadline = begun + model.prefill_seconds / self._pace(ask.model, 0)
        struck: set[Fault] = set()
        first = last = begun
        for index, token in enumerate(tokens):
            if self._faults:
                before = clock()
                try:
                    async for piece in self._strike(ask, index, struck):
                        yield piece
                except _StreamEndsError:
                    return
                deadline += clock() - before
            await _sleep_until(deadline)
            if self._dead(runner, index):
                raise OllamaError(500, RUNNER_DIED)
            last = clock()
            first = first if index else last
            line = self.line(ask, token, thinking=index < thoughts)
            if fault := self._acting(FaultKind.TRICKLE, ask.model, index):
                async for byte in _trickle(line, fault.value(1)):
                    yield byte
            else:
                yield line
            deadline += 1 / (model.tokens_per_second * self._pace(ask.model, index + 1))
        prompt = len(re.findall(r"\w+|[^\w\s]", ask.prompt)) + (0 if ask.raw else TEMPLATE_TOKENS)
        stopped = len(tokens) < (ask.num_predict or FOREVER)
        timings = Timings(prompt, first - begun, len(tokens), last - first, stopped)
        final = self.final(ask, loaded_at, timings, list(range(prompt + len(tokens))))
        for line in self._distort(final, ask.model, len(tokens)):
            yield line

    async def _strike(self, ask: Ask, index: int, struck: set[Fault]) -> AsyncGenerator[Line | bytes, None]:
        """Let each fault that acts after `index` tokens befall this request, once."""
        for fault in [fault for fault in self._faults if fault.kind in FAULTS and fault not in struck]:
            wrong_place = {
                FaultKind.STALL_IN_THE_MIDDLE: index == 0,
                FaultKind.STALL_BEFORE_FIRST_TOKEN: index > 0,
                FaultKind.BUSY: not fault.after_tokens,  # the other_client came when the fault was played
            }
            if fault.path or wrong_place.get(fault.kind) or not self._meets(fault, ask.model, index):
                continue
            struck.add(fault)
            self._spend(fault)
            for piece in _sent(fault):
                yield piece
            await self._suffer(fault)

    async def _suffer(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.BUSY:
                self._start_other_client(fault)
            case FaultKind.STALL_BEFORE_FIRST_TOKEN | FaultKind.STALL_IN_THE_MIDDLE:
                await fault.until_over()
            case FaultKind.CUT | FaultKind.HALF_CLOSED:
                raise Hangup(half=fault.kind is FaultKind.HALF_CLOSED)
            case FaultKind.OUT_OF_MEMORY:
                raise OllamaError(500, fault.text or NO_MEMORY)
            case FaultKind.ERROR_LINE | FaultKind.NO_DONE:
                raise _StreamEndsError

    def _distort(self, final: Line, model: Model, tokens: int) -> Iterator[Line]:
        """Return the final line or lines as the faults want them."""
        durations = [key for key in final if key.endswith("_duration")]
        if fault := self._spent(FaultKind.UNKNOWN_DONE_REASON, model, tokens):
            final["done_reason"] = fault.text or "tired"
        if self._spent(FaultKind.ZERO_DURATIONS, model, tokens):
            final |= dict.fromkeys(durations, 0)
        if self._spent(FaultKind.NEGATIVE_DURATIONS, model, tokens):
            final |= {key: -final[key] for key in durations}
        if self._spent(FaultKind.ABSURD_DURATIONS, model, tokens):
            final |= dict.fromkeys(durations, FOREVER)
        if self._spent(FaultKind.NO_DURATIONS, model, tokens):
            final = {key: value for key, value in final.items() if key not in durations}
        yield final
        if self._spent(FaultKind.DONE_TWICE, model, tokens):
            yield final

    def _staged(self, model: Model) -> ScriptedModel:
        """Return the model as the faults of now have it."""
        staged = model if isinstance(model, ScriptedModel) else ScriptedModel(model.name)
        if self._acting(FaultKind.CPU, model):
            staged = replace(staged, vram_share=0.0)
        if fault := self._acting(FaultKind.PARTIAL_OFFLOAD, model):
            staged = replace(staged, vram_share=fault.value(0.72))
        if fault := self._acting(FaultKind.THINKING, model):
            staged = replace(staged, thinking_ratio=fault.value(0.5), always_thinks=True)
        if self._acting(FaultKind.CLOUD, model):
            staged = replace(staged, remote_host="https://cloud.example")
        if self._acting(FaultKind.EMBEDDING_ONLY, model):
            return replace(staged, capabilities=("embedding",))
        if staged.thinking_ratio and "thinking" not in staged.capabilities:
            return replace(staged, capabilities=(*staged.capabilities, "thinking"))
        return staged

    def _pace(self, model: Model, tokens: int) -> float:
        """Return the share of its own pace that the model keeps."""
        pace = 1.0
        if fault := self._acting(FaultKind.SLOW, model, tokens):
            pace *= fault.value(1 / 3)
        if self._acting(FaultKind.CPU, model, tokens) or self._acting(FaultKind.CPU_HIDDEN, model, tokens):
            pace *= CPU_PACE
        if fault := self._acting(FaultKind.PARTIAL_OFFLOAD, model, tokens):
            share = fault.value(0.72)
            pace /= share + (1 - share) / CPU_PACE
        return pace

    def _dead(self, runner: Runner, tokens: int | None = None) -> bool:
        fault = self._acting(FaultKind.DEAD_MODEL, runner.model, tokens)
        return fault is not None and fault.began is not None and runner.loaded_at < fault.began

    def _acting(
        self, kind: FaultKind, model: Model | None = None, tokens: int | None = None, path: str | None = None
    ) -> Fault | None:
        for fault in self._faults:
            here = fault.path is None or path is None or fault.path == path
            if fault.kind is kind and here and self._meets(fault, model, tokens):
                return fault
        return None

    def _meets(self, fault: Fault, model: Model | None, tokens: int | None) -> bool:
        if model is not None and fault.model is not None and Model(fault.model).full_name != model.full_name:
            return False
        return fault.acts(asyncio.get_running_loop().time(), tokens)

    def _spent(
        self, kind: FaultKind, model: Model | None = None, tokens: int | None = None, path: str | None = None
    ) -> Fault | None:
        """Return the acting fault of this kind, once counted."""
        if fault := self._acting(kind, model, tokens, path):
            self._spend(fault)
        return fault

    def _spend(self, fault: Fault) -> None:
        if fault.times:
            fault.times -= 1

    def _start_other_client(self, fault: Fault) -> None:
        after = max(0.0, fault.starts - asyncio.get_running_loop().time())
        fault.task = self.other_client(fault.model, seconds=fault.seconds, after_seconds=after)


def _sent(fault: Fault) -> Iterator[Line | bytes]:
    """Yield what a fault puts into the stream."""
    match fault.kind:
        case FaultKind.JUNK_LINE:
            yield (fault.text or "<html><body>502 Bad Gateway</body></html>").encode() + b"\n"
        case FaultKind.ERROR_LINE:
            yield {"error": fault.text or RUNNER_DIED}
        case FaultKind.LONG_LINE:
            yield b'{"response":"'
            yield from itertools.repeat(b"x" * 10**6, round(fault.value(10**8)) // 10**6)
            yield b'","done":false}\n'


async def _sleep_until(deadline: float) -> None:
    await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))


async def _trickle(line: Line, seconds: float) -> AsyncGenerator[bytes, None]:
    for byte in json.dumps(line).encode() + b"\n":
        await asyncio.sleep(seconds)
        yield bytes([byte])


async def _endless_headers(seconds: float) -> AsyncGenerator[bytes, None]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in itertools.count():
        await asyncio.sleep(seconds)
        yield f"X-Filler-{number:08d}: {'x' * 43}\r\n".encode()
