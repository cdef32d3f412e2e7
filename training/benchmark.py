"""Questions per second of our training step and of transformers' Trainer: same network, questions and optimiser.

Our step shows a study once and lays all questions about it behind the images, each blind to the others. The Trainer
gets what its users give it: a row for each question, images and all, filled up to the longest of the batch. Everything
trains, with AdamW and bfloat16 autocast, on the same batches of questions. Studies are drawn, and rows tokenised for
the Trainer, before; timed are packing or collation, forward, backward and the optimiser, from the second step on.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments

from training.bank import Kind
from training.model import MASKED_ATTENTION, ModelConfig, build_network, build_processor, vision_features
from training.packing import IGNORED, Packer, answer_loss
from training.studies import Study, StudyKind, open_kind
from training.tokenizer import train_tokenizer, training_corpus
from training.truth import Question
from umit_pacs.umit_model.processor import END_OF_ANSWER, ImageTextProcessor

#: studies of a step, about as many image tokens in each kind
STUDIES: dict[Kind, int] = {"radiograph": 4, "ct": 1}
_RATE, _DECAY, _BETAS, _CLIP = 1e-3, 0.05, (0.9, 0.98), 1.0
_SEED = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """What one step learns from; the questions of each study in turn."""

    studies: tuple[Study, ...]
    questions: tuple[list[Question], ...]

    @property
    def size(self) -> int:
        return sum(len(asked) for asked in self.questions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What all steps but the first took."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Both ways on the same questions about one kind of study."""

    kind: Kind
    #: questions of the timed steps
    samples: int
    packed: Taken
    trainer: Taken

    @property
    def ratio(self) -> float:
        return self.trainer.wall_s / self.packed.wall_s

    @property
    def cpu_ratio(self) -> float:
        """In time of this process, which others on the machine disturb less."""
        return self.trainer.cpu_s / self.packed.cpu_s


def benchmark(bank: Path, model: ModelConfig, *, steps: int) -> Iterator[Speed]:
    """Radiographs, then CT volumes: so many timed steps of a random network of the run's shape.

    The studies are those of held-out patients, of which there are fewer to load.
    """
    kinds = {name: open_kind(name, "held_out", bank) for name in STUDIES}
    tokenizer = train_tokenizer(training_corpus([kind.examiner for kind in kinds.values()], _SEED), model.vocabulary)
    processor = build_processor(model, tokenizer, max(kind.pixels.width for kind in kinds.values()))
    torch.manual_seed(_SEED)
    network = build_network(model, tokenizer)
    for name, kind in kinds.items():
        rng = np.random.default_rng(_SEED)
        lessons = [draw_lesson(kind, STUDIES[name], rng) for _ in range(steps + 1)]
        packed = time_packed(copy.deepcopy(network), processor, kind, lessons)
        trainer = time_trainer(copy.deepcopy(network), processor, lessons)
        yield Speed(kind=name, samples=sum(each.size for each in lessons[1:]), packed=packed, trainer=trainer)


def draw_lesson(kind: StudyKind, studies: int, rng: np.random.Generator) -> Lesson:
    drawn = tuple(kind.draw(rng) for _ in range(studies))
    return Lesson(studies=drawn, questions=tuple(kind.draw_questions(study.truth, rng) for study in drawn))


# --- our step ----------------------------------------------------------------------------------------------------


def time_packed(
    network: Qwen2VLForConditionalGeneration, processor: ImageTextProcessor, kind: StudyKind, lessons: Sequence[Lesson]
) -> Taken:
    network.model.language_model.config._attn_implementation = MASKED_ATTENTION  # what the packer's masks are made for
    packer = Packer(network, processor, kind.images, kind.pixels.width)
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=_RATE, betas=_BETAS)
    clock = _Clock()
    for lesson in lessons:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = packed_loss(network, packer, lesson)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        optimiser.step()
        clock.tick()
    return clock.taken()


def packed_loss(network: Qwen2VLForConditionalGeneration, packer: Packer, lesson: Lesson) -> Tensor:
    features = vision_features(network, np.concatenate([study.images for study in lesson.studies]))
    features = features.reshape(len(lesson.studies), -1, features.shape[-1])
    loss = answer_loss(network, packer.head, features, packer.pack(list(lesson.questions))).loss
    return loss


# --- transformers' Trainer ---------------------------------------------------------------------------------------


def time_trainer(
    network: Qwen2VLForConditionalGeneration, processor: ImageTextProcessor, lessons: Sequence[Lesson]
) -> Taken:
    """Raises ValueError when the steps have not equally many questions: the Trainer's batches have one size."""
    sizes = {lesson.size for lesson in lessons}
    if len(sizes) > 1:
        raise ValueError(f"steps of {sorted(sizes)} questions")
    network.model.language_model.config._attn_implementation = "sdpa"  # transformers' own choice
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=sizes.pop(),
            max_steps=len(lessons),
            train_sampling_strategy="sequential",
            learning_rate=_RATE,
            weight_decay=_DECAY,
            adam_beta1=_BETAS[0],
            adam_beta2=_BETAS[1],
            max_grad_norm=_CLIP,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            bf16=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        rows = [row for lesson in lessons for row in trainer_rows(processor, lesson)]
        trainer = Trainer(
            model=network,
            args=arguments,
            train_dataset=rows,
            data_collator=Collator(processor.image_token_id),
            callbacks=[_OnStepEnd(clock)],
        )
        trainer.train()
    return clock.taken()


def trainer_rows(processor: ImageTextProcessor, lesson: Lesson) -> Iterator[dict[str, Any]]:
    """A row for each question: pixels, tokens, and labels of the answer with its end mark."""
    end = processor.tokenizer.convert_tokens_to_ids(END_OF_ANSWER)
    for study, questions in zip(lesson.studies, lesson.questions, strict=True):
        pixels = processor.image_inputs(list(study.images))
        for question in questions:
            text = processor.prompt(question.instruction, pixels["image_grid_thw"].tolist())
            prompt = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            answer = [*processor.tokenizer(question.answer, add_special_tokens=False)["input_ids"], end]
            yield {**pixels, "input_ids": [*prompt, *answer], "labels": [IGNORED] * len(prompt) + answer}


@dataclass(frozen=True)
class Collator:
    """Rows side by side, filled up at the right."""

    image_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        token_ids = [torch.tensor(row["input_ids"]) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(token_ids, batch_first=True)
        labels = [torch.tensor(row["labels"]) for row in rows]
        lengths = torch.tensor([len(ids) for ids in token_ids])
        return {
            "input_ids": padded,
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
            "mm_token_type_ids": (padded == self.image_token_id).int(),
            "pixel_values": torch.cat([row["pixel_values"] for row in rows]),
            "image_grid_thw": torch.cat([row["image_grid_thw"] for row in rows]),
        }


class _OnStepEnd(TrainerCallback):
    def __init__(self, clock: _Clock) -> None:
        self._clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.tick()


class _Clock:
    """The end of each step, by the clock and in time of this process."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []

    def tick(self) -> None:
        self._ends.append((time.perf_counter(), time.process_time()))

    def taken(self) -> Taken:
        (wall, cpu), *_, (last_wall, last_cpu) = self._ends
        return Taken(wall_s=last_wall - wall, cpu_s=last_cpu - cpu)
