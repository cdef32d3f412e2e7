"""How much of a reference's wording a report has: BLEU, ROUGE-L, CIDEr-D.

None of them sees a negation: "no effusion" and "effusion" share most of their words. They stand beside
`report_findings`, never in its place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU

from umit_pacs.evaluation.tokens import tokens
from umit_pacs.handoffs import Language

_ORDERS = 4
#: Vedantam et al. 2015, CIDEr-D: spread of the length penalty, in tokens, and the factor on all
_LENGTH_SPREAD = 6.0
_FACTOR = 10.0
_SACREBLEU_TOKENIZERS = {Language.ENGLISH: "13a", Language.CHINESE: "zh"}


@dataclass(frozen=True, kw_only=True, slots=True)
class BleuCounts:
    """What BLEU adds up over texts: n-grams in common and in all, n = 1..4, and both lengths."""

    #: (N, 4)
    correct: NDArray[np.int64]
    total: NDArray[np.int64]
    #: (N,)
    said_length: NDArray[np.int64]
    right_length: NDArray[np.int64]

    def score(self, rows: NDArray[np.intp]) -> float:
        """Corpus BLEU-4 of some texts in 0..1, as sacrebleu computes it (its 0..100 divided by 100)."""
        result = BLEU.compute_bleu(
            correct=self.correct[rows].sum(axis=0).tolist(),
            total=self.total[rows].sum(axis=0).tolist(),
            sys_len=int(self.said_length[rows].sum()),
            ref_len=int(self.right_length[rows].sum()),
            smooth_method="exp",
        )
        return float(result.score) / 100


def bleu_counts(said: Sequence[str], right: Sequence[str], language: Language) -> BleuCounts:
    """Counts of every pair; sacrebleu's tokenizer of the language, letter case kept."""
    metric = _bleu(language)
    scores = [metric.sentence_score(ours, [theirs]) for ours, theirs in zip(said, right, strict=True)]
    return BleuCounts(
        correct=np.array([score.counts for score in scores], dtype=np.int64).reshape(-1, _ORDERS),
        total=np.array([score.totals for score in scores], dtype=np.int64).reshape(-1, _ORDERS),
        said_length=np.array([score.sys_len for score in scores], dtype=np.int64),
        right_length=np.array([score.ref_len for score in scores], dtype=np.int64),
    )


@lru_cache
def _bleu(language: Language) -> BLEU:
    # The order of a single text does not matter: only its counts are taken.
    return BLEU(tokenize=_SACREBLEU_TOKENIZERS[language], effective_order=True)


def rouge_l(said: str, right: str) -> float:
    """F measure of the longest common subsequence of tokens, precision and recall alike (no stemming)."""
    ours, theirs = tokens(said), tokens(right)
    common = _longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for ours in a:
        diagonal = 0
        for place, theirs in enumerate(b, start=1):
            above = row[place]
            row[place] = diagonal + 1 if ours == theirs else max(above, row[place - 1])
            diagonal = above
    return row[-1]


def cider_d(said: Sequence[str], right: Sequence[str]) -> NDArray[np.float64]:
    """(N,) CIDEr-D of each text, 0..10; the corpus figure is their mean.

    n-grams (n = 1..4) are weighted by how few of the references hold them, so the figure depends on the set: compare
    only figures of the same one. An n-gram that all references hold weighs nothing.
    """
    ours = [[_ngrams(tokens(text), order) for order in range(1, _ORDERS + 1)] for text in said]
    theirs = [[_ngrams(tokens(text), order) for order in range(1, _ORDERS + 1)] for text in right]
    scores = np.zeros(len(said))
    for order in range(_ORDERS):
        seen_in = Counter(ngram for text in theirs for ngram in text[order])
        weights = {ngram: math.log(len(right) / count) for ngram, count in seen_in.items()}
        unseen = math.log(max(len(right), 1))
        for text in range(len(said)):
            similarity = _clipped_cosine(ours[text][order], theirs[text][order], weights, unseen)
            scores[text] += similarity * _length_penalty(ours[text][0], theirs[text][0])
    return scores * _FACTOR / _ORDERS


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def _clipped_cosine(
    said: Counter[tuple[str, ...]],
    right: Counter[tuple[str, ...]],
    weights: dict[tuple[str, ...], float],
    unseen: float,
) -> float:
    """Cosine of the weighted counts, an n-gram counted no more often than the reference has it."""
    ours = {ngram: count * weights.get(ngram, unseen) for ngram, count in said.items()}
    theirs = {ngram: count * weights[ngram] for ngram, count in right.items()}
    norms = math.sqrt(sum(v**2 for v in ours.values())) * math.sqrt(sum(v**2 for v in theirs.values()))
    shared = sum(min(ours.get(ngram, 0.0), value) * value for ngram, value in theirs.items())
    return shared / norms if norms else 0.0


def _length_penalty(said: Counter[tuple[str, ...]], right: Counter[tuple[str, ...]]) -> float:
    difference = said.total() - right.total()
    return math.exp(-(difference**2) / (2 * _LENGTH_SPREAD**2))
