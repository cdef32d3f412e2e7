"""Several LoRA adapters in one batch: every row is answered with its own.

peft can do this too (`adapter_names`), by gathering the rows of each adapter in every layer anew; where the layers are
small that costs as much as the layers. Here the adapters' matrices are stacked once, those of a batch's rows are picked
when its rows change, and a layer then adds two batched products to what its base layer, quantised or not, gives. A row
gets what it would get from its adapter alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

#: Where one batch's picked matrices would need more, rows of different adapters are not mixed.
_MOST_PICKED_BYTES = 1 << 30


class MixedAdapters:
    """The adapters of one model, chosen row by row while `serving`."""

    def __init__(self, model: PeftModel) -> None:
        layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
        names = sorted({adapter for layer in layers.values() for adapter in layer.lora_A})
        #: the bare base model comes last: matrices of zeros
        self._index = {name: index for index, name in enumerate([*names, ""])}
        self._places = [(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in layers]
        self._peft_layers = list(layers.values())
        self._own_layers = [_MixedLayer(layer, names) for layer in self._peft_layers]

    def may_mix(self, rows: int) -> bool:
        """Whether so many rows of different adapters may stand in one batch."""
        return rows * sum(layer.row_bytes for layer in self._own_layers) <= _MOST_PICKED_BYTES

    def select(self, names: Sequence[str]) -> None:
        """The adapter of each row of the next batch; "" is the base model."""
        rows = [self._index[name] for name in names]
        for layer in self._own_layers:
            layer.select(rows)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer with the selected adapters, whichever of peft's is active."""
        self._put(self._own_layers)
        try:
            yield
        finally:
            self._put(self._peft_layers)
            for layer in self._own_layers:
                layer.select(())

    def _put(self, layers: Sequence[nn.Module]) -> None:
        for (parent, name), layer in zip(self._places, layers, strict=True):
            setattr(parent, name, layer)


class _MixedLayer(nn.Module):
    """One layer with the matrices of all adapters. N: adapters and the base, r: the largest rank, B: rows."""

    def __init__(self, layer: LoraLayer, names: Sequence[str]) -> None:
        super().__init__()
        self.base_layer = layer.base_layer
        ranks = {name: matrix.weight.shape[0] for name, matrix in layer.lora_A.items()}
        of_any = next(iter(ranks))
        inputs, outputs = layer.lora_A[of_any].weight.shape[1], layer.lora_B[of_any].weight.shape[0]
        self._down = layer.lora_A[of_any].weight.new_zeros((len(names) + 1, inputs, max(ranks.values())))  # (N, in, r)
        self._up = layer.lora_B[of_any].weight.new_zeros((len(names) + 1, max(ranks.values()), outputs))  # (N, r, out)
        for index, name in enumerate(names):
            if name in ranks:
                self._down[index, :, : ranks[name]] = layer.lora_A[name].weight.T
                self._up[index, : ranks[name]] = layer.lora_B[name].weight.T * layer.scaling[name]
        self.select(())

    @property
    def row_bytes(self) -> int:
        return int(self._down[0].nbytes + self._up[0].nbytes)

    def select(self, rows: Sequence[int]) -> None:
        if len(set(rows)) == 1:
            self._rows_down = self._down[rows[0]].expand(len(rows), -1, -1)
            self._rows_up = self._up[rows[0]].expand(len(rows), -1, -1)
        else:
            self._rows_down, self._rows_up = self._down[list(rows)], self._up[list(rows)]

    def forward(self, values: Tensor) -> Tensor:
        """values: (B, L, in); returns (B, L, out)."""
        output: Tensor = self.base_layer(values)
        between = torch.bmm(values.to(self._rows_down.dtype), self._rows_down)  # (B, L, r)
        return torch.baddbmm(output.to(between.dtype), between, self._rows_up).to(output.dtype)
