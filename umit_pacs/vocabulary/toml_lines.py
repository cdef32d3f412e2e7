"""On which line of a TOML text each key stands, which `tomllib` does not tell."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache

#: keys and indices from the top of the document, as pydantic names places.
KeyPath = tuple[str | int, ...]

_TOKEN = re.compile(
    r"""
    (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<newline>\n)
    | (?P<string>\"{3}(?:\\.|[^\\])*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    | (?P<mark>[\[\]{}=,.])
    | (?P<bare>[^\s\[\]{}=,."'\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)


@lru_cache(maxsize=16)
def key_lines(text: str) -> dict[KeyPath, int]:
    """The 1-based line where each key, table and array item of a valid TOML text begins, by its path.

    What stands in an array of tables (`[[name]]`) is found under its name without a number.
    """
    return _Scanner(text).lines


class _Scanner:
    """Walks over the tokens of a text that `tomllib` has accepted."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._tokens = _tokens_of(text)
        self._at = 0
        table: KeyPath = ()
        while self._skip("\n"):
            if self._next == "[":
                table = self._header()
            else:
                self._pair(table)

    @property
    def _next(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1][0]

    def _skip(self, unwanted: str) -> bool:
        """Pass over such tokens; False at the end of the text."""
        while self._next and self._next in unwanted:
            self._at += 1
        return bool(self._next)

    def _note(self, path: KeyPath) -> None:
        line = self._tokens[self._at][1]
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _header(self) -> KeyPath:
        self._skip("[")
        path = self._key()
        self._note(path)
        self._skip("]")
        return path

    def _key(self) -> tuple[str, ...]:
        parts = [_plain(self._take())]
        while self._next == ".":
            self._take()
            parts.append(_plain(self._take()))
        return tuple(parts)

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        path = (*table, *self._key())
        end, self._at = self._at, start
        self._note(path)
        self._at = end + 1
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if self._next == "[":
            self._take()
            index = 0
            while self._skip("\n,") and self._next != "]":
                self._note((*path, index))
                self._value((*path, index))
                index += 1
            self._take()
        elif self._next == "{":
            self._take()
            while self._skip("\n,") and self._next != "}":
                self._pair(path)
            self._take()
        else:
            while self._next and self._next not in "\n,]}":
                self._take()


def _tokens_of(text: str) -> list[tuple[str, int]]:
    """Tokens without blanks and comments, each with its line."""
    tokens, line = [], 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "blank":
            tokens.append((match.group(), line))
        line += match.group().count("\n")
    return tokens


def _plain(key: str) -> str:
    return str(tomllib.loads(f"key = {key}")["key"]) if key[0] in "\"'" else key
