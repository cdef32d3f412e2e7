from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.result_fixtures import MODEL, box, ct_run, point, radiograph_run
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language, Task
from umit_pacs.result_objects import fonts
from umit_pacs.result_objects.fonts import FontFile, find_fonts
from umit_pacs.result_objects.pages import HEIGHT_PX, LEAST_PICTURE_PX, MOST_PICTURES, WIDTH_PX
from umit_pacs.result_objects.picture import draw_picture, fitted_size_px, place_labels
from umit_pacs.result_objects.text_flow import Row, flow, wrap
from umit_pacs.settings import ComposeSettings
from umit_pacs.vocabulary import load_phrases

BANNER_RED = (176, 0, 32)
BACKGROUND = (18, 20, 23)


def width_of(text):
    """A font in which every character is 10 px wide, Chinese ones 20."""
    return sum(20 if ord(character) > 0x2E80 else 10 for character in text)


def row(text, *, height=10, keeps_next=False):
    return Row(text=text, font=None, colour=(0, 0, 0), height_px=height, keeps_next=keeps_next)


def columns_of(rows, *heights):
    return [[one.text for one in column] for column in flow(rows, iter([*heights, *[1000] * 9]))]


# --- text ---------------------------------------------------------------------------------------------------------


def test_english_breaks_at_blanks():
    assert wrap("one two three", width_of, 75) == ["one two", "three"]


def test_chinese_breaks_between_characters_but_not_before_a_full_stop():
    assert wrap("左侧胸腔积液。右侧", width_of, 120) == ["左侧胸腔积液。", "右侧"]


def test_an_opening_mark_does_not_end_a_line():
    assert wrap("文为（未见", width_of, 60) == ["文为", "（未见"]


def test_a_percentage_stays_with_its_word():
    assert wrap("found (confidence 87%)", width_of, 190) == ["found", "(confidence 87%)"]


def test_a_word_longer_than_the_column_is_cut():
    assert wrap("abcdefghij", width_of, 40) == ["abcd", "efgh", "ij"]
    assert wrap("abcdefghij", width_of, 5) == list("abcdefghij")


def test_a_heading_moves_on_with_its_first_line():
    rows = [row("a"), row("heading", keeps_next=True), row("b")]
    assert columns_of(rows, 25, 100) == [["a"], ["heading", "b"]]


def test_nothing_is_lost_when_text_flows_over():
    rows = [row(str(number)) for number in range(50)]
    columns = columns_of(rows, 95, 40)
    assert [text for column in columns for text in column] == [str(number) for number in range(50)]
    assert [len(column) for column in columns] == [9, 4, 37]


# --- pictures -----------------------------------------------------------------------------------------------------


def test_a_picture_keeps_the_patients_proportions(tmp_path):
    frame = radiograph_run(tmp_path).findings.results[0].frames[0]
    square = replace(frame, rows=400, columns=400)
    assert fitted_size_px(square, 1.0, 660, 790) == (660, 660)
    assert fitted_size_px(square, 2.0, 660, 790) == (395, 790)
    assert fitted_size_px(replace(frame, rows=2400, columns=1935), 1.0, 660, 790) == (637, 790)


