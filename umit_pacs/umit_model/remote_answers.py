"""Between a question and a server: the request in the server's dialect, and its reply as the local engine's answer.

A question is asked freely first, so that the log-probabilities are the model's own; only where the free answer is none
of the task's form is it asked again with structured output. The first answer that the grammar allows is the one that
the local engine gives: ruling tokens out does not change a greedy answer that keeps to them.

The server lists the likeliest tokens of each place alone. A watched token that is not among them is taken as likely as
the least likely listed one, or as all that the listed ones leave over, whichever is less; where SGLang's text fits
several tokens, each of them is taken for the likeliest of that text. So none counts as less likely than it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model import answers
from umit_pacs.umit_model.chat_api import TOP_LOGPROBS, Reply, SaidToken, image_message
from umit_pacs.umit_model.confidence import TokenWatch
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame
from umit_pacs.umit_model.generation import GeneratedAnswer
from umit_pacs.umit_model.grammar import Grammar
from umit_pacs.umit_model.processor import ImageTextProcessor
from umit_pacs.umit_model.questions import PLACE_TASKS, Question, ShownImage

Dialect = Literal["vllm", "sglang"]

_TOKEN_ID = "token_id:"
_LEAST_LOGPROB = -50.0


def request_body(
    model: str,
    instruction: str,
    images: Sequence[str],
    *,
    maximum_new_tokens: int,
    stop_ids: Sequence[int],
    dialect: Dialect,
) -> dict[str, Any]:
    """One question without structured output; images: data URLs.

    What a server would take from the model's generation_config.json is said, so that the answer is the greedy one.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": image_message(instruction, images),
        "max_completion_tokens": maximum_new_tokens,
        "temperature": 0.0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": list(stop_ids),
        "logprobs": True,
        "top_logprobs": TOP_LOGPROBS,
        "skip_special_tokens": False,
    }
    if dialect == "vllm":
        # Text of tokens is not unique: half of a Chinese character is no text.
        body |= {"return_tokens_as_token_ids": True, "spaces_between_special_tokens": False}
    return body


def model_name(base: str, adapter: str, dialect: Dialect) -> str:
    """What a request names: the adapter, or the base model itself."""
    if not adapter:
        return base
    return adapter if dialect == "vllm" else f"{base}:{adapter}"


# --- structured output -------------------------------------------------------------------------------------------


def structured_output(question: Question, shown: ShownImage, dialect: Dialect) -> dict[str, Any]:
    """The fields that keep an answer to its form: an option, or places within the frame; {} where it is free."""
    if question.option_ids:
        texts = [
            answers.closed_answer(index, question.options, question.order.task, question.order.language)
            for index in range(len(question.options))
        ]
        if dialect == "vllm":
            return {"structured_outputs": {"choice": texts}}
        return {"regex": "|".join(f"({re.escape(text)})" for text in texts)}
    if question.order.task not in PLACE_TASKS:
        return {}
    pattern = places_pattern(question, shown)
    return {"structured_outputs": {"regex": pattern}} if dialect == "vllm" else {"regex": pattern}


