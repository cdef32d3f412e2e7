"""Other words for a question, and other options for it."""

from __future__ import annotations

import re
from dataclasses import replace

from umit_pacs.handoffs import Language, TaskOrder

NONE_OF_THE_ABOVE = {Language.ENGLISH: "none of the above", Language.CHINESE: "以上都不是"}

#: (what a question looks like, the same in other words); the first that fits is taken.
_WORDINGS: dict[Language, tuple[tuple[str, str], ...]] = {
    Language.ENGLISH: (
        (r"is there (?:an? |any )?(.+?)(?: in this image| present)?\?", r"Does this image show a \1?"),
        (r"does this image show (?:an? )?(.+)\?", r"Is there a \1?"),
        (r"is the (.+) enlarged\?", r"Does the \1 look enlarged?"),
        (r"(?:on )?which side is the (.+?)(?: on)?\?", r"Is the \1 on the left or on the right?"),
        (r"which side is abnormal\?", r"On which side is the abnormality?"),
        (r"which lung is abnormal\?", r"Which of the two lungs is abnormal?"),
        (r"what (?:abnormality is|abnormalities are) (?:seen|shown)(?: in this image)?\?", r"What is abnormal here?"),
        (r"what is (.+)\?", r"Please tell what is \1?"),
    ),
    Language.CHINESE: (
        (r"(?:图像中)?是否(?:有|可见|存在)(.+?)[?？]", r"能看到\1吗?"),
        (r"有(.+?)吗[?？]", r"是否存在\1?"),
        (r"(.+?)是否增大[?？]", r"\1有没有增大?"),
        (r"(.+?)(?:在|位于)哪一侧[?？]", r"\1是在左侧还是右侧?"),
        (r"哪一侧(?:肺)?异常[?？]", r"异常位于哪一侧?"),
        (r"(?:图像中)?(?:可见|有)(?:什么|哪些)异常[?？]", r"该图像的异常是什么?"),
    ),
}
_ANY = {Language.ENGLISH: "Looking at this image: {question}", Language.CHINESE: "请看这张图像，{question}"}


def rephrased(order: TaskOrder) -> TaskOrder:
    """The same question in other words; where no wording is known, with a clause before it."""
    for pattern, other in _WORDINGS[order.language]:
        if found := re.fullmatch(pattern, order.question.strip(), re.IGNORECASE):
            return replace(order, question=found.expand(other))
    return replace(order, question=_ANY[order.language].format(question=order.question))


def reordered(order: TaskOrder) -> TaskOrder:
    """The same options, the last one first."""
    return replace(order, options=order.options[::-1])


def without_right_option(order: TaskOrder, right: int) -> TaskOrder:
    """ "None of the above" stands in the place of the right option."""
    options = list(order.options)
    options[right] = NONE_OF_THE_ABOVE[order.language]
    return replace(order, options=tuple(options))
