"""What a report says and how it is coded: `sr_templates/` as typed records.

One file per template. The keys of findings, landmarks and classes are the words that rules, orders, regions, training
records and reports share. `docs/templates.md` says how to write one.
"""

from umit_pacs.vocabulary.loading import (
    SHIPPED_FOLDER,
    Problem,
    load_phrases,
    load_templates,
    read_templates,
)
from umit_pacs.vocabulary.records import (
    ClassTerm,
    Coding,
    FindingTerm,
    LandmarkTerm,
    MeasurementTerm,
    Presence,
    SectionKind,
    SectionTerm,
    Side,
    SRTemplate,
    TemplateLibrary,
    Texts,
)
from umit_pacs.vocabulary.words import Phrases, Words

__all__ = [
    "SHIPPED_FOLDER",
    "ClassTerm",
    "Coding",
    "FindingTerm",
    "LandmarkTerm",
    "MeasurementTerm",
    "Phrases",
    "Presence",
    "Problem",
    "SRTemplate",
    "SectionKind",
    "SectionTerm",
    "Side",
    "TemplateLibrary",
    "Texts",
    "Words",
    "load_phrases",
    "load_templates",
    "read_templates",
]
