"""The training path on a phantom: what is simulated is labelled rightly, and what is trained is what is served."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.unit.test_training_brain_mr import _phantom as _head
from training.anatomy import Anatomy, distance_from_chest_wall
from training.bank import BankConfig, load_cts, load_radiographs, render_bank
from training.chest_radiographs import GRID_SHAPE_ZYX, diaphragm_domes, project_patient
from training.command_line import tiny_config
from training.devices import Chest, draw_devices
from training.evaluate import EvaluationConfig, calibrate_and_evaluate
from training.export import export
from training.exposure import take_radiograph
from training.head_warping import HeadSampler
from training.model import vision_features
from training.packing import labelled_answers
from training.studies import open_kind
from training.train import StageConfig, TrainConfig, set_up, train_adapters, train_stages
from training.truth import Truth
from training.warping import Sampler
from umit_pacs.evaluation.boxes import iou
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.checkpoint import verify
from umit_pacs.umit_model.report_reading import report_statements
from umit_pacs.vocabulary import load_templates

SPACING_ZYX_MM = (4.0, 4.0, 4.0)
pytestmark = pytest.mark.xdist_group("training")


def _ball(shape, centre, radii):
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) < 1


def _phantom() -> Anatomy:
    """A body with two lungs, a heart to the left of the middle, an aorta, a trachea and a spine; right comes first."""
    shape = (84, 60, 88)
    labels = np.zeros(shape, np.uint8)
    hu = np.full(shape, -1000, np.float32)
    hu[:, _ball(shape[1:], (30, 44), (27, 41))] = 30
    for side, column in (("right", 24), ("left", 64)):
        lung = _ball(shape, (48, 28, column), (28, 20, 14))
        upper = lung & (np.arange(shape[0]) > 48)[:, None, None]
        labels[lung] = {"right": 14, "left": 11}[side]
        labels[upper] = {"right": 12, "left": 10}[side]
    labels[_ball(shape, (38, 24, 50), (11, 10, 15))] = 51
    labels[_ball(shape, (58, 30, 51), (6, 5, 5))] = 52
    hu[np.isin(labels, (10, 11, 12, 14))] = -850
    labels[56:, 28:32, 42:46] = 16
    labels[:, 44:52, 40:48] = 30
    hu[labels == 30] = 400
    return Anatomy(
        hu=hu,
        labels=labels,
        wall_distance_mm=distance_from_chest_wall(labels, SPACING_ZYX_MM),
        spacing_zyx_mm=SPACING_ZYX_MM,
        carina_zyx_mm=(56 * 4.0, 30 * 4.0, 44 * 4.0),
    )


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return _phantom()


@pytest.fixture(scope="module")
def bank(anatomy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    config = BankConfig(
        radiograph_train=2,
        radiograph_held_out=2,
        ct_train=1,
        ct_held_out=2,
        pet_train=1,
        pet_held_out=2,
        brain_mr_train=1,
        brain_mr_held_out=2,
        shard=2,
    )
    render_bank(config, folder, lambda: Sampler(anatomy), lambda: HeadSampler(_head()))
    return folder


def _config(**changes) -> TrainConfig:
    return dataclasses.replace(tiny_config(), **changes)


@pytest.fixture
def bench(bank, tmp_path):
    torch.set_num_threads(1)
    return set_up(_config(), bank, tmp_path / "run")


# --- simulation --------------------------------------------------------------------------------------------------


def test_pneumothorax_distance_starts_at_the_chest_wall_and_not_at_the_mediastinum(anatomy):
    lung = np.isin(anatomy.labels, (12, 14))
    layer = anatomy.wall_distance_mm[48, 28]
    columns = np.flatnonzero(lung[48, 28])
    assert layer[columns[0]] <= 4.0
    assert layer[columns[-1]] > 60.0


def test_each_finding_is_outlined_where_it_changes_the_picture(anatomy):
    patient = project_patient(Sampler(anatomy), np.random.default_rng(3))
    assert {finding.finding for finding in patient.findings} >= {"pleural_effusion", "pneumothorax", "consolidation"}
    middle = GRID_SHAPE_ZYX[2] / 2
    for finding in patient.findings:
        rows, columns = np.nonzero(np.abs(finding.delta) > 0.2 * np.abs(finding.delta).max())
        low, high = finding.outline_xy.min(axis=0), finding.outline_xy.max(axis=0)
        assert low[0] - 3 <= columns.mean() <= high[0] + 3
        assert low[1] - 3 <= rows.mean() <= high[1] + 3
        # As displayed: the patient's right lies in the left half of the picture.
        assert (columns.mean() < middle) == (finding.side == "right")


def test_the_truth_moves_with_the_picture(bank):
    """The heart's box found again in the exposed, turned and scaled picture by its brightness against the lungs."""
    patient = load_radiographs(bank, "held_out")[0]
    heavy = dataclasses.replace(patient, cardiothoracic_ratio=0.7, findings=())
    x, y = np.meshgrid(np.arange(patient.soft.shape[1]) + 0.5, np.arange(patient.soft.shape[0]) + 0.5)
    low, high = patient.heart_outline_xy.min(axis=0), patient.heart_outline_xy.max(axis=0)
    marked = np.where((x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1]), 9.0, 0.0).astype(np.float16)
    marked_patient = dataclasses.replace(heavy, soft=marked, bone=np.zeros_like(marked), lung_mm=patient.lung_mm)
    rng = np.random.default_rng(11)
    while True:  # the first drawing without nodules, whose truth would be mixed in
        values, truth = take_radiograph(marked_patient, rng)
        if set(truth.sides) == {"cardiomegaly"}:
            break
    bright = ndimage.binary_opening(values > (values.min() + values.max()) / 2, iterations=3)
    rows, columns = np.nonzero(bright)
    found = ((float(columns.min()), float(rows.min())), (float(columns.max() + 1), float(rows.max() + 1)))
    assert iou(truth.boxes["cardiomegaly"][0], found) > 0.75


