"""One answer: prompt in, text pieces out, every token with its log-probability.

The key-value cache lives and dies with the answer. Sampling is `sampling.draw` and nothing else; text comes from
`text`, the same way for a stream and for a whole answer, so both are the same text. One thread runs this at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from genealog.engine.events import Drawn, Ended, Event, Job, Piece, Started
from genealog.engine.loading import Runnable
from genealog.engine.sampling import draw, log_probabilities
from genealog.engine.text import Detokenizer, StopFinder
from genealog.errors import GenealogError, MalformedError


def generate(model: Runnable, job: Job, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Yield Started, Pieces and Ended. `cancelled` is asked before every token; then the answer just stops.

    Raises: MalformedError `context-too-long`, `template-refused`; GenealogError `engine-failed`.
    """
    prompt, limit = _prompt(model, job)
    yield Started(prompt, limit)
    detokenizer, stops = Detokenizer(model.decode), StopFinder(job.stop)
    tokens: list[int] = []
    logprobs: list[np.float32] = []
    waiting: list[Drawn] = []
    finish: Literal["stop", "length"] = "length"
    for drawn, logprob in _tokens(model, job, prompt, limit, cancelled):
        tokens.append(drawn.id)
        logprobs.append(logprob)
        if drawn.id in model.end_tokens:
            finish = "stop"
            break
        waiting.append(drawn)
        if text := stops.push(detokenizer.push(drawn.id)):
            yield Piece(text, tuple(waiting))
            waiting = []
        if stops.found:
            finish = "stop"
            break
    if cancelled():
        return
    if not stops.found:
        text = stops.push(detokenizer.flush()) + stops.flush()
        finish = "stop" if stops.found else finish
        if text or waiting:
            yield Piece(text, tuple(waiting))
    yield Ended(finish, tuple(tokens), np.array(logprobs, dtype=np.float32))


def _prompt(model: Runnable, job: Job) -> tuple[tuple[int, ...], int]:
    prompt = model.encode(job.messages)
    room = model.context - len(prompt)
    limit = room if job.max_tokens is None else job.max_tokens
    if not prompt or room < 1 or limit > room:
        raise MalformedError(
            "context-too-long" if prompt else "empty-prompt", "prompt and answer do not fit the model's context",
            got=f"{len(prompt)} tokens of prompt and {limit if room > 0 else 'some'} of answer",
            expected=f"≤ {model.context} together", hint="shorten the messages or lower max_tokens",
        )  # fmt: skip
    return prompt, limit


def _tokens(
    model: Runnable, job: Job, prompt: Sequence[int], limit: int, cancelled: Callable[[], bool]
) -> Iterator[tuple[Drawn, np.float32]]:
    cache: Any = None
    feed = list(prompt)
    for position in range(limit):
        if cancelled():
            return
        logits, cache = _forward(model, feed, cache)
        token = draw(logits, job.sampler, position)
        known = log_probabilities(logits)
        likeliest = np.argsort(-known, kind="stable")[: job.top] if job.top else ()
        top = tuple((model.spell(int(i)), float(known[i])) for i in likeliest)
        yield Drawn(token, model.spell(token), float(known[token]), top), known[token]
        feed = [token]


@torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
def _forward(model: Runnable, tokens: list[int], cache: Any) -> tuple[NDArray[np.float32], Any]:
    """Return the logits after the last token, float32, and the cache that now covers it."""
    try:
        out = model.module(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    except RuntimeError as error:
        raise GenealogError("engine-failed", "the model failed to compute", got=str(error)[:200]) from None
    logits: NDArray[np.float32] = out.logits[0, -1].float().numpy()
    if not np.isfinite(logits).all():
        raise GenealogError("engine-failed", "the model computed figures that are no numbers")
    return logits, out.past_key_values