def places_pattern(question: Question, shown: ShownImage) -> str:
    """A regular expression for the places of a question about `shown`, or the word for none."""
    task, language = question.order.task, question.order.language
    frame = CoordinateFrame.parse(question.profile.frame)
    numbers = [up_to(value) for value in frame.largest(len(shown.extent), resized_xy=shown.resized_xy)]
    one, two = _examples(task, language, axes=len(numbers))
    first, later = _with_numbers(one, numbers), _with_numbers(two[len(one) :], numbers)
    # More would not come to their end: a place takes at least a token per character of its marks.
    most = 1 if task is Task.LANDMARK else min(answers.MOST_BOXES, 1 + question.profile.maximum_new_tokens // 10)
    places = first if most == 1 else f"{first}({later}){{0,{most - 1}}}"
    return f"({places})|({re.escape(answers.NOTHING[language])})"


def _examples(task: Task, language: Language, *, axes: int) -> tuple[str, str]:
    if task is Task.LANDMARK:
        point = answers.point_answer((1, 1), language)
        return point, point
    corner = (1,) * axes
    one, two = (answers.boxes_answer([(corner, corner)] * count, language) for count in (1, 2))
    return one, two


def _with_numbers(example: str, numbers: Sequence[str]) -> str:
    parts = re.split(r"\d+", example)
    pattern = re.escape(parts[0])
    for place, part in enumerate(parts[1:]):
        pattern += numbers[place % len(numbers)] + re.escape(part)
    return pattern


def up_to(largest: int) -> str:
    """A regular expression for 0 to `largest` without leading zeros."""
    digits = str(largest)
    kinds = ["0"] if largest else []
    kinds += [r"[1-9]" + r"[0-9]" * shorter for shorter in range(len(digits) - 1)]
    for place, digit in enumerate(digits):
        least = 1 if place == 0 and len(digits) > 1 else 0
        if place == 0 and len(digits) == 1:
            least = 1
        if int(digit) > least:
            kinds.append(f"{digits[:place]}[{least}-{int(digit) - 1}]" + r"[0-9]" * (len(digits) - place - 1))
    return f"({'|'.join([*kinds, digits])})"


# --- replies -----------------------------------------------------------------------------------------------------


class ReplyReader:
    """Replies of one server as answers of one tokenizer."""

    def __init__(self, processor: ImageTextProcessor, stop_ids: Sequence[int], dialect: Dialect) -> None:
        self._tokenizer = processor.tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._dialect = dialect

    def read(self, reply: Reply, watch: TokenWatch) -> GeneratedAnswer | None:
        """The answer; None when the tokens of a reply cannot be told from their text (SGLang).

        Raises InvalidConfiguration when the server does not give what its dialect promises.
        """
        ids = self._said_ids(reply)
        if ids is None:
            return None
        has_end = bool(ids) and ids[-1] in self._stop_ids
        return GeneratedAnswer(
            token_ids=tuple(ids[:-1] if has_end else ids),
            log_probabilities=np.array([token.logprob for token in reply.tokens], dtype=np.float32),
            watched=self._watched(reply.tokens, watch),
            is_complete=reply.is_complete,
        )

    def keeps_to(self, answer: GeneratedAnswer, grammar: Grammar, end_id: int) -> bool:
        """Whether a free answer is one that the grammar allows."""
        state: Any = grammar.start
        for token in (*answer.token_ids, end_id):
            state = grammar.after(state, token) if state is not None else None
        return answer.is_complete and state is not None

    def first_share(self, reply: Reply, grammar: Grammar) -> float:
        """Probability of the listed first tokens that the grammar allows."""
        allowed = set(grammar.allowed(grammar.start))
        listed = self._listed(reply.tokens[0]) if reply.tokens else []
        return sum(math.exp(score) for ids, score in listed if not allowed.isdisjoint(ids))

    def _watched(self, tokens: Sequence[SaidToken], watch: TokenWatch) -> NDArray[np.float32]:
        rows = []
        for token in tokens:
            listed = self._listed(token)
            unlisted = _bound_of_unlisted([score for _, score in listed])
            scores: dict[int, float] = {}
            for ids, score in listed:
                scores |= {known: max(score, scores.get(known, score)) for known in ids}
            rows.append([scores.get(watched, unlisted) for watched in watch.ids])
        return np.array(rows, dtype=np.float32).reshape(len(tokens), len(watch.ids))

    def _listed(self, token: SaidToken) -> list[tuple[tuple[int, ...], float]]:
        """What is listed at one place, each once: the ids that it may be, and its log-probability."""
        is_listed = any(score.token == token.token for score in token.top_logprobs)
        listed = [*token.top_logprobs, *([] if is_listed else [token])]
        return [(self._ids_of(score.token), max(score.logprob, _LEAST_LOGPROB)) for score in listed]

    def _said_ids(self, reply: Reply) -> list[int] | None:
        ids = [self._ids_of(token.token) for token in reply.tokens]
        if all(len(found) == 1 for found in ids):
            return [found[0] for found in ids]
        return self._tokenised(reply)

    def _ids_of(self, token: str) -> tuple[int, ...]:
        if self._dialect == "sglang":
            return self._ids_by_text.get(token, ())
        if not token.startswith(_TOKEN_ID) or not token.removeprefix(_TOKEN_ID).isdigit():
            detail = "the server names tokens by their text, not by their ids: vLLM 0.12 or later, or dialect sglang"
            raise InvalidConfiguration(f"model.remote: {detail}")
        return (int(token.removeprefix(_TOKEN_ID)),)

    @cached_property
    def _ids_by_text(self) -> Mapping[str, tuple[int, ...]]:
        """The tokens that read like a text; all parts of characters read like one another."""
        texts: dict[str, tuple[int, ...]] = {}
        for token in range(len(self._tokenizer)):
            text = self._tokenizer.decode([token])
            texts[text] = (*texts.get(text, ()), token)
        return texts

    def _tokenised(self, reply: Reply) -> list[int] | None:
        """The reply's text as tokens, where these are as many and read like those that were said."""
        ids = list(self._tokenizer.encode(reply.text, add_special_tokens=False))
        said = [token.token for token in reply.tokens]
        if reply.is_complete and len(said) == len(ids) + 1:
            ids.append(min(self._stop_ids))
            said.pop()
        fits = len(said) <= len(ids) and all(
            self._tokenizer.decode([token]) == text for token, text in zip(ids, said, strict=False)
        )
        return ids if fits and len(ids) == len(reply.tokens) else None


def _bound_of_unlisted(listed: Sequence[float]) -> float:
    rest = 1.0 - sum(math.exp(score) for score in listed)
    return max(min(*listed, math.log(rest) if rest > 0 else _LEAST_LOGPROB), _LEAST_LOGPROB)
