"""Reads SR templates: the shipped ones, or a node's own folder, file by file instead of the shipped files.

A folder holds one file for each template, and may hold `shared/terms.toml`, `shared/codes.toml` and
`phrases/draft.toml`; for each of these that it lacks, the shipped one counts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language
from umit_pacs.vocabulary.checks import mistakes_between, mistakes_in, mistakes_in_phrases
from umit_pacs.vocabulary.records import Coding, Record, SRTemplate, TemplateLibrary
from umit_pacs.vocabulary.toml_lines import KeyPath, key_lines
from umit_pacs.vocabulary.words import Phrases

SHIPPED_FOLDER = Path(str(resources.files("sr_templates")))
_TERMS, _CODES, _PHRASES = "shared/terms.toml", "shared/codes.toml", "phrases/draft.toml"
_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One mistake of a templates folder."""

    #: relative to the folder.
    file: str
    #: 1-based.
    line: int
    #: "" where no key is to blame.
    key: str
    #: what is wrong, and what to do.
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (f"{self.file}:{self.line}", self.key, self.message) if part)


class AcceptedCode(Coding):
    """A code that no dictionary at hand lists, and who vouches for it."""

    source: str = Field(min_length=1)


class _AcceptedCodes(Record):
    codes: tuple[AcceptedCode, ...]


@cache
def load_templates(folder: Path | None = None) -> TemplateLibrary:
    """The checked templates of `folder` (the shipped ones when None), sorted by file name, `general` last.

    Raises InvalidConfiguration that names, for each mistake, file, line, key and what to do.
    """
    library, problems = read_templates(folder)
    if library is None:
        raise InvalidConfiguration("\n".join(map(str, problems)))
    return library


def load_phrases(folder: Path | None = None) -> Phrases:
    """The fixed words of drafts, the folder's own instead of the shipped ones."""
    return load_templates(folder).phrases


def read_templates(folder: Path | None = None) -> tuple[TemplateLibrary | None, tuple[Problem, ...]]:
    """The library, None when anything is wrong, and everything that is."""
    reader = _Reader(folder or SHIPPED_FOLDER)
    library = reader.library()
    problems = tuple(dict.fromkeys(reader.problems))
    return (None, problems) if problems else (library, ())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    """One TOML file that could be read."""

    file: str
    text: str
    content: dict[str, Any]

    def has(self, path: KeyPath) -> bool:
        return path in key_lines(self.text)

    def line_of(self, path: KeyPath) -> int:
        """Where a key stands, else the table that it is missing from."""
        lines = key_lines(self.text)
        return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1)