def test_the_domes_of_the_diaphragm_lie_on_top_of_what_ends_the_lung(bank):
    """The phantom's lungs are ellipsoids: they end nowhere above their own lower border."""
    patient = load_radiographs(bank, "held_out")[0]
    assert list(patient.landmarks_xy)[-2:] == ["right_diaphragm_dome", "left_diaphragm_dome"]
    for name, depth_mm in zip(("right", "left"), patient.lung_mm.astype(float), strict=True):
        x, y = patient.landmarks_xy[f"{name}_diaphragm_dome"]
        rows, columns = np.nonzero(depth_mm > 30)
        assert columns.min() < x < columns.max()
        assert patient.landmarks_xy[f"{name}_apex"][1] < y <= rows.max() + 1
        column = depth_mm[:, int(x)]
        assert column[int(y) - 8 : int(y)].mean() > 1.2 * column[int(y) : int(y) + 8].mean()


def test_a_dome_is_where_the_lung_in_front_of_it_ends():
    """A lung 200 mm deep over a round dome, with a recess of 40 mm behind it."""
    y, x = np.mgrid[:120, :100].astype(float)
    lost = np.where((x - 40) ** 2 + (y - 90) ** 2 < 40**2, 160.0, 0.0) + np.where(y > 90, 160.0, 0.0)
    lung = np.where((y > 5) & (y < 110) & (x > 10) & (x < 70), 200 - lost.clip(0, 160), 0)
    found = diaphragm_domes(
        np.stack([lung, lung]).astype(np.float16), np.array([[90, 1], [95, 1], [95, 5]], np.float32)
    )
    assert found["right_diaphragm_dome"] == (pytest.approx(40, abs=4), pytest.approx(50, abs=2))


def test_devices_are_seen_in_a_third_of_the_pictures_and_never_told(bank):
    patient = load_radiographs(bank, "held_out")[0]
    places = dict(patient.landmarks_xy)
    chest = Chest(width=200, height=220, pixel_mm=1.8, landmarks=places)
    layers = [draw_devices(chest, np.random.default_rng(seed)) for seed in range(120)]
    drawn = [layer for layer in layers if layer is not None]
    assert 0.2 < len(drawn) / len(layers) < 0.5
    assert {layer.shape for layer in drawn} == {(220, 200)}
    assert all(layer.min() >= 0 for layer in drawn)
    assert np.mean([layer.max() > 0.05 for layer in drawn]) > 0.9
    assert max(float((layer > 0.02).mean()) for layer in drawn) < 0.2
    truths = [take_radiograph(patient, np.random.default_rng(seed))[1] for seed in range(6)]
    template = load_templates().by_key("chest_radiograph")
    assert all(set(truth.sides) <= set(template.findings) for truth in truths)


def test_the_bank_gives_back_what_was_rendered(bank, anatomy):
    first = load_radiographs(bank, "train")[0]
    again = project_patient(Sampler(anatomy), np.random.default_rng([2026, 0, 0, 0]))
    np.testing.assert_array_equal(first.soft, again.soft)
    np.testing.assert_array_equal(first.findings[1].delta, again.findings[1].delta)
    assert first.landmarks_xy == again.landmarks_xy
    assert first.findings[1].side == again.findings[1].side


