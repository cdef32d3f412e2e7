import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import get_args

import pytest

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language, ObjectKind, Task
from umit_pacs.result_objects.comparison import Change
from umit_pacs.result_objects.draft import SectionKind
from umit_pacs.result_objects.statements import StatementSource
from umit_pacs.states import RejectionReason
from umit_pacs.vocabulary import Presence, load_phrases, load_templates

ENGLISH, CHINESE = Language.ENGLISH, Language.CHINESE
TEMPLATES = load_templates().templates


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.key)
@pytest.mark.parametrize("language", Language)
def test_no_two_statements_read_alike(template, language):
    """Else a sentence of the model could be taken for another statement."""
    seen = {}
    for key, term in template.findings.items():
        sides = ["none", *(template.sides if term.has_side else ())]
        for presence in ("present", "absent", "uncertain"):
            for side in sides if presence != "absent" else ["none"]:
                sentence = template.sentence(key, presence, side, language)
                assert sentence not in seen, (sentence, seen.get(sentence))
                seen[sentence] = (key, presence, side)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.key)
def test_sentences_are_well_formed(template):
    for key in template.findings:
        for side in ("left", "right", "both", "none"):
            for presence in ("present", "absent", "uncertain"):
                english = template.sentence(key, presence, side, ENGLISH)
                assert re.fullmatch(r"[A-Z][^{}]*\.", english)
                assert "  " not in english
                assert re.fullmatch(r"[\u4e00-\u9fff]+。", template.sentence(key, presence, side, CHINESE))
            assert re.fullmatch(r"[A-Z][^{},]*(, (left|right|bilateral))?\.", template.impression(key, side, ENGLISH))


def test_a_template_is_found_by_modality_and_body_part():
    library = load_templates()
    assert library.for_series("DX", "CHEST").key == "chest_radiograph"
    assert library.for_series("CT", "THORAX").key == "chest_ct"
    assert library.for_series("CR", "HAND").key == "general"
    with pytest.raises(KeyError):
        library.by_key("nothing")


def test_a_template_without_a_language_names_the_text(tmp_path):
    shipped = Path(str(resources.files("sr_templates")))
    for path in shipped.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    broken = tmp_path / "general.toml"
    broken.write_text(broken.read_text(encoding="utf-8").replace(', zh = "图像分析"', ""), encoding="utf-8")
    with pytest.raises(InvalidConfiguration, match=r"general\.toml.*title.*zh"):
        load_templates(tmp_path)


def test_a_folder_without_the_general_template_is_refused(tmp_path):
    with pytest.raises(InvalidConfiguration, match=r"general\.toml:1: missing"):
        load_templates(tmp_path)


def test_every_phrase_has_both_languages_and_the_same_places_to_fill():
    for key, texts in load_phrases().texts.items():
        assert set(texts) == set(Language), key
        places = [set(re.findall(r"\{(\w+)\}", text)) for text in texts.values()]
        assert places[0] == places[1], key


def test_every_phrase_that_is_asked_for_exists_and_every_other_one_is_used():
    texts = set(load_phrases().texts)
    package = Path(str(resources.files("umit_pacs")))
    sources = [path for name in ("result_objects", "vocabulary") for path in (package / name).rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    asked = set(re.findall(r'(?:words|self)\(\s*"([a-z_.]+)"', code)) | set(
        re.findall(r'"((?:technique|findings)\.[a-z_]+)"', code)
    )
    for prefix, members in (
        ("headings", SectionKind),
        ("items", SectionKind),
        ("kinds", ObjectKind),
        ("tasks", Task),
        ("contradictions", StatementSource),
        ("presences", get_args(Presence)),
        ("withdrawal", RejectionReason),
        ("comparison", Change),
    ):
        asked |= {f"{prefix}.{member}" for member in members}
    assert asked <= texts, asked - texts
    unused = {key for key in texts - asked if not key.startswith("reasons.")}
    assert unused == set()


def test_a_reason_in_another_language_leaves_out_the_english_detail():
    phrases = load_phrases()
    assert phrases.in_language(ENGLISH).reason("empty_box", "x") == "the answer is a box without extent (x)"
    assert phrases.in_language(CHINESE).reason("empty_box", "x") == "回答的框没有面积"
    assert phrases.in_language(CHINESE).reason("moon_phase", "full") == "moon phase（full）"


def test_the_phrases_file_is_toml_without_duplicates():
    path = Path(str(resources.files("sr_templates"))) / "phrases" / "draft.toml"
    assert tomllib.loads(path.read_text(encoding="utf-8"))
