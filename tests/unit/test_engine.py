"""The engine answers what transformers' own path would, from shared features, with the right adapter."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file, save_file

from tests.model_fixtures import (
    own_tiny_folder,  # noqa: F401
    radiograph,
    tiny_engine,  # noqa: F401
    tiny_folder,  # noqa: F401
    tiny_settings,
    volume,
)
from tests.tiny_checkpoint import IMAGE_PX, tiny_answers, tiny_manifest
from umit_pacs.errors import CheckpointInvalid, InvalidConfiguration, NoUsableFrames, OutOfAcceleratorMemory
from umit_pacs.handoffs import Abstention, Language, RegionKind, SeriesUID, Task, TaskOrder
from umit_pacs.umit_model.checkpoint import find_checkpoint, write_manifest
from umit_pacs.umit_model.decoder import Decoder, KeyValueBuffers
from umit_pacs.umit_model.engine import LocalEngine, load_engine, merged
from umit_pacs.umit_model.generation import SharedHead, encode_images, generate, split_prompt
from umit_pacs.umit_model.input_check import fit_input_check, input_vector, write_input_checks
from umit_pacs.umit_model.instructions import instruction
from umit_pacs.umit_model.loader import choose_device, choose_quantisation, load_model
from umit_pacs.umit_model.model_answer import ModelAnswer, ModelRegion
from umit_pacs.umit_model.patch_embedding import PatchProduct
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
WEIGHTS = "adapters/detection/adapter_model.safetensors"


def orders_for(modality: str) -> list[TaskOrder]:
    return [order for order, _, of, _ in tiny_answers() if of == modality]


def answers_of(engine, series) -> list[tuple]:
    modality = "CT" if series.volume is not None else "DX"
    return [
        (a.answer_text, a.abstention, a.option_index, a.text, a.presence)
        for a in engine.answer(series, orders_for(modality), TEMPLATES)
    ]


@pytest.mark.parametrize("modality", ["DX", "CT"])
def test_every_task_is_answered_in_both_languages(tiny_engine, modality):  # noqa: F811
    series = volume() if modality == "CT" else radiograph()
    expected = {order: answer for order, _, of, answer in tiny_answers() if of == modality}
    answers = tiny_engine.answer(series, list(expected), TEMPLATES)
    assert [answer.order for answer in answers] == list(expected)
    right = [answer.answer_text == expected[answer.order] for answer in answers]
    assert np.mean(right) > 0.7, [answer.answer_text for answer in answers]
    for answer in answers:
        is_given = answer.text or answer.regions or answer.option_index is not None or answer.presence
        assert bool(is_given) != (answer.abstention is not None)
        if answer.confidence is not None:
            assert 0 <= answer.confidence <= 1


def test_places_come_in_prepared_coordinates(tiny_engine):  # noqa: F811
    order = TaskOrder(
        task=Task.DETECTION,
        language=Language.ENGLISH,
        series_instance_uid=SeriesUID("1.2"),
        target="nodule",
        template="chest_radiograph",
    )
    (answer,) = tiny_engine.answer(radiograph(), [order], TEMPLATES)
    assert answer.answer_text == "<|box_start|>(219,304),(475,683)<|box_end|>"
    (region,) = answer.regions
    assert region.kind is RegionKind.BOX
    expected = (np.array([[219, 304], [475, 683]]) / 1000 * IMAGE_PX).tolist()
    np.testing.assert_allclose(region.points, expected)
    assert answer.presence == "present"
    assert region.confidence is not None
    assert region.confidence > 0.5


def test_a_voxel_box_spans_its_last_slice(tiny_engine):  # noqa: F811
    order = TaskOrder(
        task=Task.DETECTION_3D,
        language=Language.ENGLISH,
        series_instance_uid=SeriesUID("1.2"),
        target="nodule",
        template="chest_ct",
    )
    (answer,) = tiny_engine.answer(volume(), [order], TEMPLATES)
    assert answer.answer_text == "[(14,25,0),(37,48,1)]"
    np.testing.assert_allclose(answer.regions[0].points, [[14, 25, 0], [38, 49, 2]])


def plain_generation(engine, series, order) -> str:
    """The same question by transformers alone: pixels in, `generate` out."""
    loaded = engine._loaded
    processor, network = loaded.processor, loaded.network
    template = TEMPLATES.by_key(order.template)
    images = list(series.volume.voxels) if series.volume is not None else [image.pixels for image in series.images]
    modality = "CT" if series.volume is not None else "DX"
    inputs = processor.image_inputs(images)
    prompt = processor.prompt(instruction(order, template, modality=modality), inputs["image_grid_thw"].tolist())
    ids = torch.tensor([processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    loaded.peft_model.set_adapter(order.task.value, inference_mode=True)
    output = network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == network.config.image_token_id).int(),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=engine._stop_ids,
        pad_token_id=engine._stop_ids[1],
        **inputs,
    )
    new = [token for token in output[0, ids.shape[1] :].tolist() if token not in engine._stop_ids]
    return processor.tokenizer.decode(new, skip_special_tokens=False)


@pytest.mark.parametrize("modality", ["DX", "CT"])
def test_shared_features_and_batches_give_the_plain_paths_answers(tiny_engine, modality):  # noqa: F811
    series = volume(seed=3) if modality == "CT" else radiograph(seed=3)
    orders = orders_for(modality)[::3]
    together = tiny_engine.answer(series, orders, TEMPLATES)
    for answer in together:
        assert answer.answer_text == plain_generation(tiny_engine, series, answer.order)
        (alone,) = tiny_engine.answer(series, [answer.order], TEMPLATES)
        assert alone.answer_text == answer.answer_text
        assert alone.confidence == pytest.approx(answer.confidence, abs=1e-4)


def test_a_forward_pass_of_the_decoder_gives_what_transformers_gives(tiny_engine):  # noqa: F811
    network = tiny_engine._loaded.network
    ids = torch.tensor([[5, 9, 3, 7, 11, 2], [8, 8, 1, 4, 6, 10]])
    positions = torch.arange(6).view(1, 1, -1).expand(3, 2, -1)
    with torch.inference_mode():
        expected = network(input_ids=ids, position_ids=positions).logits[:, -1]
        decoder, buffers = Decoder(network), KeyValueBuffers(network, rows=2, columns=6)
        rotary = decoder.rotary(positions)
        decoder.read(decoder.embed(ids[:, :4]), buffers, tuple(part[..., :4, :] for part in rotary))
        mask = torch.zeros((2, 1, 2, 6))
        mask[:, :, 0, 5] = -torch.inf
        scores = decoder.step(decoder.embed(ids[:, 4:]), buffers, tuple(part[..., 4:, :] for part in rotary), mask)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_patches_as_a_matrix_product_embed_as_the_convolution_does():
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d(3, 24, kernel_size=(2, 14, 14), stride=(2, 14, 14), bias=False)
    patches = torch.randn(50, 3, 2, 14, 14)
    product = PatchProduct(convolution)
    torch.testing.assert_close(product(patches), convolution(patches), atol=1e-5, rtol=1e-5)
    assert product.weight is convolution.weight


def test_rows_of_several_adapters_get_what_each_adapter_gives_alone(tiny_engine):  # noqa: F811
    loaded = tiny_engine._loaded
    adapters, layer = tiny_engine._adapters, "base_model.model.model.language_model.layers.0.mlp.down_proj"
    names = ["report", "", "vqa", "report", "landmark"]
    values = torch.randn(5, 3, loaded.network.config.text_config.intermediate_size)
    alone = []
    with torch.inference_mode():
        for row, name in enumerate(names):
            loaded.peft_model.set_adapter(name or "report", inference_mode=True)
            with nullcontext() if name else loaded.peft_model.disable_adapter():
                alone.append(loaded.peft_model.get_submodule(layer)(values[row : row + 1]))
        with adapters.serving():
            adapters.select(names)
            mixed = loaded.peft_model.get_submodule(layer)(values)
            adapters.select(["vqa"] * 5)
            same = loaded.peft_model.get_submodule(layer)(values)
    torch.testing.assert_close(mixed, torch.cat(alone), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(same[2], mixed[2], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(mixed[0], same[0], atol=1e-6)
    assert isinstance(loaded.peft_model.get_submodule(layer), LoraLayer)


def test_adapters_are_mixed_where_the_rows_that_there_are_fit_whatever_the_limit(tiny_folder):  # noqa: F811
    loaded = load_model(tiny_settings(tiny_folder), tiny_folder.parent)
    orders = orders_for("DX")[::-1]
    assert len({loaded.manifest.profile(order.task, "DX").adapter for order in orders}) > 2
    for limit in (len(orders), 10**9):
        engine = LocalEngine(loaded, input_checks={}, maximum_batch=limit)
        engine.answer(radiograph(), orders, TEMPLATES)
        assert engine.largest_batch == len(orders)


def test_an_answer_does_not_depend_on_what_else_is_answered(tiny_engine):  # noqa: F811
    asked = [
        (radiograph(seed=3), orders_for("DX")),
        (volume(seed=4), orders_for("CT")),
        (radiograph(2, seed=5), orders_for("DX")[::2]),
        (radiograph(seed=6), []),
        (radiograph(seed=7), orders_for("DX")[5:9]),
    ]
    together = tiny_engine.answer_many(asked, TEMPLATES)
    assert [len(answers) for answers in together] == [len(orders) for _, orders in asked]
    for (series, orders), answers in zip(asked, together, strict=True):
        for answer, alone in zip(answers, tiny_engine.answer(series, orders, TEMPLATES), strict=True):
            assert close(answer, alone)
    for answer in together[1][::4]:
        assert close(tiny_engine.answer(asked[1][0], [answer.order], TEMPLATES)[0], answer)


def close(one: ModelAnswer, other: ModelAnswer) -> bool:
    """The same answer, with the same confidences up to rounding."""

    def rounded(answer: ModelAnswer) -> ModelAnswer:
        regions = tuple(replace(region, confidence=None) for region in answer.regions)
        statements = tuple(replace(statement, confidence=None) for statement in answer.statements)
        return replace(answer, confidence=None, option_probabilities=(), regions=regions, statements=statements)

    def scores(answer: ModelAnswer) -> list[float]:
        found = [answer.confidence, *(region.confidence for region in answer.regions)]
        found += [statement.confidence for statement in answer.statements]
        return [-1.0 if score is None else score for score in found]

    return rounded(one) == rounded(other) and np.allclose(scores(one), scores(other), atol=1e-4)


def test_the_first_tokens_probability_is_the_plain_forward_passs(tiny_engine):  # noqa: F811
    loaded = tiny_engine._loaded
    processor, network = loaded.processor, loaded.network
    images = list(volume().volume.voxels)
    features = encode_images(network, processor, images)
    heads, tails = [], []
    for text in ("Is it?", "A much longer question than the other: is it there or not?"):
        head, tail = split_prompt(processor, processor.prompt(text, features.grid_thw.tolist()))
        heads.append(head)
        tails.append(tail)
    assert heads[0] == heads[1]
    watched = list(range(len(processor.tokenizer)))
    got = generate(
        network,
        SharedHead(input_ids=torch.tensor([heads[0]]), features=features),
        tails,
        stop_ids=[],
        maximum_new_tokens=3,
        watched_ids=watched,
    )
    inputs = processor.image_inputs(images)
    for tail, answer in zip(tails, got, strict=True):
        ids = torch.tensor([[*heads[0], *tail, *answer.token_ids]])
        with torch.inference_mode():
            logits = network(
                input_ids=ids, mm_token_type_ids=(ids == network.config.image_token_id).int(), **inputs
            ).logits
        plain = torch.log_softmax(logits[0, -4:-1].float(), dim=-1)[:, : len(watched)]
        np.testing.assert_allclose(answer.watched, plain.numpy(), atol=2e-4)


def test_the_same_input_gives_the_same_answers_again_and_after_others(tiny_engine):  # noqa: F811
    first = tiny_engine.answer(radiograph(), orders_for("DX"), TEMPLATES)
    tiny_engine.answer(volume(), orders_for("CT"), TEMPLATES)
    assert tiny_engine.answer(radiograph(), orders_for("DX"), TEMPLATES) == first


def test_threads_take_turns(tiny_engine):  # noqa: F811
    expected = {kind: answers_of(tiny_engine, series) for kind, series in (("DX", radiograph()), ("CT", volume()))}
    found: list[bool] = []

    def ask(kind: str) -> None:
        found.append(answers_of(tiny_engine, volume() if kind == "CT" else radiograph()) == expected[kind])

    threads = [threading.Thread(target=ask, args=(kind,)) for kind in ("DX", "CT", "DX", "CT")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert found == [True] * 4


def test_several_images_of_a_series_are_asked_for_places_one_by_one(tiny_engine):  # noqa: F811
    answers = tiny_engine.answer(radiograph(3), orders_for("DX"), TEMPLATES)
    by_task = {answer.order.task: answer for answer in answers}
    assert by_task[Task.LANDMARK].images_shown == (0, 1, 2)
    assert {region.image_index for region in by_task[Task.LANDMARK].regions} == {0, 1, 2}
    assert by_task[Task.REPORT].images_shown == (0,)


def test_answers_about_several_images_are_merged_without_claiming_absence_for_an_unread_one():
    order = orders_for("DX")[0]
    region = ModelRegion(kind=RegionKind.BOX, label="nodule", image_index=1, points=((1, 2), (3, 4)), confidence=0.9)
    absent = ModelAnswer(order=order, answer_text="none", presence="absent", confidence=0.7, images_shown=(0,))
    present = replace(
        absent, answer_text="box", presence="present", regions=(region,), confidence=0.8, images_shown=(1,)
    )
    unread = ModelAnswer(order=order, abstention=Abstention(reason="unreadable_coordinates"), images_shown=(2,))
    both = merged([absent, present])
    assert (both.presence, both.regions, both.confidence, both.images_shown) == ("present", (region,), 0.8, (0, 1))
    assert merged([absent, unread]).abstention is not None
    assert merged([present, unread]).presence == "present"
    assert merged([absent, replace(absent, confidence=0.6)]).confidence == 0.6
    assert merged([absent, replace(absent, presence="uncertain")]).presence == "uncertain"


def test_what_the_checkpoint_was_not_trained_for_is_not_asked(tiny_engine):  # noqa: F811
    orders = [replace(orders_for("DX")[0], task=Task.DETECTION_3D, target="nodule"), orders_for("DX")[1]]
    refused, answered = tiny_engine.answer(radiograph(), orders, TEMPLATES)
    assert refused.abstention == Abstention(reason="not_trained_for", detail="detection_3d of DX")
    assert answered.abstention is None
    assert tiny_engine.requirements(orders[0], "DX") == tiny_engine.requirements(orders[1], "DX")
    assert tiny_engine.requirements(orders[1], "DX").width == IMAGE_PX
    with pytest.raises(NoUsableFrames) as raised:
        tiny_engine.requirements(orders[1], "US")
    assert raised.value.reason == "not_trained_for"


def test_a_landmark_that_came_into_the_template_after_the_training_is_not_asked(own_tiny_folder):  # noqa: F811
    manifest = tiny_manifest()
    known = tuple(
        profile.model_copy(update={"targets": ("carina",)}) if profile.task is Task.LANDMARK else profile
        for profile in manifest.profiles
    )
    write_manifest(own_tiny_folder, manifest.model_copy(update={"profiles": known}))
    engine = load_engine(tiny_settings(own_tiny_folder), own_tiny_folder.parent)
    blank = replace(orders_for("DX")[0], task=Task.LANDMARK)
    orders = [replace(blank, target=name) for name in ("carina", "left_diaphragm_dome")]
    asked, refused = engine.answer(radiograph(), orders, TEMPLATES)
    assert asked.answer_text
    assert refused.abstention == Abstention(reason="not_trained_for", detail="landmark of left_diaphragm_dome")


def test_an_order_for_a_volume_that_was_not_prepared_is_not_answered(tiny_engine):  # noqa: F811
    series = replace(radiograph(), images=(replace(radiograph().images[0], modality="CT"),))
    (answer,) = tiny_engine.answer(series, orders_for("CT")[:1], TEMPLATES)
    assert answer.abstention == Abstention(reason="not_prepared", detail="the series has no volume")


def test_an_answer_without_end_is_an_abstention(own_tiny_folder):  # noqa: F811
    manifest = tiny_manifest()
    short = tuple(profile.model_copy(update={"maximum_new_tokens": 3}) for profile in manifest.profiles)
    write_manifest(own_tiny_folder, manifest.model_copy(update={"profiles": short}))
    engine = load_engine(tiny_settings(own_tiny_folder), own_tiny_folder.parent)
    report = engine.answer(radiograph(), orders_for("DX")[:1], TEMPLATES)[0]
    assert report.abstention is not None
    assert report.abstention.reason == "answer_too_long"
    assert report.text == ""
    assert report.answer_text


# --- adapters ----------------------------------------------------------------------------------------------------


def first_logits(loaded, adapter: str | None) -> torch.Tensor:
    features = encode_images(loaded.network, loaded.processor, [radiograph().images[0].pixels])
    head, tail = split_prompt(loaded.processor, loaded.processor.prompt("Is it?", features.grid_thw.tolist()))
    loaded.peft_model.set_adapter(adapter or "report", inference_mode=True)
    watched = list(range(64))
    answer = generate(
        loaded.network,
        SharedHead(input_ids=torch.tensor([head]), features=features),
        [tail],
        stop_ids=[],
        maximum_new_tokens=1,
        watched_ids=watched,
    )[0]
    return torch.from_numpy(answer.watched)


def test_every_adapter_changes_the_answers_scores(tiny_engine):  # noqa: F811
    loaded = tiny_engine._loaded
    seen = [first_logits(loaded, name) for name in loaded.manifest.adapters]
    with loaded.peft_model.disable_adapter():
        seen.append(first_logits(loaded, None))
    for index, one in enumerate(seen):
        for other in seen[index + 1 :]:
            assert not torch.equal(one, other)
    assert torch.equal(first_logits(loaded, loaded.manifest.adapters[0]), seen[0])


STRANGER = "base_model.model.model.language_model.layers.0.x.lora_A.weight"


def rewrite(folder, change) -> None:
    """Change the detection adapter's weights and hash everything anew, so that only the loader can object."""
    path = folder / WEIGHTS
    save_file(change(load_file(path)), path)
    write_manifest(folder, tiny_manifest())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: dict(list(state.items())[1:]), "the model has"),
        (
            lambda state: state | {"base_model.model.model.language_model.layers.0.x.lora_A.weight": torch.ones(4, 8)},
            "is",
        ),
        (lambda state: {key: value * 0 for key, value in state.items()}, "changes nothing"),
        (lambda state: {key: value * float("nan") for key, value in state.items()}, "not finite"),
        (lambda state: {key: value[:2] for key, value in state.items()}, "the model has"),
        (
            lambda state: {key.replace("language_model", "visual"): value for key, value in state.items()},
            "no LoRA weight",
        ),
        (lambda state: {key.replace("base_model.model.", ""): v.clone() for key, v in state.items()}, None),
    ],
    ids=["missing", "unexpected", "zero", "nan", "shape", "vision", "without prefix"],
)
def test_an_adapter_that_does_not_fit_is_refused(own_tiny_folder, change, complaint):  # noqa: F811
    rewrite(own_tiny_folder, change)
    if complaint is None:
        load_model(tiny_settings(own_tiny_folder), own_tiny_folder.parent)
        return
    with pytest.raises(CheckpointInvalid, match=complaint) as raised:
        load_model(tiny_settings(own_tiny_folder), own_tiny_folder.parent)
    assert WEIGHTS in str(raised.value)


