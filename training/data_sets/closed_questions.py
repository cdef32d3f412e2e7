"""Closed questions of VQA data sets, which are published with their answer alone, as options with the right one.

UMIT prints yes and no as `1:yes`, `2:no`; those are the options of every question that is answered by one of them. A
question that names what to choose from ("liver or spleen?", "肺还是心脏?") has these as options when one of them is the
answer. Everything else is asked openly. Chinese negatives that mean the same are one option, since two pairs that are
told apart by the answer would give it away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, SampleTruth, complete

#: answer -> (options, index of the right one)
_YES_NO = {"yes": (("yes", "no"), 0), "no": (("yes", "no"), 1)}
_CHINESE_PAIRS = (
    ("是", "否", ("是", "是的", "对"), ("否", "不是", "不", "不对")),
    ("有", "没有", ("有", "存在"), ("没有", "无", "不存在")),
    ("包含", "不包含", ("包含",), ("不包含",)),
    ("健康", "不健康", ("健康",), ("不健康",)),
    ("正常", "不正常", ("正常",), ("不正常", "异常")),
    ("能", "不能", ("能", "可以"), ("不能", "不可以")),
)
_ENGLISH_OR = re.compile(
    r"(?:^|[\s,:(])([\w-]+(?: [\w-]+)?)(?:,)? or (?:the |a |an )?([\w-]+(?: [\w-]+)?)\s*\)?\s*\?*$", re.IGNORECASE
)
_ARTICLE = re.compile(r"^(?:the|an|a) ", re.IGNORECASE)
_CHINESE_OR = re.compile(r"(\w+?)(?:还是|或者|或)(\w{1,6}?)(?:[?？]|$|哪|更|较|中)")
#: what may stand before the first of two Chinese alternatives, which are not divided from it by a blank
_CHINESE_BORDER = frozenset("在是为于有")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedQuestion:
    options: tuple[str, ...]
    right_option: int


def closed_question(question: str, answer: str, language: Language) -> ClosedQuestion | None:
    """The options of a question that is answered by `answer`; None when it is to be asked openly."""
    plain = answer.strip().rstrip(".。").casefold()
    if plain in _YES_NO:
        options, right = _YES_NO[plain]
        return ClosedQuestion(options=options, right_option=right)
    if language is Language.CHINESE:
        for positive, negative, agreeing, denying in _CHINESE_PAIRS:
            if plain in agreeing or plain in denying:
                return ClosedQuestion(options=(positive, negative), right_option=0 if plain in agreeing else 1)
        return _named(_chinese_alternatives(question), plain)
    return _named(_english_alternatives(question), plain)


def _named(alternatives: list[tuple[str, str]], plain: str) -> ClosedQuestion | None:
    for options in alternatives:
        named = [option.casefold() for option in options]
        if plain in named and named[0] != named[1]:
            return ClosedQuestion(options=options, right_option=named.index(plain))
    return None


def _english_alternatives(question: str) -> list[tuple[str, str]]:
    """Both as they stand, then as the single words beside the `or`: "the left or right side"."""
    found = _ENGLISH_OR.search(question.strip())
    if found is None:
        return []
    first, second = _ARTICLE.sub("", found[1]), found[2]
    return [(first, second), (first.split()[-1], second.split()[0])]


def _chinese_alternatives(question: str) -> list[tuple[str, str]]:
    """The first as long as the second, if it begins the clause or stands after a word like 在."""
    found = _CHINESE_OR.search(question.strip())
    if found is None:
        return []
    before, second = found[1], found[2]
    first = before[-len(second) :]
    rest = before[: -len(second)]
    return [(first, second)] if not rest or rest[-1] in _CHINESE_BORDER else []


def vqa_sample(question: str, answer: str, language: Language, **known: Any) -> Sample:
    """A question of a VQA data set with its answer, closed where it can be; `known`: the sample's other fields."""
    closed = closed_question(question, answer, language)
    return complete(
        Sample(
            task=Task.VQA,
            language=language,
            question=question,
            options=closed.options if closed else (),
            answer="" if closed else answer,
            truth=SampleTruth(right_option=closed.right_option if closed else None),
            **known,
        )
    )
