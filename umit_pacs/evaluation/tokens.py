"""Text cut into the pieces that text measures compare.

Chinese is cut into characters, everything else into words and numbers; letter case, width and punctuation fall away.
Characters and not words of a segmenter: the figure then depends on no dictionary and no version of one, and a term that
a segmenter does not know (肋膈角, 磨玻璃影) costs nothing. It is also how sacrebleu's `zh` tokenizer cuts.
"""

from __future__ import annotations

import re
import unicodedata

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_TOKEN = re.compile(rf"[{_HAN}]|\d+(?:[.,]\d+)*|[^\W\d_{_HAN}]+")


def tokens(text: str) -> tuple[str, ...]:
    """`左侧2.5cm Nodule` -> 左 侧 2.5 cm nodule."""
    return tuple(_TOKEN.findall(unicodedata.normalize("NFKC", text).casefold()))
