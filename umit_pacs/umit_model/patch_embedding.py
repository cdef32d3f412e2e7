"""The vision tower's patch embedding as the matrix product that it is.

Its kernel and its stride are both one patch, so the convolution multiplies each patch once with one matrix; as a
convolution it takes many times as long on the CPU, in low precision above all.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PatchProduct(nn.Module):
    """A Conv3d with kernel = stride, whose parameters it shares, on patches that stand apart already."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, patches: Tensor) -> Tensor:
        """patches: (P, channels, time, height, width), each the size of the kernel; returns (P, embedding, 1, 1, 1)."""
        product = functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return product[..., None, None, None]


def use_patch_product(visual: nn.Module) -> None:
    """Let a Qwen vision tower embed its patches by a matrix product; other towers stay as they are."""
    embedding = getattr(visual, "patch_embed", None)
    convolution = getattr(embedding, "proj", None)
    if embedding is not None and isinstance(convolution, nn.Conv3d) and convolution.kernel_size == convolution.stride:
        embedding.proj = PatchProduct(convolution)
