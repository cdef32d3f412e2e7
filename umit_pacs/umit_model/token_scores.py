"""Log-probabilities of parts of an answer, however its tokenizer cut the text."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from umit_pacs.umit_model.generation import GeneratedAnswer
from umit_pacs.umit_model.processor import ImageTextProcessor


def token_ends(generated: GeneratedAnswer, processor: ImageTextProcessor) -> NDArray[np.int64]:
    """(T,) byte offset in the answer's text at which each token ends; a byte-level token has a character per byte."""
    special = set(processor.tokenizer.all_special_tokens)
    pieces = processor.tokenizer.convert_ids_to_tokens(list(generated.token_ids))
    return np.cumsum([len(piece.encode()) if piece in special else len(piece) for piece in pieces], dtype=np.int64)


def number_scores(generated: GeneratedAnswer, processor: ImageTextProcessor, text: str) -> list[NDArray[np.float32]]:
    """Per number in the answer the log-probabilities of all tokens that hold a digit of it.

    text: what the tokens decode to. A token that spans two numbers counts for both.
    """
    ends = token_ends(generated, processor)
    starts = np.concatenate([[0], ends[:-1]])
    computed = min(len(ends), len(generated.log_probabilities))
    groups = []
    for found in re.finditer(r"\d+", text):
        first, end = (len(text[:place].encode()) for place in found.span())
        inside = ((starts < end) & (ends > first))[:computed]
        groups.append(generated.log_probabilities[:computed][inside])
    return groups
