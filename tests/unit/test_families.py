"""Every family answers in this engine what transformers alone would say, token by token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model_fixtures import radiograph, tiny_settings, volume
from tests.published_fixtures import TASK_FOLDERS, write_base, write_random_family
from tests.tiny_checkpoint import tiny_answers, write_random_adapter, write_tiny_checkpoint
from umit_pacs.handoffs import Abstention, Language, Task
from umit_pacs.umit_model.answers import read_point
from umit_pacs.umit_model.engine import LocalEngine, load_engine
from umit_pacs.umit_model.families import FAMILIES
from umit_pacs.umit_model.generation import Prompt, SharedHead, answer_prompts, encode_images, split_prompt
from umit_pacs.umit_model.published import install_published
from umit_pacs.umit_model.questions import ShownImage
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
QUESTIONS = ("Is it?", "A much longer question than the other: is it there or not, and where in the image is it?")
TOKENS = 6
#: of log-probabilities; float32, sums of other lengths
CLOSE = 2e-4


@pytest.fixture(scope="module")
def random_tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "tiny"
    write_tiny_checkpoint(folder, steps=0)
    return folder


@pytest.fixture(scope="module", params=list(FAMILIES))
def engine(request, random_tiny, tmp_path_factory) -> LocalEngine:
    """Random weights of the family's exact class with an adapter for every task, published and installed."""
    source = tmp_path_factory.mktemp(request.param) / "UMIT"
    family = FAMILIES[request.param]
    if family.name == "qwen2_vl":
        write_base(random_tiny / "base", source / "UMIT-B")
    else:
        write_random_family(family.name, random_tiny / "base", source / "UMIT-B")
    network = family.network_class.from_pretrained(source / "UMIT-B")
    for seed, name in enumerate(TASK_FOLDERS):
        write_random_adapter(network, source / name, seed=seed, size=0.1)
    installed = source.parent / "checkpoints"
    (manifest,) = install_published(source, installed)
    assert manifest.base_family == family.name
    return load_engine(tiny_settings(installed / "umit"), installed)


def prompts_about(engine: LocalEngine, images: list[np.ndarray], adapters: list[str]) -> list[Prompt]:
    """Both questions to each adapter, in turn, with one head."""
    processor, network = engine._loaded.processor, engine._loaded.network
    features = encode_images(network, processor, images)
    found, head = [], None
    for text in QUESTIONS:
        ids, tail = split_prompt(processor, processor.prompt(text, features.grid_thw.tolist()))
        head = head or SharedHead(input_ids=torch.tensor([ids]), features=features)
        found += [
            Prompt(head=head, tail=tuple(tail), adapter=adapter, maximum_new_tokens=TOKENS) for adapter in adapters
        ]
    return found


def by_transformers_alone(engine: LocalEngine, images: list[np.ndarray], prompt: Prompt):
    """(tokens, (T, V) log-probabilities): pixels in, peft's adapter active, `generate` out."""
    loaded = engine._loaded
    inputs = loaded.processor.image_inputs(images)
    ids = torch.cat([prompt.head.input_ids, torch.tensor([prompt.tail])], dim=1)
    loaded.peft_model.set_adapter(prompt.adapter, inference_mode=True)
    output = loaded.network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == loaded.network.config.image_token_id).int(),
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=-1,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        **inputs,
    )
    scores = torch.log_softmax(torch.cat(output.logits).float(), dim=-1)
    return output.sequences[0, ids.shape[1] :].tolist(), scores.numpy()


def test_a_mixed_batch_says_what_transformers_says_alone(engine):
    slices = list(volume(seed=5).volume.voxels)
    other_size = np.random.default_rng(2).integers(0, 256, (84, 140), dtype=np.uint8)
    shown = [[radiograph(seed=4).images[0].pixels], slices, [slices[0], other_size]]
    asked = [
        (images, prompt) for images in shown for prompt in prompts_about(engine, images, ["vqa", "report_generation"])
    ]
    vocabulary = engine._loaded.network.config.text_config.vocab_size
    answers = answer_prompts(
        engine._loaded.network,
        engine._adapters,
        [prompt for _, prompt in asked],
        stop_ids=[],
        watched_ids=range(vocabulary),
    )
    for (images, prompt), answer in zip(asked, answers, strict=True):
        tokens, scores = by_transformers_alone(engine, images, prompt)
        assert list(answer.token_ids) == tokens
        np.testing.assert_allclose(answer.watched, scores, atol=CLOSE)
    assert not np.allclose(answers[0].watched[0], answers[1].watched[0], atol=100 * CLOSE), "adapters matter"
    assert not np.allclose(answers[0].watched[0], answers[4].watched[0], atol=100 * CLOSE), "images matter"


