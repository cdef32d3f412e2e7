"""A byte-level BPE tokenizer like Qwen's, trained on what the checkpoint will read and write.

Every digit is a token of its own, so that numbers are read and written digit by digit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer

from training.truth import Examiner, Measure, Truth
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.processor import END_OF_ANSWER, PADDING, SPECIAL_TOKENS
from umit_pacs.vocabulary import Side

#: Qwen's own splitting of text into words
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def training_corpus(examiners: Iterable[Examiner], seed: int, rounds: int = 60) -> list[str]:
    """Every kind of instruction and answer, with all findings and sides, and the words of the chat itself."""
    rng = np.random.default_rng(seed)
    texts = ["system\nYou are a helpful assistant.", "user\n", "assistant\n", "\n"] * rounds
    for examiner in examiners:
        for _ in range(rounds):
            truth = _any_truth(examiner, rng)
            for task in Task:
                for language in Language:
                    for question in examiner.questions_of(task, truth, rng, language):
                        texts += [question.instruction, question.answer]
    return texts


def _any_truth(examiner: Examiner, rng: np.random.Generator) -> Truth:
    axes = len(examiner.frame.size_xy_z) or 2
    findings = [key for key in examiner.template.findings if rng.random() < 0.5]
    any_side: list[Side] = ["left", "right", "both"]
    sides: dict[str, Side] = {
        key: any_side[rng.integers(3)] if examiner.template.findings[key].has_side else "none" for key in findings
    }
    box = (tuple(rng.uniform(0, 0.5, axes).tolist()), tuple(rng.uniform(0.5, 1, axes).tolist()))
    return Truth(
        template=examiner.template.key,
        modality=examiner.template.modalities[0],
        extent=(1,) * axes,
        boxes=dict.fromkeys(findings, (box,)),
        sides=sides,
        landmarks={key: (float(rng.random()), float(rng.random())) for key in examiner.template.landmarks},
        measures=tuple(
            Measure(
                finding=key,
                longest_mm=rng.uniform(5, 99),
                volume_ml=rng.uniform(0, 99),
                suv_max=rng.uniform(2, 30),
                suv_peak=rng.uniform(2, 30),
                metabolic_volume_ml=rng.uniform(0, 99),
            )
            for key in findings
            if key in examiner.located
        ),
    )


def train_tokenizer(corpus: Iterable[str], vocabulary: int) -> Qwen2Tokenizer:
    """At most `vocabulary` tokens beside the special ones."""
    trainee = Tokenizer(BPE())
    trainee.normalizer = normalizers.NFC()
    trainee.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainee.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain = (_without_special_tokens(text) for text in corpus)
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False, initial_alphabet=alphabet)
    trainee.train_from_iterator(plain, trainer)
    learned = json.loads(trainee.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token=None,
        eos_token=END_OF_ANSWER,
        pad_token=PADDING,
        padding_side="left",
        model_max_length=32768,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (END_OF_ANSWER, PADDING)],
    )


def _without_special_tokens(text: str) -> str:
    for token in SPECIAL_TOKENS:
        text = text.replace(token, "\n")
    return text
