"""ChiMed-VL: 580,014 figure texts and 469,441 questions in Chinese about figures of open-access articles.

Layouts: `ChiMed-VL-Alignment.jsonl` and `ChiMed-VL-Instruction.json`. The publisher ships no pictures (`images/`, by
the figures' file names) and does not document the keys, so each is looked for under the names in use; conversations in
LLaVA's form are read too. A row in which none is found is skipped and named.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from training.data_sets.captions import CAPTION_QUESTION, CONTEXT_QUESTION, article_of, free_answer, picture_of
from training.data_sets.closed_questions import vqa_sample
from training.data_sets.pixel_files import size_of
from training.data_sets.reading import (
    DataSet,
    Found,
    Row,
    RowUnusable,
    each_entry,
    json_entries,
    jsonl_entries,
    missing,
    words,
)
from training.data_sets.splits import hashed_split
from umit_pacs.handoffs import Language, Task

ALIGNMENT, INSTRUCTION = "ChiMed-VL-Alignment.jsonl", "ChiMed-VL-Instruction.json"

_IMAGE_KEYS = ("image", "images", "img", "image_path", "url")
_TEXT_KEYS = ("description", "caption", "context")
_TURN_KEYS = ("conversations", "conversation")
_QUESTION_KEYS = (("question", "answer"), ("query", "response"), ("instruction", "output"))
_CHINESE = Language.CHINESE


def read_alignment(root: Path) -> Iterator[Found]:
    if problem := missing(root, ALIGNMENT):
        yield problem
    else:
        yield from each_entry(jsonl_entries(root / ALIGNMENT, required=()), partial(_alignment, root))


def read_instruction(root: Path) -> Iterator[Found]:
    if problem := missing(root, INSTRUCTION):
        yield problem
    else:
        yield from each_entry(json_entries(root / INSTRUCTION, required=()), partial(_instruction, root))


def _known(root: Path, cells: dict[str, Any], key: str, where: str) -> tuple[dict[str, Any], Path]:
    name = _picture_name(cells)
    path = picture_of(root, name)
    article = article_of(name)
    known = {
        "id": f"{key}-{where}",
        "study": name,
        "group": article,
        "data_set": key,
        "split": hashed_split(article, validation=0.01, test=0.01),
        "images": (f"images/{name}",),
        "extent": size_of(path),
    }
    return known, path


def _picture_name(cells: dict[str, Any]) -> str:
    key = next((key for key in _IMAGE_KEYS if cells.get(key)), None)
    if key is None:
        raise RowUnusable("missing_column", f"none of {', '.join(_IMAGE_KEYS)}")
    value = cells[key][0] if isinstance(cells[key], list) else cells[key]
    name = str(value).strip()
    return name.rsplit("/", 1)[-1] if key == "url" else name


def _alignment(root: Path, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    """One sample per text that the row holds."""
    known, path = _known(root, cells, "chimed_vl_alignment", where)
    texts = [(key, words(cells, key)) for key in _TEXT_KEYS if cells.get(key)]
    if not texts and (turns := _turns(cells)):
        texts = [("description", turns[0][1])]
    if not texts:
        raise RowUnusable("missing_column", f"none of {', '.join((*_TEXT_KEYS, *_TURN_KEYS))}")
    for key, text in texts:
        question = CONTEXT_QUESTION if key == "context" else CAPTION_QUESTION
        own = known | {"id": f"{known['id']}-{key}", "tags": {"kind": key}}
        sample = free_answer(question[_CHINESE], text, _CHINESE, **own)
        yield Row(where=where, sample=sample, pixels=(path,))


def _instruction(root: Path, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    """One sample per turn: the node asks each question by itself."""
    known, path = _known(root, cells, "chimed_vl_instruction", where)
    pairs = _turns(cells)
    if not pairs:
        keys = next((keys for keys in _QUESTION_KEYS if all(cells.get(key) for key in keys)), None)
        if keys is None:
            raise RowUnusable("missing_column", "neither a conversation nor a question with its answer")
        pairs = [(words(cells, keys[0]), words(cells, keys[1]))]
    for number, (question, answer) in enumerate(pairs, 1):
        sample = vqa_sample(question, answer, _CHINESE, **known | {"id": f"{known['id']}-{number}"})
        yield Row(where=where, sample=sample, pixels=(path,))


def _turns(cells: dict[str, Any]) -> list[tuple[str, str]]:
    """(question, answer) pairs of a conversation in LLaVA's form; [] when there is none.

    Raises RowUnusable when questions and answers do not take turns.
    """
    turns = next((cells[key] for key in _TURN_KEYS if cells.get(key)), None)
    if turns is None:
        return []
    try:
        said = [(str(turn["from"]), str(turn["value"]).replace("<image>", "").strip()) for turn in turns]
    except (TypeError, KeyError) as exc:
        raise RowUnusable("unreadable_row", "a conversation without from and value") from exc
    speakers = [speaker for speaker, _ in said]
    if not said or speakers != ["human", "gpt"] * (len(said) // 2):
        raise RowUnusable("unreadable_row", f"speakers {', '.join(speakers[:6])}")
    texts = [" ".join(text.split()) for _, text in said]
    return list(zip(texts[::2], texts[1::2], strict=True))


_SOURCE = "https://huggingface.co/datasets/williamliu/ChiMed-VL"
_LICENCE = "none stated; each figure keeps its article's licence"
_SPLIT_RULE = "98/1/1 % by a hash of the article"
ALIGNMENT_SET = DataSet(
    key="chimed_vl_alignment",
    title="ChiMed-VL-Alignment",
    source=_SOURCE,
    licence=_LICENCE,
    tasks=(Task.VQA,),
    languages=("zh",),
    modalities=(),
    split_rule=_SPLIT_RULE,
    layout=f"{ALIGNMENT}, images/",
    read=read_alignment,
)
INSTRUCTION_SET = DataSet(
    key="chimed_vl_instruction",
    title="ChiMed-VL-Instruction",
    source=_SOURCE,
    licence=_LICENCE,
    tasks=(Task.VQA,),
    languages=("zh",),
    modalities=(),
    split_rule=_SPLIT_RULE,
    layout=f"{INSTRUCTION}, images/",
    read=read_instruction,
)
