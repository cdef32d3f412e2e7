from dataclasses import replace

import pytest

from tests.phantoms import chest_like_ct, write_ct_series
from tests.result_fixtures import (
    answer,
    box,
    ct_run,
    frames_of_folder,
    order,
    radiograph_run,
    run_of,
)
from umit_pacs.handoffs import (
    Abstention,
    Language,
    Region,
    RegionKind,
    ReportStatement,
    SeriesExclusion,
    SeriesUID,
    Task,
)
from umit_pacs.result_objects.draft import LineOrigin, SectionKind
from umit_pacs.result_objects.statements import sentences_of
from umit_pacs.vocabulary import load_phrases, load_templates

ENGLISH, CHINESE = Language.ENGLISH, Language.CHINESE


def texts(draft, kind):
    return [line.text for line in draft.section(kind).lines]


def with_results(run, *results):
    return replace(run, findings=replace(run.findings, results=tuple(results)))


def asked(run, task, **more):
    """A question about the run's first series."""
    frames = run.findings.results[0].frames
    return order(task, frames, run.decision.language, "chest_radiograph", **more)


def detection(run, key, *, regions=(), confidence=None, **more):
    frames = run.findings.results[0].frames
    return answer(asked(run, Task.DETECTION, target=key), frames, regions=regions, confidence=confidence, **more)


def report(run, text):
    return answer(asked(run, Task.REPORT), run.findings.results[0].frames, text=text)


def region(run, key, confidence=0.9, *, left=300.0):
    return box(key, run.findings.results[0].frames[:1], (left, 200.0, left + 80.0, 280.0), confidence)


@pytest.mark.parametrize(
    ("language", "banner"), [(ENGLISH, "AI DRAFT - NOT VERIFIED"), (CHINESE, "AI 草稿 - 未经核实")]
)
def test_the_first_line_is_the_banner(tmp_path, language, banner):
    draft = radiograph_run(tmp_path, language).draft()
    assert draft.banner == banner
    assert draft.as_text().splitlines()[0] == banner
    assert draft.sections[0].lines[0].text == banner


def test_sections_stand_in_the_promised_order(tmp_path):
    kinds = [section.kind for section in radiograph_run(tmp_path).draft().sections]
    assert kinds == list(SectionKind)


def test_nothing_was_compared_and_the_draft_says_so(tmp_path):
    assert texts(radiograph_run(tmp_path).draft(), SectionKind.COMPARISON) == ["None available to the AI."]


def test_the_models_sentences_are_shown_word_for_word_as_the_models(tmp_path):
    lines = radiograph_run(tmp_path).draft().section(SectionKind.FINDINGS).lines
    own = [line.text for line in lines if line.origin is LineOrigin.MODEL_TEXT]
    assert own == [
        "There is a left pulmonary nodule or mass. (confidence 91%)",
        "No pleural effusion is seen.",
        "The cardiac silhouette is not enlarged.",
    ]


def test_a_structured_answer_has_region_and_confidence(tmp_path):
    draft = radiograph_run(tmp_path).draft()
    lines = draft.section(SectionKind.FINDINGS).lines
    line = next(line for line in lines if "region 1" in line.text)
    assert line.text == "There is a left pulmonary nodule or mass. (region 1; confidence 87%)"
    assert line.frames == (draft.markings[0].key_frame,)
    assert "No pneumothorax is seen. (no region marked; confidence 95%)" in [one.text for one in lines]


def test_what_is_too_unsure_to_be_denied_is_shown_with_its_probability(tmp_path):
    run = radiograph_run(tmp_path)
    run = with_results(run, detection(run, "nodule", confidence=0.83, presence="uncertain"))
    lines = texts(run.draft(), SectionKind.FINDINGS)
    assert "A pulmonary nodule or mass is possible. (no region marked; probability 17%)" in lines


def test_report_text_and_detection_that_disagree_are_called_a_contradiction(tmp_path):
    draft = radiograph_run(tmp_path).draft()
    found = [line for line in draft.section(SectionKind.FINDINGS).lines if line.origin is LineOrigin.CONTRADICTION]
    assert [line.text for line in found] == [
        'CONTRADICTION: the report text says "No pleural effusion is seen", but the search for this finding says '
        '"There is a left pleural effusion". Look at the images.'
    ]
    assert "2. Pleural effusion, left. Contradictory answers, see Findings." in texts(draft, SectionKind.IMPRESSION)


