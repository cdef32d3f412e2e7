"""A question that a person asks from the viewer, as the rule that it amounts to.

    report | 报告                     a report
    classify | 分类                   the template's classification
    detect NAME | 检测 NAME           a finding by its name in English or Chinese or its key; `all`, 全部: every one
    locate NAME | 定位 NAME           a landmark, likewise
    QUESTION? A / B / C               a question with the answers to choose from; ？ and ／ do as well
    anything else                     an open question

The language of the question is that of its script, and the answer's too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from umit_pacs.errors import UmitPacsError
from umit_pacs.handoffs import Language, Priority
from umit_pacs.routing.rules import EVERY, Action, Question, Rule, RuleSet
from umit_pacs.vocabulary import FindingTerm, LandmarkTerm, TemplateLibrary

#: the rule that a decision about a question names.
ASKED = "asked-from-the-viewer"
MAXIMUM_QUESTION_CHARACTERS = 256

_REPORT, _CLASSIFY = frozenset({"report", "报告"}), frozenset({"classify", "分类"})
_DETECT = re.compile(r"(?:detect\s|检测)\s*(.+)", re.IGNORECASE)
_LOCATE = re.compile(r"(?:locate\s|定位)\s*(.+)", re.IGNORECASE)
_EVERY = frozenset({EVERY, "全部"})
_CLOSED = re.compile(r"(.+?[?？])\s*(.*[/／].*)")
_CHINESE = re.compile(r"[\u3400-\u9fff]")


class QuestionRefused(UmitPacsError):
    """The text asks nothing that can be answered."""


def asked_rules(text: str, templates: TemplateLibrary, destinations: Sequence[str], checkpoint: str = "") -> RuleSet:
    """The one rule that asks `text` of whatever images there are, urgently, as a person waits.

    destinations: names of the peers that the answer goes to. checkpoint: as in a rule. Raises QuestionRefused, whose
    detail repeats nothing of the text.
    """
    text = _cleaned(text)
    try:
        action = Action.model_validate(
            {
                **_asked(text, templates),
                "language": Language.CHINESE if _CHINESE.search(text) else Language.ENGLISH,
                "destinations": tuple(destinations),
                "priority": Priority.URGENT,
                "checkpoint": checkpoint,
            }
        )
    except ValidationError as exc:
        raise QuestionRefused("it gives no answers to choose from, or one twice", reason="question_unclear") from exc
    return RuleSet(rules=(Rule(name=ASKED, matches_everything=True, action=action),))


def _cleaned(text: str) -> str:
    """The text in one line, without control and format characters. Raises QuestionRefused when it is none or long."""
    plain = "".join(" " if unicodedata.category(character).startswith("C") else character for character in text)
    words = " ".join(plain.split())
    if not words:
        raise QuestionRefused("its Key Object Description is empty", reason="no_question")
    if len(words) > MAXIMUM_QUESTION_CHARACTERS:
        limit = f"it has more than {MAXIMUM_QUESTION_CHARACTERS} characters"
        raise QuestionRefused(limit, reason="question_too_long")
    return words


def _asked(text: str, templates: TemplateLibrary) -> dict[str, object]:
    """What of an action the text asks for."""
    command = text.rstrip(" .。").casefold()
    if command in _REPORT:
        return {"report": True}
    if command in _CLASSIFY:
        return {"classification": True}
    if wanted := _DETECT.fullmatch(command):
        return {"findings": _keys(wanted[1], [template.findings for template in templates.templates])}
    if wanted := _LOCATE.fullmatch(command):
        return {"landmarks": _keys(wanted[1], [template.landmarks for template in templates.templates])}
    if closed := _CLOSED.fullmatch(text):
        options = tuple(option.strip() for option in re.split("[/／]", closed[2]))
        return {"questions": (Question.model_validate({"question": closed[1], "options": options}),)}
    return {"questions": (Question(question=text),)}


def _keys(name: str, tables: Sequence[Mapping[str, FindingTerm] | Mapping[str, LandmarkTerm]]) -> tuple[str, ...]:
    """The keys that go by this name in any template. Raises QuestionRefused when there are none."""
    if name in _EVERY:
        return (EVERY,)
    known = [(key, term) for table in tables for key, term in table.items()]
    found = [key for key, term in known if name in {key, *(each.casefold() for each in term.names.values())}]
    if not found:
        raise QuestionRefused("no template knows what it wants found", reason="unknown_name")
    return tuple(dict.fromkeys(found))
