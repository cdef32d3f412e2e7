"""What an answer may say, token by token: one of the options, or places as `answers` writes them.

A grammar only rules tokens out; what is said is still the likeliest of the rest, and the log-probabilities that are
kept are those of the whole vocabulary. So a confidence means the same with and without a grammar: closed answers and
presence compare tokens among themselves, which no constant changes, and a digit that the grammar forced keeps its own
small probability. And an answer can tell where, and how far, the grammar overruled the model.

States are values: they may be kept, compared and walked from again. Masks are made from what the tokens spell (see
`token_texts`), where they are needed, and kept per state.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from umit_pacs.umit_model.token_texts import TokenTexts, TokenTree

#: a state of some grammar; only the grammar looks into it
State = Any


class Grammar(Protocol):
    """The answers to one question."""

    @property
    def start(self) -> State:
        """Before the first token."""

    def after(self, state: State, token: int) -> State | None:
        """The state after one more token, an end mark among them; None when it may not stand there."""

    def allowed(self, state: State) -> tuple[int, ...]:
        """Every token that may stand next; never none, before the end."""

    def rest(self, state: State) -> tuple[int, ...] | None:
        """All that can still follow, with the end mark, where that is a single string; else None."""


class OptionGrammar:
    """One of several token strings, each closed by its end mark."""

    start: State = ()

    def __init__(self, strings: Sequence[Sequence[int]]) -> None:
        following: dict[State, dict[int, None]] = {}
        for string in strings:
            for place, token in enumerate(string):
                following.setdefault(tuple(string[:place]), {})[token] = None
        self._following = {state: tuple(tokens) for state, tokens in following.items()}

    def after(self, state: State, token: int) -> State | None:
        return (*state, token) if token in self._following.get(state, ()) else None

    def allowed(self, state: State) -> tuple[int, ...]:
        return self._following[state]

    def rest(self, state: State) -> tuple[int, ...] | None:
        tokens: list[int] = []
        while following := self._following.get(state):
            if len(following) > 1:
                return None
            tokens.append(following[0])
            state = (*state, following[0])
        return tuple(tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceForm:
    """How places of one kind are written, and what they may hold."""

    #: examples with one and with two places; every number in them is a slot
    one: str
    two: str
    #: the answer when there is none
    nothing: str
    #: largest value per axis
    largest: tuple[int, ...]
    #: two equal corners are still a box
    includes_last: bool
    #: most places in one answer
    maximum: int


class _PlaceState(NamedTuple):
    """How far an answer has come: symbols of `nothing` said, or places done and what the place begun holds."""

    word: int = 0
    places: int = 0
    item: int = 0
    digits: str = ""
    numbers: tuple[int, ...] = ()
    is_ended: bool = False


class PlaceGrammar:
    """Places one after the other up to a maximum, or the word for none.

    Numbers keep to the frame and have no leading zero; the second corner of a box lies behind the first on every axis.
    """

    start: State = _PlaceState()

    def __init__(self, form: PlaceForm, texts: TokenTexts, end_ids: Sequence[int]) -> None:
        self._form, self._texts, self._end_ids = form, texts, tuple(end_ids)
        self._nothing = texts.of_text(form.nothing)
        self._first = _items(form.one, texts)
        self._later = _items(form.two, texts)[len(self._first) :]
        self._slots = sum(isinstance(item, int) for item in self._first)
        alphabet = {item for item in (*self._first, *self._later) if isinstance(item, str)}
        self._tree = texts.tree(frozenset(alphabet.union(self._nothing, "0123456789")))
        self.allowed = lru_cache(maxsize=4096)(self._allowed)

    def after(self, state: _PlaceState, token: int) -> _PlaceState | None:
        if token in self._end_ids:
            return state._replace(is_ended=True) if self._may_end(state) else None
        symbols = self._texts.of_token(token)
        found: _PlaceState | None = state if symbols else None
        for symbol in symbols:
            found = self._step(found, symbol) if found is not None else None
        return found

    def _allowed(self, state: _PlaceState) -> tuple[int, ...]:
        return (*sorted(self._spellable(state, self._tree)), *(self._end_ids if self._may_end(state) else ()))

    def rest(self, state: _PlaceState) -> tuple[int, ...] | None:
        is_last = state.word == len(self._nothing) or state.places == self._form.maximum
        return self._end_ids[:1] if is_last else None

    def _spellable(self, state: _PlaceState, tree: TokenTree) -> list[int]:
        found: list[int] = []
        for symbol, branch in tree.branches.items():
            following = self._step(state, symbol)
            if following is not None:
                found += branch.ids
                found += self._spellable(following, branch)
        return found

    def _may_end(self, state: _PlaceState) -> bool:
        return state.word == len(self._nothing) or (state.places > 0 and state.item == 0)

    def _step(self, state: _PlaceState, symbol: str) -> _PlaceState | None:
        """One more symbol."""
        if state.word or (state == self.start and symbol == self._nothing[0]):
            is_next = self._nothing[state.word : state.word + 1] == (symbol,)
            return state._replace(word=state.word + 1) if is_next else None
        if state.places == self._form.maximum:
            return None
        items = self._later if state.places else self._first
        item = items[state.item]
        if isinstance(item, int):
            low, high = self._bounds(item % self._slots, state.numbers)
            if symbol in "0123456789":
                digits = state.digits + symbol
                return state._replace(digits=digits) if _can_become(digits, low, high) else None
            if not state.digits or not low <= int(state.digits) <= high:
                return None
            state = state._replace(digits="", numbers=(*state.numbers, int(state.digits)), item=state.item + 1)
            item = items[state.item]
        if item != symbol:
            return None
        is_whole = state.item + 1 == len(items)
        return _PlaceState(places=state.places + 1) if is_whole else state._replace(item=state.item + 1)

    def _bounds(self, slot: int, numbers: tuple[int, ...]) -> tuple[int, int]:
        """Smallest and largest number of a slot, given those before it."""
        largest = self._form.largest
        axis, least = slot % len(largest), 0 if self._form.includes_last else 1
        if self._slots == len(largest):
            return 0, largest[axis]
        if slot < len(largest):
            return 0, largest[axis] - least
        return numbers[axis] + least, largest[axis]


def _items(example: str, texts: TokenTexts) -> tuple[str | int, ...]:
    """The symbols of an example; each number as how many stand before it."""
    items: list[str | int] = []
    for part in re.split(r"(\d+)", example):
        slot = sum(isinstance(item, int) for item in items)
        items += [slot] if part.isdigit() else texts.of_text(part)
    return tuple(items)


def _can_become(digits: str, low: int, high: int) -> bool:
    """Whether a number in low..high begins with these digits and has no leading zero."""
    if len(digits) > 1 and digits[0] == "0":
        return False
    first = last = int(digits)
    while first <= high:
        if last >= low:
            return True
        if first == 0:
            return False
        first, last = first * 10, last * 10 + 9
    return False
