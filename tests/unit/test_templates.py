"""Templates as an administrator meets them: checked, shown, edited, and named in what they made."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace

import pydicom
import pytest
from typer.testing import CliRunner

from tests.result_fixtures import MODEL, ct_run, radiograph_run
from umit_pacs.cli.app import app
from umit_pacs.cli.checks import check_templates
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Findings, Language, ObjectKind
from umit_pacs.node.kept_templates import keep_templates
from umit_pacs.result_objects.draft import SectionKind
from umit_pacs.settings import ComposeSettings, Settings, StoreSettings
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.vocabulary import SHIPPED_FOLDER, load_templates, read_templates
from umit_pacs.vocabulary.toml_lines import key_lines

FILES = sorted(path.relative_to(SHIPPED_FOLDER).as_posix() for path in SHIPPED_FOLDER.rglob("*.toml"))


@pytest.fixture
def folder(tmp_path):
    """The shipped templates, to be edited."""
    copied = tmp_path / "templates"
    shutil.copytree(SHIPPED_FOLDER, copied, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return copied


def edit(folder, file, old, new):
    """Replace the one `old` of a file; returns the 1-based line where `new` begins."""
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (file, old)
    path.write_text(text.replace(old, new), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def command(*words):
    return CliRunner().invoke(app, ["templates", *map(str, words)])


CONSOLIDATION = (
    '[findings.consolidation]\ncode = { value = "95436008", scheme = "SCT", '
    'meaning = "Lung consolidation", equivalent = '
)
#: file, what stands in it, what an administrator writes instead, what is said about it.
MISTAKES = {
    "an unknown code": (
        "chest_ct.toml",
        '"27925004", scheme = "SCT", meaning = "Nodule"',
        '"27925005", scheme = "SCT", meaning = "Nodule"',
        "findings.nodule.code: (27925005, SCT) is unknown: correct it, or list it with its source in shared/codes.toml",
    ),
    "a code that means something else": (
        "chest_ct.toml",
        'scheme = "SCT", meaning = "Nodule"',
        'scheme = "SCT", meaning = "Mass"',
        'findings.nodule.code: (27925004, SCT) does not mean "Mass": write nodule, or take another code',
    ),
    "an unknown unit": (
        "shared/terms.toml",
        'unit = { value = "mm", scheme = "UCUM", meaning = "mm" }',
        'unit = { value = "mmm", scheme = "UCUM", meaning = "mm" }',
        "measurements.longest_diameter.unit: (mmm, UCUM) is no known unit",
    ),
    "a missing language": (
        "general.toml",
        ', zh = "图像分析"',
        "",
        'title: no text in zh: add zh = "…"',
    ),
    "an unknown language": (
        "general.toml",
        ', zh = "图像分析"',
        ', fr = "Image"',
        "title.fr: ",
    ),
    "a dangling site": (
        "brain_mr.toml",
        'site = "cerebral_white_matter"',
        'site = "white_matter"',
        'findings.white_matter_lesion.site: no site "white_matter": write lung, pleura',
    ),
    "a dangling measurement": (
        "chest_radiograph.toml",
        'measurements = ["cardiothoracic_ratio"]',
        'measurements = ["ctr"]',
        'findings.cardiomegaly.measurements.0: no measurement "ctr": write longest_diameter',
    ),
    "an unknown side": (
        "chest_radiograph.toml",
        'side = "right"\nnames = { en = "right lung apex"',
        'side = "dexter"\nnames = { en = "right lung apex"',
        "landmarks.right_apex.side: Input should be 'left', 'right', 'both' or 'none'",
    ),
    "a section that does not exist": (
        "general.toml",
        "modalities = []",
        'section_order = ["status", "prelude"]\nmodalities = []',
        "section_order.1: ",
    ),
    "a section left out of the order": (
        "general.toml",
        "modalities = []",
        'section_order = ["status", "findings"]\nmodalities = []',
        "section_order: list each once, status first: status, technique",
    ),
    "a place that nothing fills": (
        "chest_ct.toml",
        "There is a {side} consolidation.",
        "There is a {size} consolidation.",
        "findings.consolidation.sentences.present.en: nothing fills {size}: write {side}",
    ),
    "a lone brace": (
        "chest_ct.toml",
        "There is a {side} consolidation.",
        "There is a {side consolidation.",
        "findings.consolidation.sentences.present.en: a brace without its partner: remove it",
    ),
    "a sentence that is not there": (
        "chest_ct.toml",
        'not_assessed = { en = "Consolidation was not assessed.", zh = "肺实变未评估。" }\n',
        "\n",
        "findings.consolidation.sentences: no sentence for not_assessed: add it",
    ),
    "a key that does not exist": (
        "chest_ct.toml",
        "display_window = [",
        "window = [",
        "window: there is no such key: correct or remove it",
    ),
    "nothing that is never assessed": (
        "general.toml",
        'never_assessed = [{ en = "Everything that was not asked.", zh = "未提问的所有内容。" }]',
        "never_assessed = []",
        "never_assessed: Tuple should have at least 1 item",
    ),
    "a duplicate key": (
        "chest_ct.toml",
        "[findings.consolidation]\n",
        "[findings.pleural_effusion]\n",
        "Cannot declare ('findings', 'pleural_effusion') twice: correct the TOML",
    ),
    "a name longer than a Code Meaning": (
        "chest_ct.toml",
        'names = { en = "consolidation", zh',
        f'names = {{ en = "{"consolidation " * 5}", zh',
        "findings.consolidation.names.en: 70 characters where DICOM has room for 64: shorten it",
    ),
    "a code meaning that is too long": (
        "chest_ct.toml",
        CONSOLIDATION,
        CONSOLIDATION.replace("Lung consolidation", "Lung consolidation " * 4),
        "findings.consolidation.code.meaning: String should have at most 64 characters: correct it",
    ),
    "a phrase that no draft uses": (
        "phrases/draft.toml",
        "not_a_diagnosis = ",
        "no_diagnosis = ",
        "no_diagnosis: no draft uses this phrase: correct the key, or remove it",
    ),
    "a phrase with a place that nothing fills": (
        "phrases/draft.toml",
        'en = "{text} {shown}"',
        'en = "{text} {seen}"',
        "technique.joined.en: nothing fills {seen}: write {shown} or {text}",
    ),
    "two templates for the same images": (
        "chest_radiograph.toml",
        'modalities = ["CR", "DX"]\nbody_parts',
        'modalities = ["CR", "CT"]\nbody_parts',
        'body_parts: CT of CHEST belongs to the template "chest_ct" already: take it out of one',
    ),
    "two templates with one key": (
        "fdg_pet_ct.toml",
        'key = "fdg_pet_ct"',
        'key = "chest_ct"',
        'key: another file has the template "chest_ct" too: give one of them another key',
    ),
    "a code without a source": (
        "shared/codes.toml",
        ', source = "SNOMED CT, as concept 4318404 of the OMOP vocabularies"',
        "",
        "codes.0.source: missing: add it",
    ),
}


def test_the_shipped_templates_have_nothing_wrong():
    library, problems = read_templates()
    assert problems == ()
    assert library is not None


#: lines between the edit and what is blamed, where it is not the edited line itself.
OFFSETS = {
    "a sentence that is not there": -4,
    "a code meaning that is too long": 1,
    "two templates for the same images": 1,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_line_key_and_what_to_do(folder, mistake):
    file, old, new, said = MISTAKES[mistake]
    line = edit(folder, file, old, new) + OFFSETS.get(mistake, 0)
    library, problems = read_templates(folder)
    assert library is None
    assert f"{file}:{line}: {said}" in [str(problem)[: len(f"{file}:{line}: {said}")] for problem in problems]


def test_all_mistakes_are_reported_together(folder):
    for mistake in ("an unknown unit", "a missing language", "a dangling site", "a phrase that no draft uses"):
        edit(folder, *MISTAKES[mistake][:3])
    with pytest.raises(InvalidConfiguration) as refused:
        load_templates(folder)
    blamed = [line.split(":")[0] for line in refused.value.detail.splitlines()]
    assert blamed == ["shared/terms.toml", "brain_mr.toml", "general.toml", "phrases/draft.toml"]


@pytest.mark.parametrize("file", FILES)
def test_every_key_is_found_on_the_line_where_it_stands(file):
    def paths(node, path=()):
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, item in items:
            yield (*path, key)
            yield from paths(item, (*path, key))

    text = (SHIPPED_FOLDER / file).read_text(encoding="utf-8")
    lines = key_lines(text)
    assert set(lines) == set(paths(tomllib.loads(text)))
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert path[-1] in text.splitlines()[line - 1]


@pytest.mark.parametrize("language", Language)
def test_no_template_states_what_it_never_claims(language):
    for template in load_templates().templates:
        own = [template.normal_sentence[language], template.normal_impression[language]]
        for key in template.findings:
            own += [template.sentence(key, "present", side, language) for side in ("left", "both", "none")]
            own += [template.sentence(key, other, "none", language) for other in ("absent", "uncertain")]
        for claim in (*template.never_claims, *template.claims_needing_prior):
            boundary = r"\b" if language is Language.ENGLISH else ""
            pattern = re.compile(f"{boundary}{re.escape(claim[language])}{boundary}", re.IGNORECASE)
            assert not [text for text in own if pattern.search(text)], claim


def test_a_folder_of_its_own_needs_only_what_differs(folder):
    for file in ("shared/terms.toml", "shared/codes.toml", "chest_ct.toml"):
        (folder / file).unlink()
    edit(folder, "phrases/draft.toml", 'AI DRAFT - NOT VERIFIED", zh', 'AI PROPOSAL - NOT VERIFIED", zh')
    text = (folder / "phrases/draft.toml").read_text(encoding="utf-8").splitlines()
    (folder / "phrases/draft.toml").write_text(text[2] if "banner" in text[2] else text[1], encoding="utf-8")
    library = load_templates(folder)
    assert [template.key for template in library.templates] == [
        "brain_mr", "chest_radiograph", "fdg_pet_ct", "general"
    ]  # fmt: skip
    words = library.in_language(Language.ENGLISH)
    assert words("banner") == "AI PROPOSAL - NOT VERIFIED"
    assert words("headings.findings") == "Findings"


def test_a_template_orders_the_sections_of_its_drafts(folder, tmp_path):
    reordered = ["status", "impression", "findings", "not_assessed", "technique", "comparison", "identity"]
    edit(folder, "chest_radiograph.toml", 'version = "1"', f'version = "2"\nsection_order = {json.dumps(reordered)}')
    run = replace(radiograph_run(tmp_path / "study"), settings=ComposeSettings(templates_folder=folder))
    draft = run.draft()
    assert [section.kind for section in draft.sections] == reordered
    assert draft.section(SectionKind.FINDINGS).code.value == "59776-5"
    assert draft.templates[0].version == "2"


def test_a_changed_template_makes_other_objects_and_is_named_in_them(folder, tmp_path):
    settings = ComposeSettings(templates_folder=folder, profiles={"universal": ("text_report", "measurement_report")})
    run = replace(ct_run(tmp_path / "study"), settings=settings)
    before = run.compose()
    assert run.compose() == before
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    edit(changed, "chest_ct.toml", "There is a {side} pulmonary nodule or mass.", "A {side} nodule or mass is seen.")
    again = replace(run, settings=settings.model_copy(update={"templates_folder": changed}))
    after = again.compose()
    assert {item.sop_instance_uid for item in before}.isdisjoint(item.sop_instance_uid for item in after)
    identity = load_templates(changed).by_key("chest_ct").identity
    for item in after:
        ds = pydicom.dcmread(run.files.path(item.relative_path))
        assert str(identity) in ds.ContributingEquipmentSequence[0].ContributionDescription
        if item.kind is ObjectKind.TEXT_REPORT:
            assert str(identity) in ds.to_json()
        else:
            assert f"template=chest_ct 1 sha256={identity.sha256}" in ds.to_json()


def test_the_templates_that_were_asked_with_are_kept_with_the_answers():
    library = load_templates()
    named = library.identities(["chest_ct", "", "gone", "chest_ct"])
    assert [one.key for one in named] == ["chest_ct"]
    findings = Findings(input_set_id="1", model=MODEL, results=(), templates=named)
    assert from_json(Findings, to_json(findings)).templates == named


def test_check_says_what_is_wrong_and_fails(folder):
    assert command("check", folder).exit_code == 0
    line = edit(folder, *MISTAKES["a dangling site"][:3])
    checked = command("check", folder)
    assert checked.exit_code == 1
    assert checked.stdout.startswith(f"brain_mr.toml:{line}: findings.white_matter_lesion.site: ")
    assert "[sites.white_matter]" in checked.stdout
    (problem,) = json.loads(command("check", folder, "--json").stdout)
    assert (problem["file"], problem["line"]) == ("brain_mr.toml", line)
    assert command("check", folder / "nothing").exit_code == 1


def test_doctor_says_the_same(folder):
    settings = Settings(compose=ComposeSettings(templates_folder=folder))
    assert [finding.is_ok for finding in check_templates(settings)] == [True]
    edit(folder, *MISTAKES["a dangling site"][:3])
    (finding,) = check_templates(settings)
    assert not finding.is_ok
    assert finding.detail == "\n".join(map(str, read_templates(folder)[1]))


def test_copied_templates_are_the_shipped_ones_and_never_written_over(tmp_path):
    assert command("copy", tmp_path / "own").exit_code == 0
    assert sorted(path.relative_to(tmp_path / "own").as_posix() for path in (tmp_path / "own").rglob("*.toml")) == FILES
    assert load_templates(tmp_path / "own") == load_templates()
    assert isinstance(command("copy", tmp_path / "own").exception, InvalidConfiguration)


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("template", load_templates().templates, ids=lambda template: template.key)
def test_a_preview_shows_every_sentence_and_measurement_the_same_every_time(template, language, tmp_path):
    shown = command("preview", template.key, "--language", language)
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"PREVIEW of the template {template.identity}")
    banner = load_templates().in_language(language)("banner")
    assert shown.stdout.splitlines().count(banner) == 4
    for key, term in template.findings.items():
        for presence in ("present", "absent", "uncertain", "not_assessed"):
            assert template.sentence(key, presence, "none", language) in shown.stdout
        for name in term.measurements:
            assert template.measurements[name].names[language] in shown.stdout
    assert "{" not in shown.stdout.replace("{ratio}", "").replace("{SUVbw}", "")
    again = command("preview", template.key, "--language", language, "--out", tmp_path / "preview.txt")
    assert again.exit_code == 0
    assert (tmp_path / "preview.txt").read_text(encoding="utf-8") == shown.stdout


def test_a_preview_of_nothing_names_what_there_is():
    refused = command("preview", "knee")
    assert isinstance(refused.exception, InvalidConfiguration)
    assert "chest_ct" in refused.exception.detail


def test_a_running_node_keeps_the_templates_that_it_started_with(folder, tmp_path):
    settings = Settings(
        compose=ComposeSettings(templates_folder=folder), store=StoreSettings(folder=tmp_path / "store")
    )
    kept = keep_templates(settings)
    assert kept.compose.templates_folder is not None
    assert kept.compose.templates_folder != folder
    before = load_templates(kept.compose.templates_folder)
    assert keep_templates(settings) == kept
    edit(folder, *MISTAKES["a dangling site"][:3])
    assert read_templates(kept.compose.templates_folder)[0] == before
    with pytest.raises(InvalidConfiguration, match=r"brain_mr\.toml:\d+: findings"):
        keep_templates(settings)
    assert [path.name for path in (tmp_path / "store" / "templates").iterdir()] == [kept.compose.templates_folder.name]


def test_a_node_refuses_to_start_with_a_broken_folder(folder, tmp_path):
    line = edit(folder, *MISTAKES["a dangling site"][:3])
    config = configuration(tmp_path, folder)
    ended = subprocess.run(
        [sys.executable, "-m", "umit_pacs", "serve", "--config", config],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"brain_mr.toml:{line}: findings.white_matter_lesion.site: " in ended.stderr


def test_rules_know_the_templates_of_the_folder(folder, tmp_path):
    text = (folder / "general.toml").read_text(encoding="utf-8")
    hand = text.replace('key = "general"', 'key = "hand"').replace("= []", '= ["CR"]\nbody_parts = ["HAND"]')
    (folder / "hand.toml").write_text(hand, encoding="utf-8")
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rules]]\nname = "hands"\nmatches_everything = true\n'
        '[rules.action]\nreport = true\nmode = "shadow"\ntemplate = "hand"\n',
        encoding="utf-8",
    )
    config = configuration(tmp_path, folder)
    assert CliRunner().invoke(app, ["rules", "check", str(rules), "--config", str(config)]).exit_code == 0
    refused = CliRunner().invoke(app, ["rules", "check", str(rules)])
    assert isinstance(refused.exception, InvalidConfiguration)
    assert "hand" in refused.exception.detail
    assert load_templates(folder).for_series("CR", "HAND").key == "hand"


def configuration(folder, templates_folder):
    """A node.toml that names the templates folder."""
    path = folder / "node.toml"
    path.write_text(
        f'[store]\nfolder = "{folder / "store"}"\n[compose]\ntemplates_folder = "{templates_folder}"\n',
        encoding="utf-8",
    )
    return path