def test_what_qwen_3_shows_to_deeper_layers_counts(engine):
    prompts = prompts_about(engine, [radiograph(seed=4).images[0].pixels], ["vqa"])
    features = prompts[0].head.features
    assert bool(features.deeper) == (engine._loaded.manifest.base_family == "qwen3_vl")
    if features.deeper:
        blind = replace(prompts[0], head=replace(prompts[0].head, features=replace(features, deeper=())))
        watched = range(32)
        network, adapters = engine._loaded.network, engine._adapters
        (seen,) = answer_prompts(network, adapters, prompts[:1], stop_ids=[], watched_ids=watched)
        (unseen,) = answer_prompts(network, adapters, [blind], stop_ids=[], watched_ids=watched)
        assert not np.allclose(seen.watched[0], unseen.watched[0], atol=5 * CLOSE)


def orders_for(modality: str):
    return [order for order, _, of, _ in tiny_answers() if of == modality]


def test_a_place_is_said_in_the_familys_frame_and_scored_as_by_transformers(engine):
    loaded = engine._loaded
    pixels = radiograph(seed=4).images[0].pixels
    order = next(order for order in orders_for("DX") if order.task is Task.LANDMARK)
    profile = loaded.manifest.profile(Task.LANDMARK, "DX").model_copy(
        update={"frame": FAMILIES[loaded.manifest.base_family].frame}
    )
    question = replace(engine._question(order, "DX", TEMPLATES), profile=profile)
    features = encode_images(loaded.network, loaded.processor, [pixels])
    resized_xy = loaded.processor.resized_xy(features.grid_thw[0].tolist())
    grammar = engine._grammars.of(question, ShownImage(image_index=0, extent=pixels.shape[::-1], resized_xy=resized_xy))
    (prompt, *_) = prompts_about(engine, [pixels], ["vqa"])
    prompt = replace(prompt, grammar=grammar, maximum_new_tokens=64)
    (answer,) = answer_prompts(loaded.network, engine._adapters, [prompt], stop_ids=engine._stop_ids)
    assert answer.is_complete
    largest = resized_xy if loaded.manifest.base_family == "qwen2_5_vl" else (1000, 1000)
    read = read_point(loaded.processor.tokenizer.decode(answer.token_ids), largest)
    assert not isinstance(read, Abstention)
    ids = torch.tensor([[*prompt.head.input_ids[0].tolist(), *prompt.tail, *answer.token_ids]])
    loaded.peft_model.set_adapter("vqa", inference_mode=True)
    with torch.inference_mode():
        logits = loaded.network(
            input_ids=ids,
            mm_token_type_ids=(ids == loaded.network.config.image_token_id).int(),
            **loaded.processor.image_inputs([pixels]),
        ).logits[0, -len(answer.token_ids) - 1 : -1]
    plain = torch.log_softmax(logits.float(), dim=-1).gather(1, ids[0, -len(answer.token_ids) :, None])[:, 0]
    scored = min(len(answer.token_ids), len(answer.log_probabilities))
    assert scored > 0
    np.testing.assert_allclose(answer.log_probabilities[:scored], plain.numpy()[:scored], atol=CLOSE)


def test_the_vision_tower_sees_an_image_once_for_all_tasks(engine):
    short = {Task.CLASSIFICATION, Task.VQA, Task.LANDMARK}
    orders = [order for order in orders_for("DX") if order.language is Language.ENGLISH and order.task in short]
    seen: list[int] = []
    handle = engine._loaded.network.model.visual.register_forward_hook(lambda *_: seen.append(1))
    try:
        answers = engine.answer(radiograph(), orders, TEMPLATES)
    finally:
        handle.remove()
    assert len(seen) == 1
    assert {answer.order.task for answer in answers} == short
    assert [answer.order for answer in answers] == orders
    assert all(answer.answer_text for answer in answers)
