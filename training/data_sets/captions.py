"""Captions of stage one as the node would ask for them.

UMIT does not publish the words with which it asks for a caption. What is trained should be what is served, so a
caption is the answer to an open question.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from training.data_sets.pixel_files import below, is_file
from training.data_sets.reading import RowUnusable
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, complete

CAPTION_QUESTION = {Language.ENGLISH: "What does this image show?", Language.CHINESE: "这幅图像显示了什么?"}
CONTEXT_QUESTION = {
    Language.ENGLISH: "What is the context of this image?",
    Language.CHINESE: "这幅图像的相关背景是什么?",
}
_ARTICLE = re.compile(r"PMC\d+")
#: where archives are unpacked to
_FOLDERS = ("images", "")


def picture_of(root: Path, name: str) -> Path:
    """The picture of that name in `images/` or beside the list. Raises RowUnusable when it is in neither."""
    for folder in _FOLDERS:
        relative = f"{folder}/{name}" if folder else name
        if is_file(root / folder / name):
            return below(root, relative)
    return below(root, f"images/{name}")


def article_of(name: str) -> str:
    """The article a figure is from, by its file name; the name itself when it says none."""
    found = _ARTICLE.search(name)
    return found[0] if found else name


def free_answer(question: str, answer: str, language: Language, **known: Any) -> Sample:
    """An open question with its answer; `known`: the sample's other fields."""
    if not answer.strip():
        raise RowUnusable("empty_cell", "no text")
    return complete(Sample(task=Task.VQA, language=language, question=question, answer=answer, **known))