def test_two_processes_render_what_one_does_and_tell_of_every_patient(anatomy, tmp_path):
    config = BankConfig(ct_train=3, ct_held_out=1, shard=1)
    told = []
    for processes in (1, 2, 2):  # the last finds everything done
        render_bank(
            config,
            tmp_path / str(processes),
            lambda: Sampler(anatomy),
            lambda: HeadSampler(_head()),
            kinds=("ct",),
            processes=processes,
            on_patient=lambda: told.append(1),
        )
    alone, together = load_cts(tmp_path / "1", "train"), load_cts(tmp_path / "2", "train")
    assert len(told) == 3 * 4
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.hu, other.hu)


# --- questions ---------------------------------------------------------------------------------------------------


def _truth() -> Truth:
    return Truth(
        template="chest_radiograph",
        modality="DX",
        extent=(224, 224),
        boxes={
            "pleural_effusion": (((120.0, 100.0), (200.0, 180.0)),),
            "nodule": (((10.0, 150.0), (30.0, 170.0)), ((60.0, 20.0), (70.0, 30.0))),
        },
        sides={"pleural_effusion": "left", "nodule": "right"},
        landmarks={"carina": (112.0, 80.0), "left_apex": None},
    )


def test_reports_of_both_languages_state_the_same_truth(bank):
    examiner = open_kind("radiograph", "train", bank).examiner
    for language in Language:
        report = examiner.report(_truth(), language).answer
        read = report_statements(report, load_templates().by_key("chest_radiograph"), language)
        assert read.free_text == ()
        stated = {s.finding: (s.presence, s.side) for s in read.statements}
        assert stated["pleural_effusion"] == ("present", "left")
        assert stated["nodule"] == ("present", "right")
        assert {stated[key][0] for key in ("pneumothorax", "consolidation", "cardiomegaly")} == {"absent"}


def test_boxes_are_written_from_top_to_bottom_and_what_is_absent_is_said_to_be(bank):
    examiner = open_kind("radiograph", "train", bank).examiner
    answer = examiner.boxes(_truth(), "nodule", Language.ENGLISH).answer
    assert answer == "<|box_start|>(268,89),(312,134)<|box_end|><|box_start|>(45,670),(134,759)<|box_end|>"
    assert examiner.boxes(_truth(), "pneumothorax", Language.CHINESE).answer == "无"
    assert examiner.landmark(_truth(), "left_apex", Language.ENGLISH).answer == "none"
    assert examiner.side(_truth(), "pleural_effusion", Language.CHINESE).answer == "1：左侧"
    assert examiner.presence(_truth(), "cardiomegaly", Language.ENGLISH).answer == "2:no"


# --- training ----------------------------------------------------------------------------------------------------


def _studies_and_questions(bench, kind_name):
    kind = bench.kinds[kind_name]
    rng = np.random.default_rng(4)
    studies = [kind.draw(rng) for _ in range(2)]
    return studies, [kind.draw_questions(study.truth, rng) for study in studies]


def test_only_the_answers_are_learned_from(bench):
    _, questions = _studies_and_questions(bench, "radiograph")
    batch = bench.packers["radiograph"].pack(questions)
    assert labelled_answers(bench.processor, batch) == [q.answer for row in questions for q in row]


@pytest.mark.parametrize("kind_name", ["radiograph", "ct"])
def test_training_computes_what_the_model_itself_computes(bench, kind_name):
    """A packed branch against transformers' own forward pass with the image and this question alone."""
    studies, questions = _studies_and_questions(bench, kind_name)
    network, processor, packer = bench.network.eval(), bench.processor, bench.packers[kind_name]
    batch = packer.pack(questions)
    with torch.no_grad():
        inputs = processor.image_inputs(list(studies[1].images))
        features = vision_features(network, studies[1].images)
        own = network.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
        torch.testing.assert_close(features, torch.stack(list(own)), atol=1e-5, rtol=1e-4)
        embedded = network.model.language_model.embed_tokens(batch.token_ids[1:]).clone()
        embedded[:, packer.head.is_image.nonzero()[:, 0]] = features.reshape(1, -1, features.shape[-1])
        hidden = network.model.language_model(
            inputs_embeds=embedded,
            position_ids=batch.positions[:, 1:],
            attention_mask={"full_attention": batch.mask[1:]},
            use_cache=False,
        ).last_hidden_state
        packed = network.lm_head(hidden)[0]
        start = len(packer.head.token_ids)
        network.model.language_model.config._attn_implementation = "eager"  # transformers' own
        for question in questions[1][:3]:
            prompt = processor.prompt(question.instruction, inputs["image_grid_thw"].tolist())
            ids = processor.tokenizer(prompt + question.answer + "<|im_end|>", return_tensors="pt")["input_ids"]
            alone = network(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == network.config.image_token_id).int(),
                **inputs,
            ).logits[0, len(packer.head.token_ids) :]
            torch.testing.assert_close(packed[start : start + len(alone)], alone, atol=2e-4, rtol=1e-3)
            start += len(alone)


