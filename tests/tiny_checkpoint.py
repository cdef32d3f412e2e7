"""A tiny Qwen2-VL checkpoint for tests: tokenizer, two-layer model and one adapter per task, made in a second or two.

The base is fitted to a handful of answers, so that every task gives an answer that can be read, whatever the image
shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from umit_pacs.handoffs import Language, SeriesUID, Task, TaskOrder
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.umit_model.adapters import LANGUAGE_MODEL_TARGETS, with_adapter
from umit_pacs.umit_model.answers import boxes_answer, closed_answer, point_answer
from umit_pacs.umit_model.checkpoint import ADAPTERS_FOLDER, BASE_FOLDER, Manifest, TaskProfile, write_manifest
from umit_pacs.umit_model.generation import SharedHead, encode_images, split_prompt
from umit_pacs.umit_model.instructions import complete_order, instruction, option_texts
from umit_pacs.umit_model.processor import (
    CHAT_TEMPLATE,
    END_OF_ANSWER,
    PADDING,
    SPECIAL_TOKENS,
    ImageTextProcessor,
)
from umit_pacs.vocabulary import SRTemplate, load_templates

PATCH_PX, MERGE = 14, 2
IMAGE_PX = 56
SLICES = 3
ROWS = 8
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VQA_QUESTION = {Language.ENGLISH: "Is there a mass?", Language.CHINESE: "有肿块吗?"}
VQA_OPTIONS = {Language.ENGLISH: ("yes", "no"), Language.CHINESE: ("有", "没有")}


def tiny_answers() -> Iterator[tuple[TaskOrder, SRTemplate, str, str]]:
    """(order, template, modality, answer) of everything that the tiny checkpoint was fitted to."""
    library = load_templates()
    for key, modality in (("chest_radiograph", "DX"), ("chest_ct", "CT")):
        template = library.by_key(key)
        for language in Language:
            for order in _orders(template, language, is_volume=modality == "CT"):
                yield order, template, modality, _answer(order, template)


def _orders(template: SRTemplate, language: Language, *, is_volume: bool) -> Iterator[TaskOrder]:
    def order(task: Task, **fields: object) -> TaskOrder:
        blank = TaskOrder(task=task, language=language, series_instance_uid=SeriesUID("1.2"), template=template.key)
        return complete_order(TaskOrder(**{name: getattr(blank, name) for name in blank.__slots__} | fields), template)

    yield order(Task.REPORT)
    yield order(Task.CLASSIFICATION)
    yield order(Task.VQA, question=VQA_QUESTION[language], options=VQA_OPTIONS[language])
    for finding in template.findings:
        yield order(Task.DETECTION_3D if is_volume else Task.DETECTION, target=finding)
    for landmark in template.landmarks:
        yield order(Task.LANDMARK, target=landmark)


def _answer(order: TaskOrder, template: SRTemplate) -> str:
    is_found = order.target != "pleural_effusion"
    match order.task:
        case Task.REPORT:
            side, language = "left", order.language
            sentences = [template.sentence("nodule", "present", side, language)]
            sentences += [template.sentence("pleural_effusion", "absent", "none", language)]
            return " ".join(sentences)
        case Task.DETECTION:
            return boxes_answer([((219, 304), (475, 683))] if is_found else [], order.language)
        case Task.DETECTION_3D:
            return boxes_answer([((14, 25, 0), (37, 48, 1))] if is_found else [], order.language)
        case Task.LANDMARK:
            return point_answer((531, 268), order.language)
        case _:
            return closed_answer(1, option_texts(order, template), order.task, order.language)


def write_tiny_checkpoint(folder: Path, *, steps: int = 100, seed: int = 0) -> Manifest:
    """Write a whole checkpoint folder named `tiny`; `steps` of fitting, 0 leaves the model random."""
    torch.manual_seed(seed)
    processor = _processor()
    network = Qwen2VLForConditionalGeneration(_config(processor.tokenizer))
    if steps:
        _fit(network, processor, steps)
    network.eval()
    base = folder / BASE_FOLDER
    network.save_pretrained(base)
    processor.tokenizer.save_pretrained(base)
    processor.image_processor.save_pretrained(base)
    (base / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    for index, task in enumerate(Task):
        write_random_adapter(network, folder / ADAPTERS_FOLDER / task.value, seed=seed + index + 1)
    return write_manifest(folder, tiny_manifest())


def tiny_manifest() -> Manifest:
    image = ImageRequirements(
        kind=ImageKind.IMAGE, width=IMAGE_PX, height=IMAGE_PX, grey=GreyRecipe(kind=GreyKind.HEADER)
    )
    volume = ImageRequirements(
        kind=ImageKind.VOLUME, width=IMAGE_PX, height=IMAGE_PX, slices=SLICES, grey=GreyRecipe(kind=GreyKind.WINDOW)
    )
    on_images = (Task.REPORT, Task.CLASSIFICATION, Task.VQA, Task.DETECTION, Task.LANDMARK)
    on_volumes = (Task.REPORT, Task.CLASSIFICATION, Task.VQA, Task.DETECTION_3D)
    return Manifest(
        name="tiny",
        version="0",
        profiles=(
            *(TaskProfile(task=t, modalities=("CR", "DX"), image=image, adapter=t.value) for t in on_images),
            *(
                TaskProfile(
                    task=t,
                    modalities=("CT",),
                    image=volume,
                    adapter=t.value,
                    frame=f"voxel:{SLICES}x{IMAGE_PX}x{IMAGE_PX}" if t is Task.DETECTION_3D else "norm1000",
                )
                for t in on_volumes
            ),
        ),
        licence="Apache-2.0",
        data_licence="none: fitted to a handful of sentences",
        intended_use="tests",
    )


def _processor() -> ImageTextProcessor:
    corpus = ["system", "user", "assistant", "\nassistant\n", "You are a helpful assistant."]
    for order, template, modality, answer in tiny_answers():
        corpus += [instruction(order, template, modality=modality), answer]
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus, trainer)
    bpe = json.loads(tokenizer.to_str())["model"]
    qwen = Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],
        unk_token=None,
        eos_token=END_OF_ANSWER,
        pad_token=PADDING,
        padding_side="left",
        model_max_length=32768,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (END_OF_ANSWER, PADDING)],
    )
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH_PX, merge_size=MERGE, size={"shortest_edge": 28 * 28, "longest_edge": 224 * 224}
    )
    return ImageTextProcessor(image_processor, qwen, CHAT_TEMPLATE)


def _config(tokenizer: Qwen2Tokenizer) -> Qwen2VLConfig:
    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    # Widths are multiples of 64: bitsandbytes packs 4-bit weights in such blocks.
    return Qwen2VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": token(PADDING),
            "eos_token_id": token(END_OF_ANSWER),
            "pad_token_id": token(PADDING),
        },
        vision_config={
            "depth": 1,
            "embed_dim": 64,
            "hidden_size": 128,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "in_channels": 3,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _fit(network: Qwen2VLForConditionalGeneration, processor: ImageTextProcessor, steps: int) -> None:
    """Teach the answers by heart, on the text alone: the images are noise that changes from step to step."""
    rng = np.random.default_rng(0)
    end = processor.tokenizer.convert_tokens_to_ids(END_OF_ANSWER)
    matrices = [p for n, p in network.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in network.named_parameters() if p.ndim != 2 or ".layers." not in n]
    optimisers = [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=8e-3, weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1.0, end_factor=0.1, total_iters=steps)
        for optimiser in optimisers
    ]
    questions = list(tiny_answers())
    groups = [[q for q in questions if (q[2] == "CT") is is_volume] for is_volume in (False, True)]
    for step in range(steps):
        group = [groups[step % 2][index] for index in rng.permutation(len(groups[step % 2]))[:ROWS]]
        images = [rng.integers(0, 256, (IMAGE_PX, IMAGE_PX), dtype=np.uint8) for _ in range(SLICES if step % 2 else 1)]
        features = encode_images(network, processor, images)
        tails, head = [], None
        for order, template, modality, answer in group:
            prompt = processor.prompt(instruction(order, template, modality=modality), features.grid_thw.tolist())
            head_ids, tail = split_prompt(processor, prompt)
            head = SharedHead(input_ids=torch.tensor([head_ids]), features=features)
            tails.append((tail, [*processor.tokenizer.encode(answer, add_special_tokens=False), end]))
        loss = _loss(network, head, tails)
        network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()


def _loss(network, head: SharedHead, tails: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    length = max(len(question) + len(answer) for question, answer in tails)
    head_length = head.input_ids.shape[1]
    ids = torch.zeros((len(tails), head_length + length), dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, (question, answer) in enumerate(tails):
        end = head_length + len(question) + len(answer)
        ids[row, :end] = torch.tensor([*head.input_ids[0].tolist(), *question, *answer])
        labels[row, end - len(answer) : end] = torch.tensor(answer)
        mask[row, :end] = 1
    count = len(tails)
    features = head.features
    return network(
        input_ids=ids,
        attention_mask=mask,
        labels=labels,
        mm_token_type_ids=(ids == network.config.image_token_id).int(),
        image_grid_thw=features.grid_thw.repeat(count, 1),
        mm_encoder_outputs={
            "image": type("Features", (), {"pooler_output": tuple(t.clone() for t in features.tokens) * count})
        },
    ).loss


def write_random_adapter(network, folder: Path, *, seed: int, size: float = 1e-3) -> None:
    """An adapter on all layers of the language model; by default it leaves the answers and changes the logits."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=LANGUAGE_MODEL_TARGETS, bias="none")
    model = with_adapter(network, config, "default")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    model.unload()
