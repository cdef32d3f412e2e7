"""Open answers of visual question answering against the right ones: equal once normalised, and token F1."""

from __future__ import annotations

from collections import Counter

from umit_pacs.evaluation.tokens import tokens

_ARTICLES = frozenset({"a", "an", "the"})
_YES = frozenset({"yes", "true", "是", "是的", "有", "有的", "对", "存在"})
_NO = frozenset({"no", "false", "否", "不是", "无", "没有", "不", "不存在"})


def normalised(text: str) -> str:
    """Letter case, width, punctuation and English articles fall away; ways to say yes and no become one."""
    kept = [token for token in tokens(text) if token not in _ARTICLES]
    # A single letter may be the answer itself (hepatitis A, vitamin A): then it stays.
    plain = " ".join(kept or tokens(text))
    together = plain.replace(" ", "")
    return "yes" if together in _YES else "no" if together in _NO else plain


def is_exact(said: str, right: str) -> bool:
    """Equal once both are normalised."""
    return normalised(said) == normalised(right)


def token_f1(said: str, right: str) -> float:
    """Harmonic mean of precision and recall of tokens (characters in Chinese), each as often as it stands there."""
    ours, theirs = Counter(normalised(said).split()), Counter(normalised(right).split())
    shared = sum((ours & theirs).values())
    total = sum(ours.values()) + sum(theirs.values())
    return 2 * shared / total if total else 1.0
