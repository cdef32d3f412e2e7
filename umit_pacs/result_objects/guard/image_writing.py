"""What writing in an image is: the patient's data, another's, an instruction, or something harmless.

Only the answer leaves this module, never what was read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from umit_pacs.handoffs import Language
from umit_pacs.result_objects.guard.identity import Identity, ordinary_words, resembles_identity
from umit_pacs.result_objects.guard.words import GuardWords, guard_words
from umit_pacs.vocabulary import SRTemplate

IDENTITY = "identity_on_image"
OTHER_IDENTITY = "other_identity_on_image"
INSTRUCTION = "instruction_on_image"
#: so many different cue words in one image make an instruction
_CUES = 3
#: a line of so many words is running text, which no image of a patient has
_RUNNING_TEXT_WORDS = 6
_SHORTEST_WORD = 3
_BLANK_IN_HAN = re.compile(r"(?<=[\u3400-\u9fff，。：]) (?=[\u3400-\u9fff，。：])")
#: what devices write on images
_OF_DEVICES = "image series left right portable supine erect zoom scale depth gain probe chest breast abdomen adult"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the lines of one image are."""

    #: one of the reasons above.
    reason: str
    #: 0-based positions of the lines that it was concluded from.
    lines: tuple[int, ...]


def judge_writing(
    lines: Sequence[str], sure_lines: Sequence[str], identity: Identity, template: SRTemplate
) -> tuple[Reading, ...]:
    """What is wrong with the writing in one image; () when nothing is.

    sure_lines: of each line the words that were surely read. Data of a person are compared with everything that was
    read, as they are compared with what is known; an instruction must surely be one.
    """
    ordinary = ordinary_words([*template.title.values(), _OF_DEVICES])
    own = tuple(index for index, line in enumerate(lines) if resembles_identity(line, identity, ordinary))
    several = [guard_words(language) for language in Language]
    labelled = tuple(
        index for index, line in enumerate(sure_lines) if any(words.identity_labels.search(line) for words in several)
    )
    readings = []
    if own:
        readings.append(Reading(reason=IDENTITY, lines=own))
    elif labelled:
        readings.append(Reading(reason=OTHER_IDENTITY, lines=labelled))
    if instructing := _instruction(sure_lines, several):
        readings.append(Reading(reason=INSTRUCTION, lines=instructing))
    return tuple(readings)


def _instruction(lines: Sequence[str], several: Sequence[GuardWords]) -> tuple[int, ...]:
    """The lines that speak to a machine, or hold running text."""
    whole = {
        index
        for index, line in enumerate(lines)
        if _is_running_text(line) or any(_finds(words.instruction_phrases, line) for words in several)
    }
    cued = [
        (index, cue.pattern)
        for words in several
        for cue in words.instruction_cues
        for index, line in enumerate(lines)
        if _finds(cue, line)
    ]
    if len({pattern for _, pattern in cued}) >= _CUES:
        whole |= {index for index, _ in cued}
    return tuple(sorted(whole))


def _finds(pattern: re.Pattern[str], line: str) -> bool:
    """Also where the characters of a Chinese line were read as words of their own."""
    return pattern.search(line) is not None or pattern.search(_BLANK_IN_HAN.sub("", line)) is not None


def _is_running_text(line: str) -> bool:
    words = [word for word in line.split() if len(word) >= _SHORTEST_WORD and word.strip(".,:;!?").isalpha()]
    return len(words) >= _RUNNING_TEXT_WORDS
