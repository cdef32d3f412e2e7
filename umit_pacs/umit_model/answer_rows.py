"""Answers as they grow: one greedy token per step and row, kept to the row's grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umit_pacs.umit_model.grammar import Grammar


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedAnswer:
    """One greedy answer.

    token_ids: without the end mark. log_probabilities: (T,) of each token, and of the end mark where it was reached;
    what the grammar left no choice about closes the answer without them. watched: (T, W) log-probabilities of the
    watched tokens at the same places. Both are of the whole vocabulary, whatever the grammar allowed.
    """

    token_ids: tuple[int, ...]
    log_probabilities: NDArray[np.float32]
    watched: NDArray[np.float32]
    is_complete: bool
    #: places at which the grammar ruled the likeliest token out
    overruled: int = 0
    #: probability that the model gave all first tokens of the grammar together
    first_share: float = 1.0


class AnswerRows:
    """All rows of a batch, which may end at different places."""

    def __init__(
        self,
        grammars: Sequence[Grammar | None],
        bounds: Sequence[int],
        *,
        stop_ids: Sequence[int],
        watched_ids: Sequence[int],
        device: torch.device,
    ) -> None:
        self._watched_ids = torch.tensor(list(watched_ids), dtype=torch.long, device=device)
        self._rows = [
            _Row(grammar, bound, frozenset(stop_ids)) for grammar, bound in zip(grammars, bounds, strict=True)
        ]
        self._in_batch = list(self._rows)

    def take(self, logits: Tensor) -> list[int]:
        """Record the likeliest allowed token of each row in the batch. logits: (B, V); returns B tokens."""
        scores = torch.log_softmax(logits.float(), dim=-1)
        best, likeliest = scores.max(dim=-1)
        watched = scores[:, self._watched_ids].cpu().numpy()
        return [
            token if row.is_over else row.take(scores[place], token, score, watched[place])
            for place, (row, token, score) in enumerate(
                zip(self._in_batch, likeliest.tolist(), best.tolist(), strict=True)
            )
        ]

    def going_on(self) -> list[int]:
        """Places in the batch of the rows that have not ended."""
        return [place for place, row in enumerate(self._in_batch) if not row.is_over]

    def keep(self, places: Sequence[int]) -> None:
        """Only the rows at these places stay in the batch."""
        self._in_batch = [self._in_batch[place] for place in places]

    def answers(self) -> list[GeneratedAnswer]:
        return [row.answer(width=len(self._watched_ids)) for row in self._rows]


class _Row:
    """One answer as it grows."""

    def __init__(self, grammar: Grammar | None, bound: int, stop_ids: frozenset[int]) -> None:
        self._grammar, self._bound, self._stop_ids = grammar, bound, stop_ids
        self._state = grammar.start if grammar is not None else None
        self._token_ids: list[int] = []
        self._log_probabilities: list[float] = []
        self._watched: list[NDArray[np.float32]] = []
        self._overruled = 0
        self._first_share = 1.0
        self._is_complete = False

    @property
    def is_over(self) -> bool:
        """The answer came to its end, or to its bound."""
        return self._is_complete or len(self._log_probabilities) >= self._bound

    def take(self, scores: Tensor, likeliest: int, best: float, watched: NDArray[np.float32]) -> int:
        """Record the likeliest token, or the likeliest that the grammar allows.

        scores: (V,) log-probabilities, of which `best` is that of `likeliest`.
        """
        token = likeliest
        if self._grammar is not None:
            token = self._allowed(self._grammar, scores, likeliest)
        self._log_probabilities.append(best if token == likeliest else float(scores[token]))
        self._watched.append(watched)
        self._add((token,))
        rest = self._grammar.rest(self._state) if self._grammar is not None and not self._is_complete else None
        if rest is not None:
            self._add(rest)
        return token

    def _allowed(self, grammar: Grammar, scores: Tensor, likeliest: int) -> int:
        if not self._log_probabilities:
            self._first_share = float(scores[list(grammar.allowed(self._state))].exp().sum())
        token, following = likeliest, grammar.after(self._state, likeliest)
        if following is None:
            allowed = grammar.allowed(self._state)
            token = allowed[int(scores[list(allowed)].argmax())]
            following = grammar.after(self._state, token)
            self._overruled += 1
        self._state = following
        return token

    def _add(self, tokens: Sequence[int]) -> None:
        self._is_complete = tokens[-1] in self._stop_ids
        self._token_ids += [token for token in tokens if token not in self._stop_ids]

    def answer(self, *, width: int) -> GeneratedAnswer:
        """What was said so far; width: number of watched tokens."""
        return GeneratedAnswer(
            token_ids=tuple(self._token_ids),
            log_probabilities=np.array(self._log_probabilities, dtype=np.float32),
            watched=np.array(self._watched, dtype=np.float32).reshape(len(self._watched), width),
            is_complete=self._is_complete,
            overruled=self._overruled,
            first_share=self._first_share,
        )