def test_opposite_sides_are_a_contradiction(tmp_path):
    run = radiograph_run(tmp_path)
    run = with_results(
        run,
        report(run, "There is a right pulmonary nodule or mass."),
        detection(run, "nodule", regions=(region(run, "nodule"),), confidence=0.9),
    )
    assert any("CONTRADICTION" in text for text in texts(run.draft(), SectionKind.FINDINGS))


def test_answers_that_agree_are_no_contradiction(tmp_path):
    run = radiograph_run(tmp_path)
    run = with_results(
        run,
        report(run, "There is a left pulmonary nodule or mass. No pneumothorax is seen."),
        detection(run, "nodule", regions=(region(run, "nodule"),), confidence=0.9),
        detection(run, "pneumothorax", confidence=0.9),
    )
    assert not any("CONTRADICTION" in text for text in texts(run.draft(), SectionKind.FINDINGS))


def test_a_normal_report_and_a_found_finding_are_a_contradiction(tmp_path):
    run = radiograph_run(tmp_path)
    normal = load_templates().by_key("chest_radiograph").normal_sentence[ENGLISH]
    run = with_results(
        run, report(run, normal), detection(run, "nodule", regions=(region(run, "nodule"),), confidence=0.9)
    )
    assert any("CONTRADICTION" in text for text in texts(run.draft(), SectionKind.FINDINGS))


def test_an_unsure_answer_is_stated_as_possible_only(tmp_path):
    run = radiograph_run(tmp_path)
    run = with_results(run, detection(run, "nodule", regions=(region(run, "nodule", 0.4),), confidence=0.4))
    assert texts(run.draft(), SectionKind.IMPRESSION) == ["1. A left pulmonary nodule or mass is possible."]


def test_a_surer_report_text_does_not_state_what_the_search_leaves_open(tmp_path):
    run = radiograph_run(tmp_path)
    run = with_results(
        run,
        report(run, "The cardiac silhouette is enlarged."),
        detection(run, "cardiomegaly", confidence=0.5, presence="uncertain"),
    )
    assert texts(run.draft(), SectionKind.IMPRESSION) == ["1. The cardiac silhouette may be enlarged."]


def test_a_place_that_was_not_marked_is_listed(tmp_path):
    run = radiograph_run(tmp_path)
    found = detection(run, "nodule", confidence=0.8, presence="present")
    run = with_results(run, replace(found, repairs=("unlikely_place_dropped",)))
    draft = run.draft()
    line = "Nodule: a place that the model gives is hardly ever right, so it is not marked."
    assert line in texts(draft, SectionKind.NOT_ASSESSED)
    assert not draft.markings


def test_an_unsure_denial_makes_nothing_possible(tmp_path):
    run = radiograph_run(tmp_path)
    sentence = "No pulmonary nodule or mass is seen."
    unsure = ReportStatement(finding="nodule", presence="absent", side="none", sentence=sentence, confidence=0.6)
    run = with_results(run, replace(report(run, sentence), statements=(unsure,)))
    assert not any("possible" in line for line in texts(run.draft(), SectionKind.IMPRESSION))


def test_the_checkpoints_own_threshold_goes_before_the_templates(tmp_path):
    run = radiograph_run(tmp_path)
    sure = detection(run, "nodule", regions=(region(run, "nodule", 0.4),), confidence=0.4, presence="present")
    assert texts(with_results(run, sure).draft(), SectionKind.IMPRESSION) == ["1. Pulmonary nodule or mass, left."]


def test_an_abstention_is_listed_as_not_assessed_and_nowhere_else(tmp_path):
    draft = radiograph_run(tmp_path).draft()
    expected = "Consolidation was not assessed. Reason: the answer holds no readable coordinates (12 characters)."
    assert expected in texts(draft, SectionKind.NOT_ASSESSED)
    others = [kind for kind in SectionKind if kind is not SectionKind.NOT_ASSESSED]
    assert not any("onsolidation" in text for kind in others for text in texts(draft, kind))


