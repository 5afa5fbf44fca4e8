"""A simulated GPU: an engine whose texts and rates are known in advance, and which takes the time that it reports."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from exporter.embedded.engine import Engine, Runner
from exporter.embedded.values import GenerateRequest, Line, Model, Timings

CPU_RATE_SHARE = 0.03
"""The rate on the CPU as a share of the rate on the GPU, as measured on an H100's host: 5.4 of 161.8 tokens/s."""
TEMPLATE_TOKENS = 5
"""Tokens that the chat template adds to a prompt that is not raw."""
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
    """Return the first `count` tokens of the text that a seed determines: sentences of words of one to three tokens."""
    return tuple(itertools.islice(_endless_tokens(seed), count))


def _endless_tokens(seed: str) -> Iterator[str]:
    generator = random.Random(seed)  # noqa: S311 - the seed of a text, not a secret
    words, space = VOCABULARY.split(), ""
    while True:
        for position in range(generator.randint(5, 12)):
            first, *rest = generator.choice(words).split("|")
            yield space + (first if position else first.capitalize())
            yield from rest
            space = " "
        yield "."
        if not generator.randrange(4):
            yield "\n\n"
            space = ""


@dataclass(frozen=True)
class ScriptedModel(Model):
    """A model whose answers and rates are known in advance."""

    name: str = "llama3.1"
    tokens_per_second: float = 100
    prefill_seconds: float = 0.02
    load_seconds: float = 0.2
    vram_share: float = 1.0
    """Share of the model on the GPU, as `/api/ps` reports it. It does not change the rate: see `with_gpu_share`."""
    length: int = 512
    """Tokens after which the model ends its answer."""
    text: str | None = None
    """The answer, one token per word; None generates a text from the model's name."""
    thinking_ratio: float = 0.0
    """Share of the tokens that are thinking, where thinking is enabled. Above 0 the model has that capability."""
    always_thinks: bool = False
    """Whether it thinks even when the request disables it."""

    def __post_init__(self) -> None:
        if self.thinking_ratio and "thinking" not in self.capabilities:
            object.__setattr__(self, "capabilities", (*self.capabilities, "thinking"))

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

    def at_rate(self, share: float) -> ScriptedModel:
        """Return this model at a share of its rates, for the prompt and for the answer."""
        tokens_per_second, prefill_seconds = self.tokens_per_second * share, self.prefill_seconds / share
        return replace(self, tokens_per_second=tokens_per_second, prefill_seconds=prefill_seconds)

    def with_gpu_share(self, share: float) -> ScriptedModel:
        """Return this model with only a share of it on the GPU, the rest at the rate of the CPU."""
        return replace(self, vram_share=share).at_rate(1 / (share + (1 - share) / CPU_RATE_SHARE))


class ScriptedEngine(Engine):
    """Generates at the rate of a ScriptedModel. One token is one line, and the due times of tokens are absolute.

    A subclass may override `current`, `before_token` and, to change what is sent, `answer`.
    """

    def __init__(self, models: Iterable[ScriptedModel] = (ScriptedModel(),), **scheduling: Any) -> None:
        super().__init__(models, **scheduling)

    def current(self, model: ScriptedModel, tokens: int | None = None) -> ScriptedModel:  # noqa: ARG002 - for subclasses
        """Return an installed model as it is now, for a request that has generated `tokens` (None: for no request)."""
        return model

    async def before_token(self, request: GenerateRequest, runner: Runner, index: int) -> None:
        """Wait or raise before the token of this index is generated. All later tokens are delayed by the wait."""

    def models(self) -> list[Model]:
        """Return the installed models as they are now."""
        return [self.current(model) for model in self.installed if isinstance(model, ScriptedModel)]

    async def load(self, model: Model, context_length: int) -> None:  # noqa: ARG002 - any length takes the same time
        """Wait for `load_seconds`."""
        await asyncio.sleep(self.current(self._installed(model)).load_seconds)

    async def answer(
        self, request: GenerateRequest, runner: Runner, loaded_at: float
    ) -> AsyncGenerator[Line | bytes, None]:
        """Yield one line per token, each when it is due, and the final line."""
        clock = asyncio.get_running_loop().time
        installed = self._installed(request.model)
        model = self.current(installed, 0)
        tokens = model.tokens(request.num_predict)
        thinking_tokens = round(len(tokens) * model.thinking_ratio) if request.think or model.always_thinks else 0
        began = first = last = clock()
        due = began + model.prefill_seconds
        for index, token in enumerate(tokens):
            before = clock()
            await self.before_token(request, runner, index)
            due += clock() - before
            await asyncio.sleep(max(0.0, due - clock()))
            last = clock()
            first = first if index else last
            yield self.line(request, token, thinking=index < thinking_tokens)
            due += 1 / self.current(installed, index + 1).tokens_per_second
        prompt_tokens = len(re.findall(r"\w+|[^\w\s]", request.prompt)) + (0 if request.raw else TEMPLATE_TOKENS)
        stopped = request.num_predict is None or len(tokens) < request.num_predict
        timings = Timings(prompt_tokens, first - began, len(tokens), last - first, stopped)
        yield self.final_line(request, loaded_at, timings, list(range(prompt_tokens + len(tokens))))

    def _installed(self, model: Model) -> ScriptedModel:
        """Return a model as it was installed."""
        return next(
            each for each in self.installed if isinstance(each, ScriptedModel) and each.full_name == model.full_name
        )


class OffloadingEngine(ScriptedEngine):
    """A scripted engine whose models partly leave the GPU `after_seconds` after its construction."""

    def __init__(
        self, models: Iterable[ScriptedModel], *, gpu_share: float, after_seconds: float, **scheduling: Any
    ) -> None:
        super().__init__(models, **scheduling)
        self.gpu_share = gpu_share
        self._offloads_at = asyncio.get_running_loop().time() + after_seconds

    def current(self, model: ScriptedModel, tokens: int | None = None) -> ScriptedModel:
        """Return the model, with only a part of it on the GPU once `after_seconds` have passed."""
        current = super().current(model, tokens)
        if asyncio.get_running_loop().time() < self._offloads_at:
            return current
        return current.with_gpu_share(self.gpu_share)
