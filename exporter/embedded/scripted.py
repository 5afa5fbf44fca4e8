"""A simulated GPU: words, tokens and pace known beforehand, durations as they really were, and scenes on cue."""

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
from exporter.embedded.scenes import Scene, SceneKind

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
    SceneKind.BUSY,
    SceneKind.STALL_BEFORE_FIRST_TOKEN,
    SceneKind.STALL_IN_THE_MIDDLE,
    SceneKind.CUT,
    SceneKind.HALF_CLOSED,
    SceneKind.NO_DONE,
    SceneKind.JUNK_LINE,
    SceneKind.ERROR_LINE,
    SceneKind.OUT_OF_MEMORY,
    SceneKind.LONG_LINE,
}
TEMPLATE_TOKENS = 5
"""What the chat template adds to a prompt that is not raw."""
RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"
NO_MEMORY = "llama runner process has terminated: cudaMalloc failed: out of memory"
BUSY_TEXT = "server busy, please try again.  maximum pending requests exceeded"


class ScriptedEngine(Engine):
    """Play scenes with `play`, other users with `neighbour`. One token is one chunk; deadlines are absolute."""

    def __init__(self, models: Iterable[ScriptedModel] = (ScriptedModel(),), **scheduling: Any) -> None:
        super().__init__(models, **scheduling)
        self._scenes: list[Scene] = []
        self._neighbours: set[asyncio.Task[None]] = set()

    def play(self, scene: Scene) -> Scene:
        """Start a scene's clock, in the running loop, and return it; `scene.end()` ends it."""
        scene.starts = asyncio.get_running_loop().time() + scene.after_seconds
        self._scenes.append(scene)
        if scene.kind is SceneKind.BUSY and not scene.after_tokens:
            self._send_neighbour(scene)
        return scene

    def neighbour(
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

        task = asyncio.create_task(use(), name="neighbour")
        self._neighbours.add(task)
        task.add_done_callback(self._neighbours.discard)
        return task

    async def close(self) -> None:
        """End the scenes, send the neighbours home, unload."""
        for scene in self._scenes:
            scene.end()
        self._scenes.clear()
        tasks = list(self._neighbours)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()

    async def enter(self, path: str) -> AsyncIterator[bytes] | None:
        """Refuse, stall or send endless headers, where a scene says so."""
        if self._spent(SceneKind.UNAUTHORIZED, path=path):
            raise OllamaError(401, "unauthorized")
        if self._spent(SceneKind.FORBIDDEN, path=path):
            raise OllamaError(403, None)
        if self._spent(SceneKind.SERVER_BUSY, path=path):
            raise OllamaError(503, BUSY_TEXT)
        if scene := self._spent(SceneKind.ENDLESS_HEADERS, path=path):
            return _endless_headers(scene.value(0.01))
        if (scene := self._acting(SceneKind.STALL_BEFORE_FIRST_TOKEN, path=path)) and scene.path:
            self._spend(scene)
            await scene.until_over()
        return None

    def models(self) -> list[Model]:
        """Return the models as the scenes of now have them."""
        return [self._staged(model) for model in self.installed if isinstance(model, ScriptedModel)]

    def expired(self, runner: Runner) -> bool:
        """Whether an idle model's time is up, or it is cold by a scene."""
        return bool(self._acting(SceneKind.COLD, runner.model)) or super().expired(runner)

    def stale(self, runner: Runner, context_length: int, options: Mapping[str, Any]) -> bool:
        """Whether the runner must be started anew: by the options, or because it is dead."""
        return self._dead(runner) or super().stale(runner, context_length, options)

    async def load(self, model: Model, context_length: int) -> None:  # noqa: ARG002 - a scripted load is a wait
        """Take `load_seconds`."""
        scripted = self._staged(model)
        loaded_at = asyncio.get_running_loop().time() + scripted.load_seconds
        if scene := self._spent(SceneKind.OUT_OF_MEMORY, model):
            raise OllamaError(500, scene.text or NO_MEMORY)
        if scene := self._acting(SceneKind.LOAD_FOREVER, model):
            await scene.until_over()
        await _sleep_until(loaded_at)

    async def answer(self, ask: Ask, runner: Runner, loaded_at: float) -> AsyncGenerator[Line | bytes, None]:
        """Yield a token a line, each at its own time, and whatever the scenes make of it."""
        model = self._staged(ask.model)
        clock = asyncio.get_running_loop().time
        begun = clock()
        tokens = model.tokens(ask.num_predict)
        thoughts = round(len(tokens) * model.thinking_ratio) if ask.think or model.always_thinks else 0
        deadline = begun + model.prefill_seconds / self._pace(ask.model, 0)
        struck: set[Scene] = set()
        first = last = begun
        for index, token in enumerate(tokens):
            if self._scenes:
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
            if scene := self._acting(SceneKind.TRICKLE, ask.model, index):
                async for byte in _trickle(line, scene.value(1)):
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

    async def _strike(self, ask: Ask, index: int, struck: set[Scene]) -> AsyncGenerator[Line | bytes, None]:
        """Let each scene that acts after `index` tokens befall this request, once."""
        for scene in [scene for scene in self._scenes if scene.kind in FAULTS and scene not in struck]:
            wrong_place = {
                SceneKind.STALL_IN_THE_MIDDLE: index == 0,
                SceneKind.STALL_BEFORE_FIRST_TOKEN: index > 0,
                SceneKind.BUSY: not scene.after_tokens,  # the neighbour came when the scene was played
            }
            if scene.path or wrong_place.get(scene.kind) or not self._meets(scene, ask.model, index):
                continue
            struck.add(scene)
            self._spend(scene)
            for piece in _sent(scene):
                yield piece
            await self._suffer(scene)

    async def _suffer(self, scene: Scene) -> None:
        match scene.kind:
            case SceneKind.BUSY:
                self._send_neighbour(scene)
            case SceneKind.STALL_BEFORE_FIRST_TOKEN | SceneKind.STALL_IN_THE_MIDDLE:
                await scene.until_over()
            case SceneKind.CUT | SceneKind.HALF_CLOSED:
                raise Hangup(half=scene.kind is SceneKind.HALF_CLOSED)
            case SceneKind.OUT_OF_MEMORY:
                raise OllamaError(500, scene.text or NO_MEMORY)
            case SceneKind.ERROR_LINE | SceneKind.NO_DONE:
                raise _StreamEndsError

    def _distort(self, final: Line, model: Model, tokens: int) -> Iterator[Line]:
        """Return the final line or lines as the scenes want them."""
        durations = [key for key in final if key.endswith("_duration")]
        if scene := self._spent(SceneKind.UNKNOWN_DONE_REASON, model, tokens):
            final["done_reason"] = scene.text or "tired"
        if self._spent(SceneKind.ZERO_DURATIONS, model, tokens):
            final |= dict.fromkeys(durations, 0)
        if self._spent(SceneKind.NEGATIVE_DURATIONS, model, tokens):
            final |= {key: -final[key] for key in durations}
        if self._spent(SceneKind.ABSURD_DURATIONS, model, tokens):
            final |= dict.fromkeys(durations, FOREVER)
        if self._spent(SceneKind.NO_DURATIONS, model, tokens):
            final = {key: value for key, value in final.items() if key not in durations}
        yield final
        if self._spent(SceneKind.DONE_TWICE, model, tokens):
            yield final

    def _staged(self, model: Model) -> ScriptedModel:
        """Return the model as the scenes of now have it."""
        staged = model if isinstance(model, ScriptedModel) else ScriptedModel(model.name)
        if self._acting(SceneKind.CPU, model):
            staged = replace(staged, vram_share=0.0)
        if scene := self._acting(SceneKind.PARTIAL_OFFLOAD, model):
            staged = replace(staged, vram_share=scene.value(0.72))
        if scene := self._acting(SceneKind.THINKING, model):
            staged = replace(staged, thinking_ratio=scene.value(0.5), always_thinks=True)
        if self._acting(SceneKind.CLOUD, model):
            staged = replace(staged, remote_host="https://cloud.example")
        if self._acting(SceneKind.EMBEDDING_ONLY, model):
            return replace(staged, capabilities=("embedding",))
        if staged.thinking_ratio and "thinking" not in staged.capabilities:
            return replace(staged, capabilities=(*staged.capabilities, "thinking"))
        return staged

    def _pace(self, model: Model, tokens: int) -> float:
        """Return the share of its own pace that the model keeps."""
        pace = 1.0
        if scene := self._acting(SceneKind.SLOW, model, tokens):
            pace *= scene.value(1 / 3)
        if self._acting(SceneKind.CPU, model, tokens) or self._acting(SceneKind.CPU_HIDDEN, model, tokens):
            pace *= CPU_PACE
        if scene := self._acting(SceneKind.PARTIAL_OFFLOAD, model, tokens):
            share = scene.value(0.72)
            pace /= share + (1 - share) / CPU_PACE
        return pace

    def _dead(self, runner: Runner, tokens: int | None = None) -> bool:
        scene = self._acting(SceneKind.DEAD_MODEL, runner.model, tokens)
        return scene is not None and scene.began is not None and runner.loaded_at < scene.began

    def _acting(
        self, kind: SceneKind, model: Model | None = None, tokens: int | None = None, path: str | None = None
    ) -> Scene | None:
        for scene in self._scenes:
            here = scene.path is None or path is None or scene.path == path
            if scene.kind is kind and here and self._meets(scene, model, tokens):
                return scene
        return None

    def _meets(self, scene: Scene, model: Model | None, tokens: int | None) -> bool:
        if model is not None and scene.model is not None and Model(scene.model).full_name != model.full_name:
            return False
        return scene.acts(asyncio.get_running_loop().time(), tokens)

    def _spent(
        self, kind: SceneKind, model: Model | None = None, tokens: int | None = None, path: str | None = None
    ) -> Scene | None:
        """Return the acting scene of this kind, once counted."""
        if scene := self._acting(kind, model, tokens, path):
            self._spend(scene)
        return scene

    def _spend(self, scene: Scene) -> None:
        if scene.times:
            scene.times -= 1

    def _send_neighbour(self, scene: Scene) -> None:
        after = max(0.0, scene.starts - asyncio.get_running_loop().time())
        scene.task = self.neighbour(scene.model, seconds=scene.seconds, after_seconds=after)


def _sent(scene: Scene) -> Iterator[Line | bytes]:
    """Yield what a scene puts into the stream."""
    match scene.kind:
        case SceneKind.JUNK_LINE:
            yield (scene.text or "<html><body>502 Bad Gateway</body></html>").encode() + b"\n"
        case SceneKind.ERROR_LINE:
            yield {"error": scene.text or RUNNER_DIED}
        case SceneKind.LONG_LINE:
            yield b'{"response":"'
            yield from itertools.repeat(b"x" * 10**6, round(scene.value(10**8)) // 10**6)
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
