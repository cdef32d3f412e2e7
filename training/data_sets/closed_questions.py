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
_ALTERNATIVES = {
    Language.ENGLISH: re.compile(
        r"(?:^|[\s,:(])([\w-]+(?: [\w-]+)?)(?:,)? or (?:the |a |an )?([\w-]+(?: [\w-]+)?)\s*\)?\s*\?*$", re.IGNORECASE
    ),
    Language.CHINESE: re.compile(r"(\w{1,6}?)(?:还是|或者|或)(\w{1,6}?)(?:[?？]|$|哪|更|较|中)"),
}


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
    return _named(question, plain, language)


def _named(question: str, plain: str, language: Language) -> ClosedQuestion | None:
    for found in _ALTERNATIVES[language].finditer(question.strip()):
        first, second = found[1].strip(), found[2].strip()
        for candidates in ((first, second), (first.split()[-1], second.split()[0])):
            named = [option.casefold() for option in candidates]
            if plain in named and named[0] != named[1]:
                return ClosedQuestion(options=candidates, right_option=named.index(plain))
    return None


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
