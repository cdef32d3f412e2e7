"""Which grammar an answer keeps to: the options of a closed question, the places that its task asks for, or none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model import answers
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame
from umit_pacs.umit_model.grammar import Grammar, OptionGrammar, PlaceForm, PlaceGrammar
from umit_pacs.umit_model.processor import ImageTextProcessor
from umit_pacs.umit_model.questions import PLACE_TASKS, Question, ShownImage
from umit_pacs.umit_model.token_texts import TokenTexts


class AnswerGrammars:
    """The grammars of one tokenizer, each made once."""

    def __init__(self, processor: ImageTextProcessor, end_ids: Sequence[int]) -> None:
        self._tokenizer, self._end_ids = processor.tokenizer, tuple(end_ids)
        self._texts = TokenTexts(processor.tokenizer)
        self._of_places = lru_cache(maxsize=64)(self._place_grammar)

    def of(self, question: Question, shown: ShownImage) -> Grammar | None:
        """What may be answered to a question about `shown`; None for a report and an open question."""
        if question.option_ids:
            return OptionGrammar(question.option_ids)
        if question.order.task not in PLACE_TASKS:
            return None
        frame = CoordinateFrame.parse(question.profile.frame)
        return self._of_places(
            question.order.task,
            question.order.language,
            frame.largest(len(shown.extent), resized_xy=shown.resized_xy),
            frame.includes_last,
            question.profile.maximum_new_tokens,
        )

    def _place_grammar(
        self, task: Task, language: Language, largest: tuple[int, ...], includes_last: bool, bound: int
    ) -> PlaceGrammar:
        if task is Task.LANDMARK:
            one = two = answers.point_answer((largest[0], largest[1]), language)
        else:
            one, two = (answers.boxes_answer([(largest, largest)] * count, language) for count in (1, 2))
        # As many as come to their end within the bound: what is said is then never cut off inside a place.
        first, later = self._length(one), max(1, self._length(two) - self._length(one))
        fitting = 1 + max(0, bound - 1 - first) // later
        form = PlaceForm(
            one=one,
            two=two,
            nothing=answers.NOTHING[language],
            largest=largest,
            includes_last=includes_last,
            maximum=1 if task is Task.LANDMARK else min(fitting, answers.MOST_BOXES),
        )
        return PlaceGrammar(form, self._texts, self._end_ids)

    def _length(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))