def test_a_tiny_run_learns_freezes_resumes_and_exports(bank, tmp_path):
    torch.set_num_threads(1)
    config = _config(stage1=StageConfig(steps=14, learning_rate=3e-3, matrix_learning_rate=6e-3, warm_up_steps=2))
    seen: list[tuple[str, float]] = []
    bench = set_up(config, bank, tmp_path / "run")

    class Interrupted(Exception):
        pass

    def interrupt(stage: str, step: int, loss: float) -> None:
        seen.append((stage, loss))
        if (stage, step) == ("stage2", 1):
            raise Interrupted

    with pytest.raises(Interrupted):
        train_stages(bench, on_step=interrupt, save_every_s=0)
    aligned = {name: value.clone() for name, value in bench.network.model.visual.state_dict().items()}

    bench = set_up(config, bank, tmp_path / "run")  # a new process: everything but the folder is gone
    train_stages(bench, on_step=lambda stage, _, loss: seen.append((stage, loss)))
    first = [loss for stage, loss in seen if stage == "stage1"]
    assert len(first) == 14
    assert np.mean(first[-4:]) < np.mean(first[:4]) - 0.5
    assert [stage for stage, _ in seen].count("stage2") >= config.stage2.steps
    tower = bench.network.model.visual.state_dict()
    assert all(torch.equal(tower[name], aligned[name]) for name in tower if name.startswith(("patch_embed", "blocks")))

    train_adapters(bench, on_step=lambda stage, _, loss: seen.append((stage, loss)))
    assert {stage for stage, _ in seen} >= {f"adapter {task}" for task in Task}

    export(bench, tmp_path / "umit-tiny", name="umit-tiny", version="0")
    manifest = verify(tmp_path / "umit-tiny")
    assert set(manifest.adapters) == {task.value for task in Task}
    assert json.loads((tmp_path / "umit-tiny/training.json").read_text())["config"]["seed"] == config.seed

    held_out = [open_kind(kind, "held_out", bank) for kind in bench.kinds]
    kinds = {"trained": list(bench.kinds.values()), "calibrating": held_out, "testing": held_out}
    few = EvaluationConfig(radiographs=2, volumes=1, input_checks_per_study=2)
    manifest = calibrate_and_evaluate(tmp_path / "umit-tiny", bank, tmp_path / "work", kinds, few)
    assert verify(tmp_path / "umit-tiny") == manifest
    again = calibrate_and_evaluate(tmp_path / "umit-tiny", bank, tmp_path / "work", kinds, few)
    assert again.profiles == manifest.profiles, "calibrating starts from the model's own confidence, every time"
    assert "input_check.safetensors" in manifest.files
    assert {figure.task for figure in manifest.evaluation} == {*Task, "input check"}
    assert "Not better than always giving" in (tmp_path / "umit-tiny/README.md").read_text()
    assert (tmp_path / "work/evaluation/report.html").exists()


def test_a_run_of_another_configuration_is_not_overwritten(bank, tmp_path):
    set_up(_config(), bank, tmp_path / "run")
    with pytest.raises(ValueError, match="another configuration"):
        set_up(_config(seed=9), bank, tmp_path / "run")


def test_a_run_goes_on_from_a_checkpoint_by_the_texts_of_its_tokens(bank, tmp_path):
    earlier = set_up(_config(), bank, tmp_path / "earlier")
    export(earlier, tmp_path / "umit-tiny", name="umit-tiny", version="0")
    model = dataclasses.replace(_config().model, vocabulary=700)
    later = set_up(_config(seed=9, model=model), bank, tmp_path / "later", start=tmp_path / "umit-tiny")
    known, now = earlier.processor.tokenizer.get_vocab(), later.processor.tokenizer.get_vocab()
    assert len(now) != len(known)
    before, after = (bench.network.get_input_embeddings().weight for bench in (earlier, later))
    shared = sorted(set(known) & set(now))
    assert {known[text] == now[text] for text in shared} == {True, False}
    kept = before[[known[text] for text in shared]].bfloat16().float()
    assert torch.equal(after[[now[text] for text in shared]], kept)
    tower = later.network.model.visual.state_dict()
    for name, weight in earlier.network.model.visual.state_dict().items():
        assert torch.equal(tower[name], weight.bfloat16().float()), name
    assert json.loads((tmp_path / "later/config.json").read_text())["earlier"]["config"]["seed"] == _config().seed


def test_a_checkpoint_of_other_sizes_is_no_start(bank, tmp_path):
    export(set_up(_config(), bank, tmp_path / "earlier"), tmp_path / "umit-tiny", name="umit-tiny", version="0")
    model = dataclasses.replace(_config().model, vision_layers=2)
    with pytest.raises(ValueError, match="other shapes"):
        set_up(_config(model=model), bank, tmp_path / "later", start=tmp_path / "umit-tiny")