def test_labels_never_cover_one_another():
    font = find_fonts(Language.ENGLISH, None).bold(17)
    random = np.random.default_rng(4)
    for count in (2, 5, 12):
        for _ in range(20):
            corners = random.uniform(0, 500, (count, 2))
            sizes = random.uniform(5, 160, (count, 2))
            places = [(x, y, min(x + w, 600), min(y + h, 600)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
            labels = [f"{number} pleural effusion 87%" for number in range(count)]
            boxes = place_labels(labels, places, font, (600, 600))
            for index, (left, top, right, bottom) in enumerate(boxes):
                assert 0 <= left < right <= 600
                assert 0 <= top < bottom <= 600
                for other in boxes[:index]:
                    assert left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
def test_a_box_is_drawn_where_the_model_put_it(tmp_path, scale):
    run = radiograph_run(tmp_path)
    found = run.findings.results[1]
    frame = found.frames[0]
    marked = replace(found, regions=(box("nodule", [frame], (300.0, 400.0, 400.0, 500.0), None),), confidence=None)
    draft = replace(run, findings=replace(run.findings, results=(marked,))).draft()
    grey = np.zeros((round(frame.rows * scale), round(frame.columns * scale)), np.uint8)
    words, faces = load_phrases().in_language(Language.ENGLISH), find_fonts(Language.ENGLISH, None)
    drawn = np.asarray(draw_picture(grey, frame, draft.markings, faces, words))
    yellow = (drawn == (255, 214, 0)).all(axis=-1)
    below_label = np.flatnonzero(yellow.any(axis=1))
    columns = np.flatnonzero(yellow[round(450 * scale)])
    rows = np.flatnonzero(yellow[:, round(305 * scale) : round(395 * scale)].sum(axis=1) > 80 * scale)
    assert abs(columns[0] - 300 * scale) <= 1
    assert abs(columns[-1] - 400 * scale) <= 1
    assert abs(rows[-1] - 500 * scale) <= 1
    assert below_label[-1] == rows[-1]


def test_the_banner_is_across_every_page(tmp_path):
    for language in Language:
        for page in radiograph_run(tmp_path / language, language).pages():
            pixels = np.asarray(page.image)
            assert pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)
            assert (pixels[5] == BANNER_RED).all()
            # White letters in the middle of the red: readable also when the page is shown 512 pixels wide.
            letters = (pixels[10:66] == 255).all(axis=-1)
            assert letters.any(axis=1).sum() >= 30
            assert letters[:, WIDTH_PX // 2 - 150 : WIDTH_PX // 2 + 150].mean() > 0.05


def test_each_key_image_has_a_page_up_to_a_limit(tmp_path):
    run = ct_run(tmp_path)
    detection = run.findings.results[1]
    regions = tuple(box("nodule", [frame], (60, 60, 80, 80), 0.8) for frame in detection.frames[:9])
    run = replace(run, findings=replace(run.findings, results=(replace(detection, regions=regions),)))
    pages = run.pages()
    shown = [frame for page in pages for frame in page.frames]
    assert shown == list(detection.frames[:MOST_PICTURES])
    assert len(run.draft().key_frames) == 9


def test_a_long_intended_use_never_shrinks_the_picture(tmp_path):
    run = radiograph_run(tmp_path)
    model = replace(run.findings.model, intended_use="Research only. " * 150)
    run = replace(run, findings=replace(run.findings, model=model))
    pages = run.pages()
    assert len(pages) == 2
    page = np.asarray(pages[0].image)
    is_picture = (page[96 : 96 + LEAST_PICTURE_PX, 20:680] != BACKGROUND).any(axis=-1)
    assert is_picture.all(axis=0).sum() > 0.75 * LEAST_PICTURE_PX


def test_a_study_without_regions_shows_an_image_all_the_same(tmp_path):
    run = ct_run(tmp_path)
    bare = tuple(replace(result, regions=()) for result in run.findings.results)
    pages = replace(run, findings=replace(run.findings, results=bare)).pages()
    frames = run.findings.results[0].frames
    assert pages[0].frames == (frames[len(frames) // 2],)


def test_a_frame_that_cannot_be_decoded_leaves_words_in_its_place(tmp_path):
    run = radiograph_run(tmp_path)
    instance = run.input_set.instances[0]
    path = run.files.path(instance.relative_path)
    whole = run.pages()
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    broken = run.pages()
    assert len(broken) == len(whole)
    assert (np.asarray(broken[0].image) != np.asarray(whole[0].image)).any()
    assert len(run.compose()) >= 3


def test_a_draft_without_any_image_still_has_its_page(tmp_path):
    run = radiograph_run(tmp_path)
    silent = replace(run, findings=replace(run.findings, results=()))
    pages = silent.pages()
    assert [page.frames for page in pages] == [()] * len(pages)
    assert silent.compose()


def test_the_key_image_has_the_grey_that_the_model_saw(tmp_path):
    run = ct_run(tmp_path)

    def middle_grey(recipe):
        results = tuple(replace(result, grey_recipe=recipe) for result in run.findings.results)
        page = replace(run, findings=replace(run.findings, results=results)).pages()[0]
        return np.asarray(page.image)[96 + 330, 20 + 330, 0]

    # Soft tissue of 40 HU between the lungs: black, grey or white.
    assert middle_grey("window 500/100") < 10
    assert 100 < middle_grey("window 40/400") < 150
    assert middle_grey("window -600/1000") > 245


# --- fonts --------------------------------------------------------------------------------------------------------


def test_a_missing_chinese_font_names_the_package_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(fonts, "_CHINESE", (FontFile(path=tmp_path / "none.ttf", bold_path=tmp_path / "none.ttf"),))
    with pytest.raises(InvalidConfiguration, match="fonts-noto-cjk"):
        find_fonts(Language.CHINESE, None)
    assert find_fonts(Language.ENGLISH, None).regular(18).getlength("abc") > 0


def test_without_any_font_english_is_drawn_with_pillows_own(monkeypatch):
    monkeypatch.setattr(fonts, "_CHINESE", ())
    monkeypatch.setattr(fonts, "_LATIN", ())
    assert find_fonts(Language.ENGLISH, None).bold(18).getlength("abc") > 0


def test_a_configured_font_that_cannot_be_loaded_is_named(tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    run = radiograph_run(tmp_path)
    with pytest.raises(InvalidConfiguration, match=r"compose\.font.*broken\.ttf"):
        replace(run, settings=ComposeSettings(font=broken)).compose()


def test_a_configured_font_is_used(tmp_path):
    configured = Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc")
    if not configured.exists():
        pytest.skip("fonts-noto-cjk is not installed")
    assert find_fonts(Language.CHINESE, configured).regular(18).path == str(configured)


def test_points_are_landmarks_of_one_colour(tmp_path):
    run = radiograph_run(tmp_path)
    landmark = next(result for result in run.findings.results if result.order.task is Task.LANDMARK)
    frame = landmark.frames[0]
    only = replace(landmark, regions=(point("carina", frame, 250.0, 300.0, 0.7),))
    page = np.asarray(replace(run, findings=replace(run.findings, results=(only,), model=MODEL)).pages()[0].image)
    assert (page == (178, 255, 89)).all(axis=-1).sum() > 40
