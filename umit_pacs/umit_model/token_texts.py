"""What each token of a vocabulary spells, and which tokens spell only certain symbols.

A symbol is a character of a byte-level piece (`Ġ`, `å`: one per byte of the text) or a whole added token such as
`<|box_start|>`. So nothing is assumed about how a tokenizer cuts text: `),(` may be one token, two or three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

Symbols = tuple[str, ...]


class TokenTree:
    """Tokens by what they spell: `ids` that end here, and a branch per next symbol."""

    __slots__ = ("branches", "ids")

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.branches: dict[str, TokenTree] = {}

    def add(self, symbols: Symbols, token: int) -> None:
        """Hang a token below the branches of its symbols."""
        node = self
        for symbol in symbols:
            node = node.branches.setdefault(symbol, TokenTree())
        node.ids.append(token)


class TokenTexts:
    """The vocabulary of one byte-level tokenizer as symbols."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        added = {int(token): entry.content for token, entry in tokenizer.added_tokens_decoder.items()}
        self._symbols = dict(_spelt(tokenizer.get_vocab(), added))
        self._marks = re.compile("|".join(map(re.escape, sorted(added.values(), key=len, reverse=True))) or r"(?!)")
        self._byte_level = ByteLevel(add_prefix_space=False, use_regex=False)
        #: An alphabet belongs to a task and a language; there are few.
        self.tree = lru_cache(maxsize=64)(self._tree)

    def of_token(self, token: int) -> Symbols:
        """What the token spells; () for an id that the vocabulary does not hold."""
        return self._symbols.get(token, ())

    def of_text(self, text: str) -> Symbols:
        """A text as symbols, its added tokens whole."""
        symbols: list[str] = []
        position = 0
        for mark in self._marks.finditer(text):
            symbols += [*self._bytes(text[position : mark.start()]), mark[0]]
            position = mark.end()
        return (*symbols, *self._bytes(text[position:]))

    def _bytes(self, text: str) -> str:
        return "".join(piece for piece, _ in self._byte_level.pre_tokenize_str(text)) if text else ""

    def _tree(self, alphabet: frozenset[str]) -> TokenTree:
        """All tokens that spell symbols of `alphabet` only."""
        tree = TokenTree()
        for token, symbols in self._symbols.items():
            if symbols and alphabet.issuperset(symbols):
                tree.add(symbols, token)
        return tree


def _spelt(vocabulary: Mapping[str, int], added: Mapping[int, str]) -> Iterator[tuple[int, Symbols]]:
    for piece, token in vocabulary.items():
        yield token, (added[token],) if token in added else tuple(piece)