class _Reader:
    """Reads one folder and collects what is wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.problems: list[Problem] = []
        self._folder = folder
        self._shared = self._document(_TERMS)

    def library(self) -> TemplateLibrary | None:
        """The templates and phrases that could be read; it counts only when no problem was found."""
        if not self._folder.is_dir():
            self.problems.append(Problem(file=str(self._folder), line=1, key="", message="is no folder: make it"))
            return None
        accepted = [code for folder in {SHIPPED_FOLDER, self._folder} for code in self._accepted_codes(folder)]
        found: list[tuple[SRTemplate, _Document]] = []
        paths = sorted(self._folder.glob("*.toml"), key=lambda path: (path.stem == "general", path.stem))
        for path in paths:
            own = self._document(path.name)
            template = self._template(own) if own is not None and self._shared is not None else None
            if own is not None and template is not None:
                found.append((template, own))
                for place, message in mistakes_in(template, accepted):
                    self._note(place, message, own, self._shared)
        documents = {id(template): own for template, own in found}
        for template, (place, message) in mistakes_between(template for template, _ in found):
            self._note(place, message, documents[id(template)])
        if not any(path.stem == "general" for path in paths):
            self.problems.append(
                Problem(
                    file="general.toml", line=1, key="", message="missing: copy the shipped one, it is for all else"
                )
            )
        phrases = self._phrases()
        return None if self.problems else TemplateLibrary(templates=tuple(one for one, _ in found), phrases=phrases)

    def _template(self, own: _Document) -> SRTemplate | None:
        assert self._shared is not None, "checked before"
        try:
            return SRTemplate.model_validate(_merged(self._shared.content, own.content))
        except ValidationError as exc:
            self._note_invalid(exc, own, self._shared)
            return None

    def _accepted_codes(self, folder: Path) -> tuple[AcceptedCode, ...]:
        if not (folder / _CODES).exists():
            return ()
        document = self._document(_CODES, folder)
        try:
            return _AcceptedCodes.model_validate(document.content).codes if document else ()
        except ValidationError as exc:
            self._note_invalid(exc, document)
            return ()

    def _phrases(self) -> Phrases:
        """The shipped phrases with the folder's own in their place."""
        shipped = self._texts(self._document(_PHRASES, SHIPPED_FOLDER))
        own_document = self._document(_PHRASES)
        own = self._texts(own_document)
        for place, message in mistakes_in_phrases(own, shipped):
            self._note(place, message, own_document)
        return Phrases(texts={**shipped.texts, **own.texts})

    def _texts(self, document: _Document | None) -> Phrases:
        texts: dict[str, dict[Language, str]] = {}
        for path, text in _strings(document.content if document else {}, ()):
            if path[-1] in set(Language):
                texts.setdefault(".".join(map(str, path[:-1])), {})[Language(path[-1])] = text
            else:
                self._note(
                    path, f"no text in a language: write {{ {', '.join(f'{one} = …' for one in Language)} }}", document
                )
        return Phrases(texts=texts)

    def _document(self, name: str, folder: Path | None = None) -> _Document | None:
        """A file of `folder`, of the folder that is read when None; the shipped one where it has none."""
        path = (folder or self._folder) / name
        path = path if path.exists() else SHIPPED_FOLDER / name
        try:
            text = path.read_text(encoding="utf-8")
            return _Document(file=name, text=text, content=tomllib.loads(text))
        except (OSError, UnicodeDecodeError) as exc:
            self.problems.append(Problem(file=name, line=1, key="", message=f"cannot be read as UTF-8 text ({exc})"))
        except tomllib.TOMLDecodeError as exc:
            match = _AT_LINE.search(str(exc))
            line = int(match[1]) if match and match[1] else text.count("\n") + 1
            message = f"{_AT_LINE.sub('', str(exc))}: correct the TOML"
            self.problems.append(Problem(file=name, line=line, key="", message=message))
        return None

    def _note_invalid(self, exc: ValidationError, *documents: _Document | None) -> None:
        for error in exc.errors(include_url=False):
            place = tuple(part for part in error["loc"] if part != "[key]")
            self._note(place, _advice(error), *documents)

    def _note(self, place: KeyPath, message: str, *documents: _Document | None) -> None:
        """Note a mistake where it stands: in the first document that has the key, or its table."""
        known = [document for document in documents if document is not None]
        for end in range(len(place), 0, -1):
            for document in known:
                if document.has(place[:end]):
                    return self._add(place, message, document)
        return self._add(place, message, known[0])

    def _add(self, place: KeyPath, message: str, document: _Document) -> None:
        key = ".".join(map(str, place))
        self.problems.append(Problem(file=document.file, line=document.line_of(place), key=key, message=message))


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The shared terms with the template's own in their place, table by table."""
    both = {
        name: {**table, **own[name]}
        for name, table in shared.items()
        if isinstance(table, dict) and isinstance(own.get(name), dict)
    }
    return {**shared, **own, **both}


def _strings(node: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(node, Mapping):
        for key, item in node.items():
            yield from _strings(item, (*path, str(key)))
    else:
        yield path, str(node)


def _advice(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "there is no such key: correct or remove it"
        case "missing":
            return "missing: add it"
    return f"{str(error['msg']).removeprefix('Value error, ')}: correct it"
