"""What types cannot say about a template: codes, languages, references, places to fill, lengths, rivals."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from string import Formatter
from typing import Any

from umit_pacs.handoffs import Language
from umit_pacs.vocabulary.codes import doubt_about
from umit_pacs.vocabulary.records import Coding, SectionKind, SRTemplate
from umit_pacs.vocabulary.toml_lines import KeyPath
from umit_pacs.vocabulary.words import Phrases

#: where something is wrong, and what is wrong and to be done.
Mistake = tuple[KeyPath, str]
#: PS3.5 table 6.2-1: what becomes a Code Meaning or a Series Description (VR LO) has room for this.
LONGEST_TEXT = 64
#: phrases that become a Code Meaning.
_MEANINGS = ("headings.", "items.")
_PRESENCES = ("present", "absent", "uncertain", "not_assessed")


def mistakes_in(template: SRTemplate, accepted: Iterable[Coding]) -> Iterator[Mistake]:
    """Every mistake of one template by itself."""
    listed = tuple(accepted)
    content = template.model_dump()
    for path, node in _tables(content, ()):
        if node.keys() >= {"value", "scheme", "meaning"}:
            if doubt := doubt_about(Coding(**node), listed):
                yield path, doubt
        elif texts := _texts(node):
            yield from _mistakes_in_text(path, texts, _fillable(path, template))
            if path[-1] in ("names", "title"):
                yield from _too_long(path, texts)
    yield from _dangling(template)


def mistakes_between(templates: Iterable[SRTemplate]) -> Iterator[tuple[SRTemplate, Mistake]]:
    """Templates that cannot stand beside an earlier one."""
    for first, second in itertools.combinations(templates, 2):
        if first.key == second.key:
            yield second, (("key",), f'another file has the template "{first.key}" too: give one of them another key')
        modalities = [name for name in second.modalities if name in first.modalities]
        parts = [name for name in second.body_parts if name in first.body_parts]
        if modalities and (parts or first.body_parts == second.body_parts == ()):
            claimed = f"{modalities[0]} of {parts[0] if parts else 'any body part'}"
            place = ("body_parts",) if parts else ("modalities",)
            yield second, (place, f'{claimed} belongs to the template "{first.key}" already: take it out of one')


def mistakes_in_phrases(own: Phrases, shipped: Phrases) -> Iterator[Mistake]:
    """Mistakes of a node's own phrases, which stand in for shipped ones."""
    for key, texts in own.texts.items():
        path, known = tuple(key.split(".")), shipped.texts.get(key)
        if known is None and not key.startswith("reasons."):
            yield path, "no draft uses this phrase: correct the key, or remove it"
            continue
        yield from _mistakes_in_text(path, texts, {place for text in (known or {}).values() for place in _places(text)})
        if key.startswith(_MEANINGS):
            yield from _too_long(path, texts)


def _tables(node: object, path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """Every table below `node`, with where it is."""
    if isinstance(node, Mapping):
        if path:
            yield path, node
        for key, item in node.items():
            yield from _tables(item, (*path, str(key)))
    elif isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _tables(item, (*path, index))


def _texts(node: Mapping[str, Any]) -> dict[Language, str]:
    """The table as texts by language; empty when it is another kind of table."""
    is_text = all(key in set(Language) for key in node)
    return {Language(key): text for key, text in node.items()} if is_text else {}


def _mistakes_in_text(path: KeyPath, texts: Mapping[Language, str], fillable: set[str]) -> Iterator[Mistake]:
    for language in Language:
        text = texts.get(language, "")
        if not text.strip():
            yield path, f'no text in {language}: add {language} = "…"'
            continue
        try:
            unknown = sorted(_places(text) - fillable)
        except ValueError:
            yield (*path, language), "a brace without its partner: remove it"
            continue
        if unknown:
            choice = f"write {' or '.join(f'{{{place}}}' for place in sorted(fillable))}" if fillable else "remove it"
            yield (*path, language), f"nothing fills {{{unknown[0]}}}: {choice}"


def _places(text: str) -> set[str]:
    """Names of the places to fill. Raises ValueError for a lone brace."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def _fillable(path: KeyPath, template: SRTemplate) -> set[str]:
    match path:
        case ("technique",):
            return {"slices"}
        case ("findings", str(key), "sentences", _) | ("findings", str(key), "impressions"):
            return {"side"} if template.findings[key].has_side else set()
    return set()


def _too_long(path: KeyPath, texts: Mapping[Language, str]) -> Iterator[Mistake]:
    for language, text in texts.items():
        if len(text) > LONGEST_TEXT:
            yield (*path, language), f"{len(text)} characters where DICOM has room for {LONGEST_TEXT}: shorten it"


def _dangling(template: SRTemplate) -> Iterator[Mistake]:
    """References to what the template does not define, and what it must define."""
    if missing := [kind for kind in SectionKind if kind not in template.sections]:
        yield ("sections",), f"no section {missing[0]}: add [sections.{missing[0]}]"
    if sorted(template.section_order) != sorted(SectionKind) or template.section_order[0] is not SectionKind.STATUS:
        yield ("section_order",), f"list each once, status first: {', '.join(SectionKind)}"
    if missing_sides := [side for side in ("left", "right", "both") if side not in template.sides]:
        yield ("sides",), f"no side {missing_sides[0]}: add [sides.{missing_sides[0]}]"
    for key, term in template.findings.items():
        if term.site not in template.sites:
            yield ("findings", key, "site"), _no_such("site", term.site, template.sites)
        for index, name in enumerate(term.measurements):
            if name not in template.measurements:
                yield ("findings", key, "measurements", index), _no_such("measurement", name, template.measurements)
        for presence in _PRESENCES:
            if presence not in term.sentences:
                yield ("findings", key, "sentences"), f"no sentence for {presence}: add it"
        if key in template.landmarks:
            yield ("landmarks", key), "a finding has this key too: give one of them another key"


def _no_such(kind: str, name: str, known: Iterable[str]) -> str:
    return f'no {kind} "{name}": write {", ".join(known)}, or define [{kind}s.{name}]'