def test_abstentions_with_one_reason_share_a_line(tmp_path):
    run = radiograph_run(tmp_path)
    silent = [
        detection(run, key, abstention=Abstention(reason="blank_image"))
        for key in ("nodule", "pneumothorax", "consolidation")
    ]
    lines = texts(with_results(run, *silent).draft(), SectionKind.NOT_ASSESSED)
    assert lines[0] == (
        "Nodules and masses were not assessed. Pneumothorax was not assessed. Consolidation was not assessed. "
        "Reason: the image is blank."
    )


def test_only_abstentions_give_no_impression(tmp_path):
    run = radiograph_run(tmp_path)
    silent = [
        replace(result, abstention=Abstention(reason="empty_answer"), regions=(), text="", option_index=None)
        for result in run.findings.results
    ]
    draft = with_results(run, *silent).draft()
    assert texts(draft, SectionKind.IMPRESSION) == ["1. No impression: nothing was assessed."]
    assert texts(draft, SectionKind.FINDINGS) == ["The model gave no answer that could be read."]
    assert draft.markings == ()


def test_normal_is_said_only_when_something_was_looked_for(tmp_path):
    run = radiograph_run(tmp_path)
    draft = with_results(run, detection(run, "nodule", confidence=0.95)).draft()
    assert texts(draft, SectionKind.IMPRESSION) == ["1. No abnormality found among the findings that were looked for."]
    names = "pleural effusion, pneumothorax, consolidation, cardiomegaly"
    assert f"Not looked for one by one: {names}." in texts(draft, SectionKind.NOT_ASSESSED)


def test_a_report_in_other_words_is_shown_but_not_summarised(tmp_path):
    run = radiograph_run(tmp_path)
    draft = with_results(run, report(run, "Hyperinflated lungs. No pneumothorax is seen.")).draft()
    assert "Hyperinflated lungs." in texts(draft, SectionKind.FINDINGS)
    assert texts(draft, SectionKind.IMPRESSION) == [
        "1. The model's report text under Findings holds sentences that are not summarised here."
    ]


def test_an_abnormal_class_without_a_finding_is_said_as_that(tmp_path):
    run = radiograph_run(tmp_path)
    classified = next(r for r in run.findings.results if r.order.task is Task.CLASSIFICATION)
    draft = with_results(run, detection(run, "nodule", confidence=0.9), classified).draft()
    assert texts(draft, SectionKind.IMPRESSION) == [
        '1. The classification says "abnormal" (confidence 93%); no finding was named with it.'
    ]


def test_the_impression_has_five_lines_at_most_and_urgent_ones_first(tmp_path):
    run = radiograph_run(tmp_path)
    keys = list(load_templates().by_key("chest_radiograph").findings)
    results = [detection(run, key, regions=(region(run, key),), confidence=0.9) for key in keys]
    draft = with_results(run, *results, report(run, "Something else.")).draft()
    lines = texts(draft, SectionKind.IMPRESSION)
    assert len(lines) == 5
    assert lines[0] == "1. Pneumothorax, left."
    assert lines[4] == "5. And 2 more, see Findings."


def test_a_box_across_the_middle_or_an_unknown_orientation_has_no_side(tmp_path):
    run = radiograph_run(tmp_path)
    across = detection(run, "nodule", regions=(region(run, "nodule", left=220.0),), confidence=0.9)
    assert texts(with_results(run, across).draft(), SectionKind.IMPRESSION) == ["1. Pulmonary nodule or mass."]

    def forget(ds):
        del ds.PatientOrientation

    unknown = radiograph_run(tmp_path / "unknown", change=forget)
    sided = detection(unknown, "nodule", regions=(region(unknown, "nodule"),), confidence=0.9)
    assert texts(with_results(unknown, sided).draft(), SectionKind.IMPRESSION) == ["1. Pulmonary nodule or mass."]


def test_a_mirrored_image_gives_the_other_side(tmp_path):
    def mirror(ds):
        ds.PatientOrientation = ["R", "F"]

    run = radiograph_run(tmp_path, change=mirror)
    found = detection(run, "nodule", regions=(region(run, "nodule"),), confidence=0.9)
    assert texts(with_results(run, found).draft(), SectionKind.IMPRESSION) == ["1. Pulmonary nodule or mass, right."]


def test_excluded_series_are_listed_with_their_reason(tmp_path):
    draft = ct_run(tmp_path).draft()
    assert "Series 1 (CT): not analysed, it is a localiser." in texts(draft, SectionKind.NOT_ASSESSED)