def test_an_adapter_of_the_old_layout_gives_the_same_scores(own_tiny_folder):  # noqa: F811
    expected = first_logits(load_model(tiny_settings(own_tiny_folder), own_tiny_folder.parent), "detection")
    rewrite(own_tiny_folder, lambda state: {k.replace("model.language_model.", "model."): v for k, v in state.items()})
    config = own_tiny_folder / "adapters/detection/adapter_config.json"
    content = json.loads(config.read_text())
    content["target_modules"] = r"^(model)(?!.*(lm_head|output|emb|wte|visual)).*\.x$"
    config.write_text(json.dumps(content))
    write_manifest(own_tiny_folder, tiny_manifest())
    loaded = load_model(tiny_settings(own_tiny_folder), own_tiny_folder.parent)
    assert torch.equal(first_logits(loaded, "detection"), expected)


def test_an_old_adapter_that_leaves_out_a_layer_is_refused(own_tiny_folder):  # noqa: F811
    rewrite(
        own_tiny_folder,
        lambda state: {
            k.replace("model.language_model.", "model."): v for k, v in state.items() if ".layers.1." not in k
        },
    )
    with pytest.raises(CheckpointInvalid):
        load_model(tiny_settings(own_tiny_folder), own_tiny_folder.parent)


@pytest.mark.parametrize(
    "change", [{"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}, {"peft_type": "IA3"}]
)
def test_an_adapter_that_is_more_than_plain_lora_is_refused(own_tiny_folder, change):  # noqa: F811
    config = own_tiny_folder / "adapters/detection/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    write_manifest(own_tiny_folder, tiny_manifest())
    with pytest.raises(CheckpointInvalid, match="adapters/detection"):
        load_model(tiny_settings(own_tiny_folder), own_tiny_folder.parent)


def test_a_base_with_a_missing_weight_is_refused(own_tiny_folder):  # noqa: F811
    path = own_tiny_folder / "base/model.safetensors"
    state = load_file(path)
    del state[next(key for key in state if key.endswith("q_proj.weight"))]
    save_file(state, path, metadata={"format": "pt"})
    write_manifest(own_tiny_folder, tiny_manifest())
    with pytest.raises(CheckpointInvalid, match="missing keys"):
        load_model(tiny_settings(own_tiny_folder), own_tiny_folder.parent)


# --- quantisation, device, memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("quantisation", ["int8", "nf4"])
def test_a_quantised_model_answers_on_the_cpu_with_its_vision_tower_untouched(
    tiny_folder,  # noqa: F811
    tiny_engine,  # noqa: F811
    quantisation,
):
    engine = load_engine(tiny_settings(tiny_folder, quantisation=quantisation), tiny_folder.parent)
    assert engine.identity.quantisation == quantisation
    kinds = {name: type(module).__name__ for name, module in engine._loaded.network.named_modules()}
    wanted = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[quantisation]
    assert wanted in {kinds[name] for name in kinds if name.endswith("q_proj.base_layer")}
    assert not {kinds[n] for n in kinds if "visual" in n or n == "lm_head"} & {"Linear8bitLt", "Linear4bit"}
    plain = torch.softmax(first_logits(tiny_engine._loaded, "report"), dim=-1)
    rounded = torch.softmax(first_logits(engine._loaded, "report"), dim=-1)
    assert not torch.equal(plain, rounded)
    assert all(answer.answer_text for answer in engine.answer(radiograph(), orders_for("DX")[:6], TEMPLATES))


def test_auto_takes_the_checkpoints_quantisation_and_falls_back_to_nf4():
    manifest, cpu = tiny_manifest(), torch.device("cpu")
    assert choose_quantisation("auto", manifest, cpu, 1) == "none"
    assert choose_quantisation("auto", manifest, cpu, 2**60) == "nf4"
    assert choose_quantisation("auto", manifest.model_copy(update={"quantisation": "int8"}), cpu, 1) == "int8"
    assert choose_quantisation("none", manifest, cpu, 2**60) == "none"


@pytest.mark.parametrize("name", ["nonsense", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InvalidConfiguration, match=r"model\.device"):
        choose_device(name)


@contextmanager
def failing_forward(engine, failure):
    """Let the language model itself raise what `failure(number of rows)` gives."""

    def before(module, args):
        exc = failure(args[0].shape[0])
        if exc is not None:
            raise exc

    handle = engine._loaded.network.model.language_model.layers[0].register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def test_batches_are_halved_when_memory_runs_out(tiny_engine):  # noqa: F811
    series, orders = radiograph(), orders_for("DX")
    expected = tiny_engine.answer(series, orders, TEMPLATES)
    sizes: list[int] = []

    def short_of_memory(rows):
        sizes.append(rows)
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate") if rows > 2 else None

    with failing_forward(tiny_engine, short_of_memory):
        answers = tiny_engine.answer(series, orders, TEMPLATES)
    assert [answer.answer_text for answer in answers] == [answer.answer_text for answer in expected]
    assert max(sizes) > 2
    assert sizes[-1] <= 2


def test_one_question_that_does_not_fit_is_out_of_memory_and_the_engine_goes_on(tiny_engine):  # noqa: F811
    complaint = (
        "[enforce fail at alloc_cpu.cpp:131] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    )
    with failing_forward(tiny_engine, lambda _: RuntimeError(complaint)), pytest.raises(OutOfAcceleratorMemory):
        tiny_engine.answer(radiograph(), orders_for("DX"), TEMPLATES)
    assert tiny_engine.answer(radiograph(), orders_for("DX")[:1], TEMPLATES)[0].abstention is None


def test_another_failure_of_the_model_is_not_taken_for_memory(tiny_engine):  # noqa: F811
    with (
        failing_forward(tiny_engine, lambda _: RuntimeError("shape mismatch")),
        pytest.raises(RuntimeError, match="shape"),
    ):
        tiny_engine.answer(radiograph(), orders_for("DX"), TEMPLATES)


def test_a_checkpoint_is_found_by_path_and_by_name(tiny_folder, tmp_path):  # noqa: F811
    assert find_checkpoint(str(tiny_folder), tmp_path) == tiny_folder.resolve()
    assert find_checkpoint("tiny", tiny_folder.parent) == tiny_folder.resolve()
    with pytest.raises(CheckpointInvalid, match="no checkpoint 'nowhere'"):
        find_checkpoint("nowhere", tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("quantisation", ["none", "int8", "nf4"])
def test_the_accelerator_answers_as_the_cpu_does(tiny_folder, tiny_engine, quantisation):  # noqa: F811
    engine = load_engine(tiny_settings(tiny_folder, device="cuda", quantisation=quantisation), tiny_folder.parent)
    assert engine.identity.device != "cpu"
    answers = engine.answer(radiograph(), orders_for("DX"), TEMPLATES)
    assert engine.answer(radiograph(), orders_for("DX"), TEMPLATES) == answers
    if quantisation == "none":
        expected = tiny_engine.answer(radiograph(), orders_for("DX"), TEMPLATES)
        assert [answer.answer_text for answer in answers] == [answer.answer_text for answer in expected]


# --- input check -------------------------------------------------------------------------------------------------


def disc(seed: int, *, is_ring: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:IMAGE_PX, 0:IMAGE_PX]
    radius = np.hypot(rows - 28 + rng.normal(0, 1), columns - 28 + rng.normal(0, 1))
    inside = (radius > 18) if is_ring else (radius < 15 + rng.normal(0, 1))
    return np.clip(inside * 160 + 40 + rng.normal(0, 8, inside.shape), 0, 255).astype(np.uint8)


def test_an_image_unlike_the_known_ones_gets_no_answers(own_tiny_folder, tiny_engine):  # noqa: F811
    loaded = tiny_engine._loaded

    def vector(image):
        return input_vector([image], encode_images(loaded.network, loaded.processor, [image]))

    known = np.stack([vector(disc(seed)) for seed in range(80)])
    held_out = np.stack([vector(disc(seed)) for seed in range(80, 120)])
    check = fit_input_check(known, held_out=held_out, directions=16)
    write_input_checks(own_tiny_folder / "input_check.safetensors", {("CR", "DX"): check})
    write_manifest(own_tiny_folder, tiny_manifest())
    engine = load_engine(tiny_settings(own_tiny_folder), own_tiny_folder.parent)
    series = radiograph()

    def showing(*images):
        return replace(series, images=tuple(replace(series.images[0], pixels=image) for image in images))

    accepted = [engine.answer(showing(disc(seed)), orders_for("DX")[:1], TEMPLATES)[0] for seed in range(200, 210)]
    assert sum(answer.abstention is None for answer in accepted) >= 9
    refused = engine.answer(showing(disc(1, is_ring=True)), orders_for("DX"), TEMPLATES)
    assert {answer.abstention.reason for answer in refused} == {"outside_training"}
    mixed = engine.answer(showing(disc(1, is_ring=True), disc(200)), orders_for("DX"), TEMPLATES)
    assert {answer.images_shown for answer in mixed if answer.abstention is None} == {(1,)}
    # No parameters for CT: nothing to check with.
    assert engine.answer(volume(), orders_for("CT")[:1], TEMPLATES)[0].abstention is None
