"""Every published layout, read whole: nothing is lost, and what comes out is what the node asks and reads."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.unit.data_sets.published import PUBLISHED
from training.data_sets.conversion import convert, tally
from training.data_sets.reading import Problem, Row
from training.data_sets.registry import DATA_SETS, FORMS
from umit_pacs.handoffs import Task
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.stored_pictures import prepare_pictures
from umit_pacs.umit_model.instructions import instruction
from umit_pacs.umit_model.samples import SERIES, read_samples, verify
from umit_pacs.vocabulary import load_templates


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request, tmp_path_factory):
    """(data set, its folder, how many samples there are, where it was converted to)."""
    key, build = PUBLISHED[request.param]
    root = tmp_path_factory.mktemp("published")
    count = build(root)
    target = tmp_path_factory.mktemp("converted")
    counted = convert(DATA_SETS[key], root, target, ("swift2", "swift3"))
    assert [problem for problem in counted.problems if problem.is_skipped] == []
    return DATA_SETS[key], root, count, target


def _samples(target):
    return [
        sample for path in sorted(target.glob("*.jsonl")) if ".swift" not in path.name for sample in read_samples(path)
    ]


def test_every_row_becomes_a_sample_that_the_node_asks_and_reads(published):
    data_set, root, count, _ = published
    found = list(data_set.read(root))
    assert [each for each in found if isinstance(each, Problem)] == []
    assert len(found) == count
    for row in found:
        assert isinstance(row, Row)
        verify(row.sample)
        template = load_templates().by_key(row.sample.template)
        assert row.sample.instruction == instruction(row.sample.order, template, modality=row.sample.modality)
        assert len(row.pixels) == len(row.sample.paths)
        assert row.sample.task in data_set.tasks
        assert row.sample.language in data_set.languages
        assert row.sample.modality in (*data_set.modalities, "")
        assert row.sample.data_set == data_set.key
        assert row.sample.group


def test_what_is_written_is_read_back_with_its_pixels(published):
    data_set, root, count, target = published
    samples = _samples(target)
    by_id = {row.sample.id: row.sample for row in data_set.read(root)}
    assert {sample.id: sample for sample in samples} == by_id
    assert len(samples) == count
    for sample in samples:
        kind = ImageKind.VOLUME if sample.volume else ImageKind.IMAGE
        wanted = ImageRequirements(
            kind=kind,
            width=24,
            height=24,
            slices=4 if sample.volume else None,
            grey=GreyRecipe(kind=GreyKind.PERCENTILES),
        )
        series = prepare_pictures(
            [target / path for path in sample.images],
            [target / path for path in sample.volume],
            wanted,
            series=SERIES,
            modality=sample.modality,
        )
        if sample.volume:
            rows, columns = series.volume.sources[0].rows, series.volume.sources[0].columns
            assert (columns, rows, len(series.volume.sources)) == sample.extent
        elif sample.extent:
            assert {(image.source.columns, image.source.rows) for image in series.images} == {sample.extent}
    summary = json.loads((target / "data_set.json").read_text())
    assert summary["total"] == count
    assert summary["licence"] == data_set.licence


@pytest.mark.parametrize("layout", ["swift2", "swift3"])
def test_rows_for_ms_swift_say_the_same(published, layout):
    _, _, count, target = published
    rows = [
        json.loads(line) for path in sorted(target.glob(f"*.{layout}.jsonl")) for line in path.read_text().splitlines()
    ]
    assert len(rows) == count
    for row in rows:
        assert all((target / path).is_file() for path in row["images"])
    told = Counter(
        (row["query"].replace("<image>", ""), row["response"])
        if layout == "swift2"
        else tuple(turn["content"].replace("<image>", "") for turn in row["messages"])
        for row in rows
    )
    assert told == Counter((sample.instruction, sample.answer) for sample in _samples(target))


def test_our_own_files_are_a_form_of_their_own(published):
    _, _, count, target = published
    counted = tally(FORMS["samples"], target)
    assert (counted.total, counted.problems) == (count, [])


def test_patients_and_images_are_not_divided_between_splits(published):
    data_set, root, _, _ = published
    splits: dict[str, set[str]] = {}
    for row in data_set.read(root):
        splits.setdefault(row.sample.group, set()).add(row.sample.split)
    # The publisher of VQA-RAD and the fixture of M3D-VQA ask about one image in every split.
    if data_set.key not in {"vqa_rad", "m3d_vqa"}:
        assert all(len(of_group) == 1 for of_group in splits.values())


def test_a_second_conversion_keeps_the_pixels_that_are_there(published):
    data_set, root, _, target = published
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.png")}
    lines = {path.name: path.read_bytes() for path in target.glob("*.jsonl")}
    convert(data_set, root, target, ("swift2", "swift3"))
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*.png")} == before
    assert {path.name: path.read_bytes() for path in target.glob("*.jsonl")} == lines


def test_all_of_umits_data_sets_are_known_with_their_terms():
    assert len(DATA_SETS) == 14
    assert {key for key, _ in PUBLISHED.values()} == set(DATA_SETS)
    for data_set in DATA_SETS.values():
        assert data_set.licence
        assert data_set.split_rule
        assert data_set.source.startswith("https://")
    assert {task for data_set in DATA_SETS.values() for task in data_set.tasks} == set(Task)


def test_a_dicom_radiograph_becomes_the_picture_that_the_node_shows(tmp_path):
    from umit_pacs.pixels.decoding_process import DecodingProcess
    from umit_pacs.pixels.series import open_series, prepare_images
    from umit_pacs.settings import ModelSettings

    root, target = tmp_path / "published", tmp_path / "converted"
    root.mkdir()
    PUBLISHED["rsna_pneumonia"][1](root)
    convert(DATA_SETS["rsna_pneumonia"], root, target)
    written = np.array(Image.open(target / "images/00436515.png"))
    wanted = ImageRequirements(kind=ImageKind.IMAGE, width=64, height=64)
    with DecodingProcess(ModelSettings()) as decoder:
        shown = prepare_images(open_series([root / "stage_2_train_images/00436515.dcm"]), wanted, decoder)[0].pixels
    np.testing.assert_array_equal(written, shown)
