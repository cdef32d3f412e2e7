"""Images and text as the model takes them, without torchvision.

transformers' own Qwen2VLProcessor cannot be built without its video processor, which needs torchvision, and
AutoProcessor silently gives a bare tokenizer for a folder that it does not understand. So the two parts are put
together here, explicitly, from files of the checkpoint's folder alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import Qwen2Tokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from umit_pacs.errors import CheckpointInvalid

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
END_OF_ANSWER, PADDING = "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = (
    PADDING,
    "<|im_start|>",
    END_OF_ANSWER,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    IMAGE_TOKEN,
    VIDEO_TOKEN,
)

#: Qwen2-VL's chat template for one system line and messages of images and text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ImageTextProcessor(Qwen2VLProcessor):
    """PIL image processor and tokenizer as one; transformers reads the parts' names from this signature."""

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: Qwen2Tokenizer,
        chat_template: str | None = None,
    ) -> None:
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @property
    def block_px(self) -> int:
        """Edge of the square that becomes one token; widths and heights that are multiples of it are not resized."""
        return int(self.image_processor.patch_size * self.image_processor.merge_size)

    def image_inputs(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """`pixel_values` and `image_grid_thw` (torch) of grey (H, W) or RGB (H, W, 3) arrays."""
        pictures = [Image.fromarray(np.ascontiguousarray(image)).convert("RGB") for image in images]
        inputs = self.image_processor(images=pictures, return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}

    def resized_xy(self, grid_thw: Sequence[int]) -> tuple[int, int]:
        """(width, height) in pixels of the image after the processor, from its grid of patches."""
        patch = int(self.image_processor.patch_size)
        return int(grid_thw[2]) * patch, int(grid_thw[1]) * patch

    def prompt(self, instruction: str, grids_thw: Sequence[Sequence[int]]) -> str:
        """The whole prompt up to the answer: all images first, then the instruction.

        grids_thw: one grid per image (`image_grid_thw`); each image stands as that many image tokens.
        """
        content = [{"type": "image"} for _ in grids_thw] + [{"type": "text", "text": instruction}]
        text = self.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        merged = int(self.image_processor.merge_size) ** 2
        head, *rest = text.split(IMAGE_TOKEN)
        if len(rest) != len(grids_thw):
            raise CheckpointInvalid("the chat template does not show each image once")
        for grid, part in zip(grids_thw, rest, strict=True):
            count = int(np.prod([int(edge) for edge in grid])) // merged
            head += IMAGE_TOKEN * count + part
        return head


def load_processor(folder: Path) -> ImageTextProcessor:
    """The processor of a base folder: preprocessor_config.json, tokenizer.json and chat_template.jinja.

    Raises CheckpointInvalid when a part is missing or a special token is not one token.
    """
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as exc:
        raise CheckpointInvalid(f"{folder}: {exc}") from exc
    template = folder / "chat_template.jinja"
    processor = ImageTextProcessor(
        image_processor,
        tokenizer,
        chat_template=template.read_text(encoding="utf-8") if template.exists() else CHAT_TEMPLATE,
    )
    for token in (IMAGE_TOKEN, "<|im_start|>", END_OF_ANSWER, "<|box_start|>", "<|box_end|>", PADDING):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise CheckpointInvalid(f"{folder}: {token} is not one token of the tokenizer")
    return processor
