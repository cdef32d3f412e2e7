"""Feedback about drafts of volumes becomes samples that training reads: the slices as shown, boxes in their voxels."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.phantoms import chest_like_ct
from tests.result_fixtures import ct_run, pet_ct_run
from training.data_command import app
from umit_pacs.finding_phrases import Stated
from umit_pacs.handoffs import Task
from umit_pacs.pixels.coordinates import box_in_source
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.grey import grey_of_values
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_volume
from umit_pacs.pixels.stored_pictures import read_stack
from umit_pacs.settings import ModelSettings
from umit_pacs.steps import export_feedback as step
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.feedback import Feedback, record_feedback
from umit_pacs.store.instances import record_instances
from umit_pacs.store.results import record_decision, record_findings
from umit_pacs.store.studies import create_input_set
from umit_pacs.umit_model.samples import read_samples
from umit_pacs.verdicts import FeedbackSource, FindingFeedback, FindingVerdict, Verdict
from umit_pacs.vocabulary import load_templates

LEFT = Stated(presence="present", side="left")
GIVEN = (
    FindingFeedback(finding="nodule", verdict=FindingVerdict.ACCEPTED, drafted=LEFT),
    FindingFeedback(
        finding="pleural_effusion",
        verdict=FindingVerdict.ACCEPTED,
        drafted=Stated(presence="absent", side="none"),
    ),
)


@pytest.fixture
def catalogue(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalogue.sqlite'}"
    migrate(url)
    with closing(open_catalogue(url)) as opened:
        yield opened


def shown_as(run, recipe):
    results = tuple(replace(result, grey_recipe=recipe) for result in run.findings.results)
    return replace(run, findings=replace(run.findings, results=results))


def exported(catalogue, run, folder, findings=GIVEN):
    """What the export of one reviewed draft holds, and its samples by the end of their id."""
    version = run.input_set.input_set_id
    record_instances(catalogue, run.input_set.instances)
    assert create_input_set(catalogue, run.input_set)
    record_decision(catalogue, replace(run.decision, input_set_id=version))
    record_findings(catalogue, replace(run.findings, input_set_id=version))
    given = Feedback(
        document="review:1",
        source=FeedbackSource.REVIEW,
        study_instance_uid=run.input_set.study_instance_uid,
        input_set_id=version,
        verdict=Verdict.EDITED,
        findings=findings,
    )
    assert record_feedback(catalogue, given)
    told = step.export_feedback(catalogue, run.files, load_templates(), folder)
    return told, {sample.id.split("-", 1)[1]: sample for sample in read_samples(folder / "samples.jsonl")}


def test_a_reviewed_ct_is_exported_with_its_slices_and_boxes(tmp_path, catalogue):
    run = shown_as(ct_run(tmp_path / "node"), "window -600/1500; 24 slices")
    told, samples = exported(catalogue, run, tmp_path / "out")
    assert (told.samples, told.studies, told.left_out) == (3, 1, {})
    assert set(samples) == {"report", "detection_3d-nodule", "detection_3d-pleural_effusion"}
    nodule = samples["detection_3d-nodule"]
    assert (nodule.task, nodule.extent, nodule.modality) == (Task.DETECTION_3D, (128, 128, 24), "CT")
    # The fixture's box: slices 6 to 11, whole.
    (box,) = nodule.truth.boxes["nodule"]
    assert np.allclose(box, ((0.64 * 128, 0.49 * 128, 6), (0.76 * 128, 0.61 * 128, 12)))
    assert samples["detection_3d-pleural_effusion"].truth.boxes == {"pleural_effusion": ()}
    assert samples["report"].truth.sides == {"nodule": "left"}
    assert samples["report"].answer == "No pleural effusion is seen. There is a left pulmonary nodule or mass."
    # The bytes that a model was shown by this recipe, slice by slice; no header comes with them.
    voxels = read_stack([tmp_path / "out" / nodule.volume[0]])
    window = GreyRecipe(kind=GreyKind.WINDOW, window_center=-600, window_width=1500)
    hounsfield = chest_like_ct(slices=24, edge=128)
    assert np.abs(voxels.astype(int) - grey_of_values(hounsfield, window).astype(int)).max() <= 1
    assert nodule.is_display_grey


def test_training_accepts_the_export(tmp_path, catalogue):
    exported(catalogue, ct_run(tmp_path / "node"), tmp_path / "out")
    checked = CliRunner().invoke(app, ["check", "samples", str(tmp_path / "out"), "--strict", "--json"])
    assert checked.exit_code == 0, checked.output
    said = json.loads(checked.stdout)
    assert said["rows"] == []
    converted = CliRunner().invoke(app, ["convert", "samples", str(tmp_path / "out"), str(tmp_path / "made")])
    assert converted.exit_code == 0, converted.output
    assert len(list((tmp_path / "made").rglob("*.npy"))) == 1


def test_a_box_by_millimetres_comes_back_to_its_voxels(tmp_path, catalogue):
    run = ct_run(tmp_path / "node")
    paths = [
        run.files.path(one.relative_path) for one in run.input_set.instances if "localiser" not in one.relative_path
    ]
    wanted = ImageRequirements(kind=ImageKind.VOLUME, width=64, height=32, slices=12, keep_aspect=False)
    with DecodingProcess(ModelSettings()) as decoder:
        shown = prepare_volume(open_series(paths), wanted, decoder)
    # As a model says it that was shown a smaller volume; parts of voxels are kept.
    found = box_in_source(shown, (20.5, 10.25, 3.125), (40.0, 20.0, 5.0))
    report, asked, absent = run.findings.results
    region = replace(asked.regions[0], frames=found.frames, corners_mm=found.corners_mm)
    results = (report, replace(asked, regions=(region,)), absent)
    _, samples = exported(catalogue, replace(run, findings=replace(run.findings, results=results)), tmp_path / "out")
    (box,) = samples["detection_3d-nodule"].truth.boxes["nodule"]
    assert np.allclose(box, ((41.0, 41.0, 6.25), (80.0, 80.0, 10.0)), atol=1e-6)


def test_answers_about_two_stacks_are_left_out_and_counted(tmp_path, catalogue):
    told, samples = exported(catalogue, pet_ct_run(tmp_path / "node"), tmp_path / "out")
    assert told.samples == 0
    assert samples == {}
    assert sum(told.left_out.values()) == 1


def test_a_study_whose_slices_are_not_those_that_were_shown_is_left_out(tmp_path, catalogue):
    run = ct_run(tmp_path / "node")
    fewer = tuple(replace(result, frames=result.frames[1:]) for result in run.findings.results)
    told, _ = exported(catalogue, replace(run, findings=replace(run.findings, results=fewer)), tmp_path / "out")
    assert told.left_out == {"other_slices": 1}
