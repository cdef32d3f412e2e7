"""Training that goes on from the weights of an earlier checkpoint, whose tokens may be others."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer, Qwen2VLForConditionalGeneration

from umit_pacs.umit_model.checkpoint import BASE_FOLDER


def start_from(network: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, checkpoint: Path) -> None:
    """Copy the base weights of a checkpoint folder into `network`; embeddings follow the texts of their tokens.

    A token that the checkpoint does not know keeps its random embedding. Raises ValueError when the shapes differ.
    """
    base = checkpoint / BASE_FOLDER
    earlier = Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    known = Qwen2Tokenizer.from_pretrained(base).get_vocab()
    embedding = network.get_input_embeddings().weight.detach().clone()
    for text, index in tokenizer.get_vocab().items():
        if text in known:
            embedding[index] = earlier.get_input_embeddings().weight[known[text]]
    # Resized, both have tables of one size; output and input embeddings are tied.
    earlier.resize_token_embeddings(len(embedding), mean_resizing=False)
    earlier.get_input_embeddings().weight.data.copy_(embedding)
    try:
        network.load_state_dict(earlier.state_dict())
    except RuntimeError as exc:
        raise ValueError(f"{checkpoint} has other shapes than this run") from exc
