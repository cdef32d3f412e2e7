"""What is learned from, and that neither packing, nor accumulation, nor recomputing changes it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch

from tests.published_fixtures import rewrite_weights, write_random_family
from tests.tiny_checkpoint import IMAGE_PX
from tests.unit.tuning.tuning_fixtures import tune_config
from training.packing import IGNORED
from training.tuning.config import TuneConfig
from training.tuning.encoding import Encoder
from training.tuning.loss import AnswerLoss
from training.tuning.network import build, load_base, trained
from training.tuning.rows import collate, pack
from training.tuning.schedule import rate_share
from training.tuning.showing import Viewer
from umit_pacs.errors import CheckpointInvalid, InvalidConfiguration
from umit_pacs.handoffs import Task
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.umit_model import answers
from umit_pacs.umit_model.families import family_of
from umit_pacs.umit_model.processor import END_OF_ANSWER, load_processor
from umit_pacs.umit_model.samples import read_samples

CPU = torch.device("cpu")


def encoder_for(base, config: TuneConfig, network) -> Encoder:
    processor = load_processor(base)
    viewer = Viewer(profile=config.import_profile(), family=family_of(base), processor=processor)
    return Encoder(viewer=viewer, network=network)


def encoded_samples(base, data, config, network, count: int | None = None) -> list:
    encoder = encoder_for(base, config, network)
    samples = islice(read_samples(data / "samples.jsonl"), count)
    return [encoder.encode(sample, data) for sample in samples]


@pytest.fixture
def network(base, data):
    return build(tune_config(data, base), CPU)[0]


def loss_of(network, rows) -> torch.Tensor:
    return AnswerLoss(network)(**collate(rows).inputs(CPU))[0]


# --- labels ------------------------------------------------------------------------------------------------------


def test_only_the_answer_and_its_end_mark_are_learned_from(base, data, network):
    config = tune_config(data, base)
    tokenizer = load_processor(base).tokenizer
    for sample, coded in zip(
        read_samples(data / "samples.jsonl"), encoded_samples(base, data, config, network), strict=True
    ):
        learned = coded.labels[coded.labels != IGNORED]
        if not sample.frame:
            assert tokenizer.decode(learned) == sample.answer + END_OF_ANSWER
        assert tokenizer.decode(learned).endswith(END_OF_ANSWER)
        # Nothing before the answer is learned from, and the answer stands where it is said to.
        assert (coded.labels[: -len(learned)] == IGNORED).all()
        assert (coded.token_ids[-len(learned) :] == learned).all()
        prompt = tokenizer.decode(coded.token_ids[: -len(learned)])
        assert sample.instruction in prompt
        assert prompt.endswith("<|im_start|>assistant\n")


def test_logits_are_made_for_answer_tokens_alone(base, data, network):
    samples = encoded_samples(base, data, tune_config(data, base), network, 3)
    rows = collate([samples])
    logits = []
    network.lm_head.register_forward_hook(lambda module, args, output: logits.append(output))
    AnswerLoss(network)(**rows.inputs(CPU))
    assert logits[0].shape[0] == sum(sample.answer_length for sample in samples)


# --- packing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_packed_row_costs_what_its_samples_cost_alone(base, data, tmp_path, family):
    folder = base if family == "qwen2_vl" else write_random_family(family, base, tmp_path / family)
    config = tune_config(data, folder, stage="stage1", rates={"vision": 1e-3, "merger": 1e-3, "language": 1e-3})
    network = build(config, CPU)[0]
    # Pictures of one sample, of two images, and a volume; what follows a sample must not see it.
    wanted = {"compare-0", "box3d-0", "report-2", "vqa-1", "box-1"}
    samples = [each for each in encoded_samples(folder, data, config, network) if each.id in wanted]
    assert len(samples) == len(wanted)
    alone = [loss_of(network, [[sample]]) for sample in samples]
    sum(alone).backward()
    expected = {name: parameter.grad.clone() for name, parameter in trained(network)}
    network.zero_grad()
    packed = loss_of(network, [samples[:4], samples[4:]])  # the second row is filled up
    packed.backward()
    assert packed.item() == pytest.approx(sum(each.item() for each in alone), rel=1e-5)
    for name, parameter in trained(network):
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=2e-4, msg=name)


def test_a_sample_of_a_packed_row_does_not_see_the_one_before(base, data, network):
    first, other, last = encoded_samples(base, data, tune_config(data, base), network, 3)
    hidden = []
    network.model.register_forward_hook(lambda module, args, output: hidden.append(output.last_hidden_state))
    for before in (first, other):
        loss_of(network, [[before, last]])
    length = len(last.token_ids)
    torch.testing.assert_close(hidden[0][0, -length:], hidden[1][0, -length:], rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_row_is_that_of_transformers_itself(base, data, network):
    sample = encoded_samples(base, data, tune_config(data, base), network, 1)[0]
    ids = torch.from_numpy(sample.token_ids)[None]
    mean = network(
        input_ids=ids,
        labels=torch.from_numpy(sample.labels)[None],
        pixel_values=sample.pixel_values,
        image_grid_thw=sample.grid_thw,
        mm_token_type_ids=(ids == network.config.image_token_id).int(),
    ).loss
    assert loss_of(network, [[sample]]).item() / sample.answer_length == pytest.approx(mean.item(), rel=1e-5)


def test_rows_hold_every_sample_once_and_no_more_tokens_than_they_may(base, data, network):
    samples = encoded_samples(base, data, tune_config(data, base), network)
    longest = max(len(sample.token_ids) for sample in samples)
    rows = pack(samples, 200)
    assert sorted(each.id for row in rows for each in row) == sorted(each.id for each in samples)
    assert all(sum(len(each.token_ids) for each in row) <= 200 or len(row) == 1 for row in rows)
    assert len(rows) < len(samples)
    assert all(len(row) == 1 for row in pack(samples, longest - 1) if len(row[0].token_ids) == longest)
    assert len(pack(samples, 200, packs=False)) == len(samples)


# --- coordinates -------------------------------------------------------------------------------------------------


def test_each_family_learns_places_in_its_own_frame(base, data, tmp_path):
    """One box in an 80 x 60 picture, shown in the middle of 56 x 56: 56 x 42 with 7 rows of black above."""
    sample = next(s for s in read_samples(data / "samples.jsonl") if s.task is Task.DETECTION)
    left, top, right, bottom = (value * 0.7 for value in (8.0, 6.0, 40.0, 30.0))
    for family, largest in (("qwen2_vl", 1000), ("qwen2_5_vl", IMAGE_PX)):
        folder = base if family == "qwen2_vl" else write_random_family(family, base, tmp_path / family)
        config = tune_config(data, folder)
        encoder = encoder_for(folder, config, None)
        _, shown = encoder.viewer.show(sample, data)
        scale = largest / IMAGE_PX
        expected = (
            (round(left * scale), round((top + 7) * scale)),
            (round(right * scale), round((bottom + 7) * scale)),
        )
        read = answers.read_boxes(shown.answer, (largest, largest), includes_last=False)
        assert read.boxes == (expected,)


def test_a_modality_that_the_profile_does_not_list_is_an_error_or_shown_as_the_run_says(base, data):
    config = tune_config(data, base)
    encoder = encoder_for(base, config, None)
    sample = next(s for s in read_samples(data / "samples.jsonl") if s.images)
    unknown = replace(sample, modality="US")
    with pytest.raises(InvalidConfiguration, match=r"report of image US"):
        encoder.viewer.show(unknown, data)
    look = ImageRequirements(kind=ImageKind.IMAGE, width=28, height=56)
    images, _ = replace(encoder.viewer, unlisted_image=look).show(unknown, data)
    assert [image.shape for image in images] == [(56, 28)]


# --- what is frozen ----------------------------------------------------------------------------------------------

STAGES = {
    "stage1": {"stage": "stage1", "rates": {"vision": 1e-3, "merger": 1e-3, "language": 1e-3}},
    "stage2": {},
    "stage2 lora": {"method": {"kind": "lora", "rank": 4}},
    "adapter": {"stage": "adapter", "task": "vqa", "method": {"kind": "lora", "rank": 4}, "rates": {"language": 1e-3}},
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_exactly_its_parts(base, data, stage):
    network, _ = build(tune_config(data, base, **STAGES[stage]), CPU)
    free = {name for name, _ in trained(network)}
    vision = {name for name, _ in network.named_parameters() if ".visual." in name and "merger" not in name}
    merger = {name for name, _ in network.named_parameters() if ".visual.merger." in name}
    lora = {name for name, _ in network.named_parameters() if "lora_" in name}
    assert (vision & free) == (vision if stage == "stage1" else set())
    assert (merger & free) == (set() if stage == "adapter" else merger)
    assert all(name.startswith("model.language_model.") for name in lora)
    others = free - vision - merger
    assert others == lora if lora else "model.language_model.embed_tokens.weight" in others


def _keep_output(kept: list, module, args, output) -> None:
    kept.append(output)


@pytest.mark.parametrize("stage", STAGES)
def test_recomputing_activations_changes_no_gradient(base, data, stage):
    gradients = []
    for recomputes in (False, True):
        machine = tune_config(data, base).machine.model_copy(update={"recomputes": recomputes})
        config = tune_config(data, base, **STAGES[stage]).model_copy(update={"machine": machine})
        network, _ = build(config, CPU)
        samples = encoded_samples(base, data, config, network, 3)
        tower = []
        keep = partial(_keep_output, tower)
        network.model.visual.blocks[-1].register_forward_hook(keep)
        loss_of(network, [samples]).backward()
        # A frozen tower keeps nothing for a backward pass that never comes.
        assert tower[0].requires_grad == (stage == "stage1")
        gradients.append({name: parameter.grad for name, parameter in trained(network)})
    kept, recomputed = gradients
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_base_with_a_missing_weight_is_refused(base, tmp_path):
    broken = shutil.copytree(base, tmp_path / "broken")
    rewrite_weights(broken, lambda state: {key: value for key, value in state.items() if "merger" not in key})
    with pytest.raises(CheckpointInvalid, match="missing keys"):
        load_base(broken, dtype=torch.float32)


def test_rates_rise_and_fall(base, data):
    rates = tune_config(data, base).rates.model_copy(update={"warm_up_share": 0.2, "final_share": 0.1})
    shares = [rate_share(rates, step, 20) for step in range(20)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert 0.1 < shares[-1] < 0.12