def test_a_reason_without_words_is_shown_as_it_is(tmp_path):
    run = ct_run(tmp_path)
    uid = SeriesUID(run.decision.excluded[0].series_instance_uid)
    odd = SeriesExclusion(series_instance_uid=uid, reason="moon_phase", detail="full")
    draft = replace(run, decision=replace(run.decision, excluded=(odd,))).draft()
    assert "Series 1 (CT): not analysed, moon phase (full)." in texts(draft, SectionKind.NOT_ASSESSED)


def test_a_box_in_a_volume_is_placed_by_its_images(tmp_path):
    draft = ct_run(tmp_path).draft()
    assert any("region 1: series 2 images 7 to 12" in text for text in texts(draft, SectionKind.FINDINGS))
    assert draft.markings[0].key_frame == draft.markings[0].region.frames[3]


def test_the_ai_says_who_it_is(tmp_path):
    identity = " ".join(texts(radiograph_run(tmp_path).draft(), SectionKind.IDENTITY))
    for part in ("umit-demo 1.0.0", "0f3a9c51d2b4,", "int8", "on cpu", "Apache-2.0", "Not a medical device."):
        assert part in identity


def test_a_superseding_draft_says_so(tmp_path):
    run = radiograph_run(tmp_path)
    again = replace(run, predecessor=run.compose())
    assert "This draft supersedes" in texts(again.draft(), SectionKind.STATUS)[-1]
    assert not any("supersedes" in text for text in texts(run.draft(), SectionKind.STATUS))


def test_several_series_each_have_their_lines(tmp_path):
    write_ct_series(tmp_path / "instances" / "a", chest_like_ct(slices=8), series_number=4)
    run = radiograph_run(tmp_path)

    def both(frames, language):
        series = list(dict.fromkeys(frame.series_instance_uid for frame in frames))
        return tuple(
            answer(order(Task.DETECTION, of_series, language, template, target="nodule"), of_series[:1], confidence=0.9)
            for uid in series
            for of_series in [[frame for frame in frames if frame.series_instance_uid == uid]]
            for template in ["chest_ct" if len(of_series) > 1 else "chest_radiograph"]
        )

    draft = replace(run_of(tmp_path, both, ENGLISH), files=run.files).draft()
    headings = [line.text for line in draft.section(SectionKind.FINDINGS).lines if line.origin is LineOrigin.HEADING]
    assert "Series 4, CT of the chest:" in headings
    assert "Series 1, Chest radiograph:" in headings
    assert len(draft.key_frames) == 2


def test_control_characters_never_reach_the_draft(tmp_path):
    run = radiograph_run(tmp_path)
    draft = with_results(run, report(run, "Heart\x00 fine.\x1b[31m\nLungs\tclear.")).draft()
    assert "Heart fine.[31m" in texts(draft, SectionKind.FINDINGS)


def test_sentences_end_in_both_scripts():
    assert sentences_of("One. Two!\nThree") == ["One.", "Two!", "Three"]
    assert sentences_of("未见气胸。心影不大。") == ["未见气胸。", "心影不大。"]


def test_confidence_is_never_rounded_to_certainty():
    words = load_phrases().in_language(ENGLISH)
    assert [words.percent(share) for share in (0.0, 0.004, 0.5, 0.999, 1.0)] == ["1%", "1%", "50%", "99%", "99%"]


def test_the_general_template_invents_no_finding(tmp_path):
    def results(frames, language):
        asked_ = order(Task.DETECTION, frames, language, "general", target="gall_stone")
        found = Region(
            kind=RegionKind.BOX, label="gall_stone", frames=frames, points_xy_px=((10, 10), (40, 40)), confidence=0.8
        )
        return (answer(asked_, frames, regions=(found,), confidence=0.8),)

    radiograph_run(tmp_path)
    draft = run_of(tmp_path, results, ENGLISH).draft()
    assert "Gall stone: 1 marked by the model (region 1; confidence 80%)" in texts(draft, SectionKind.FINDINGS)
    assert texts(draft, SectionKind.IMPRESSION) == [
        "1. See the answers under Findings; no impression was derived from them."
    ]


def test_the_same_input_gives_the_same_draft(tmp_path):
    run = radiograph_run(tmp_path)
    assert run.draft() == run.draft()
    assert frames_of_folder(tmp_path / "instances") == run.draft().frames
