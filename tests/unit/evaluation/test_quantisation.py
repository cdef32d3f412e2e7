"""What quantising costs is asked through the served path and written down."""

from __future__ import annotations

import shutil

import pytest

from tests.model_fixtures import tiny_settings
from training.quantisation_command import measure_quantisation
from training.quantise import write_quantised
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.evaluation.evaluate import read_data
from umit_pacs.evaluation.quantisation import FORMS, MAIN_MEASURES, first_of_each, quantisation_losses
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.checkpoint import verify
from umit_pacs.vocabulary import load_templates


def test_every_form_is_measured_on_the_same_questions_and_told_in_manifest_and_card(
    tiny_folder, evaluated, data, tmp_path
):
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    told: list[str] = []
    measure_quantisation(folder, data.parent, 2, on_step=lambda form, done, total: told.append(form))
    manifest = verify(folder)
    assert tuple(dict.fromkeys(told)) == FORMS
    assert {loss.task for loss in manifest.quantisation_losses} == set(Task)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for loss in manifest.quantisation_losses:
        assert [figure.quantisation for figure in loss.figures] == list(FORMS)
        assert loss.figures[0].same_answers == 1.0
        whole = next(
            figure
            for figure in evaluated[0].figures
            if (figure.task, figure.modality, figure.metric) == (loss.task, loss.modality, MAIN_MEASURES[loss.task])
            and (figure.language, figure.finding) == (None, "")
        )
        assert loss.figures[0].value == pytest.approx(whole.value, abs=1e-4)
        assert f"| {loss.task} | {loss.modality} | {loss.metric} | {loss.figures[0].value:.3f}" in card


def test_full_weights_cannot_be_measured_where_only_quantised_ones_are_held(tiny_folder, data, tmp_path):
    write_quantised(tiny_folder, tmp_path / "small", "nf4")
    with pytest.raises(InvalidConfiguration, match="holds its weights as nf4"):
        quantisation_losses(tiny_settings(tmp_path / "small"), tmp_path, read_data(data), load_templates(), words="")


def test_of_each_modality_the_first_pictures_are_taken(data):
    shown = read_data(data)
    assert [each.samples[0].modality for each in shown] == ["DX", "DX", "CT"]
    assert first_of_each(shown, 1) == [shown[0], shown[2]]
