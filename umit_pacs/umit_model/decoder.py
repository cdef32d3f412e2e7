"""The language model step by step, without what transformers' `forward` does anew for every token.

The layers are transformers' (and peft's) own; around them the keys and values are written in place into buffers that
hold the whole answer, and masks and rotary positions are made once per batch. Measured on the CPU with a small model,
copying the cache and building masks took a third of each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from umit_pacs.umit_model.families import Network


class KeyValueBuffers:
    """Keys and values of all layers, in place. B: rows, T: columns, filled from the left.

    Attention layers call `update` as they would transformers' cache.
    """

    def __init__(self, network: Network, *, rows: int, columns: int) -> None:
        config = network.config.text_config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (rows, config.num_key_value_heads, columns, head_dim)
        weight = network.get_input_embeddings().weight
        # Zeros, since a column that a mask hides still must not hold NaN.
        self.keys = [weight.new_zeros(shape) for _ in range(config.num_hidden_layers)]  # (B, heads, T, D)
        self.values = [weight.new_zeros(shape) for _ in range(config.num_hidden_layers)]
        self.filled = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write the next columns of one layer; returns all its columns so far."""
        end = self.filled + keys.shape[2]
        self.keys[layer][:, :, self.filled : end] = keys
        self.values[layer][:, :, self.filled : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def copy_heads(self, source: KeyValueBuffers, *, source_rows: Sequence[int], rows: Sequence[int], end: int) -> None:
        """Copy what `source` holds into `rows`, so that it stops before column `end`."""
        taken, placed = list(source_rows), list(rows)
        for own, other in ((self.keys, source.keys), (self.values, source.values)):
            for ours, theirs in zip(own, other, strict=True):
                ours[placed, :, end - source.filled : end] = theirs[taken, :, : source.filled]

    def keep(self, rows: Tensor) -> None:
        """Only these rows stay."""
        self.keys = [keys.index_select(0, rows) for keys in self.keys]
        self.values = [values.index_select(0, rows) for values in self.values]


class Decoder:
    """The language model of one network on rows whose positions and masks are known."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._language_model = network.model.language_model

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (3, B, L, D) of positions (3, B, L)."""
        rotary: tuple[Tensor, Tensor] = self._language_model.rotary_emb(self._weight, positions)
        return rotary

    def embed(self, ids: Tensor, image_tokens: Sequence[Tensor] = ()) -> Tensor:
        """(B, L, hidden) of ids (B, L), image tokens replaced, in order, by vision features (tokens, hidden)."""
        embedded: Tensor = self._network.get_input_embeddings()(ids)
        if image_tokens:
            features = torch.cat(list(image_tokens)).to(embedded)
            embedded[self.is_image(ids)] = features
        return embedded

    def is_image(self, ids: Tensor) -> Tensor:
        """(B, L) which ids stand for a part of an image."""
        found: Tensor = ids == self._network.config.image_token_id
        return found

    def step(self, embedded: Tensor, buffers: KeyValueBuffers, rotary: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """One pass over (B, L, hidden); returns (B, V) scores of what follows the last column.

        mask: (B, 1, L, T) added to the attention scores.
        """
        hidden = self._layers(embedded, buffers, rotary, mask)
        scores: Tensor = self._network.lm_head(self._language_model.norm(hidden[:, -1]))
        return scores

    def read(
        self,
        embedded: Tensor,
        buffers: KeyValueBuffers,
        rotary: tuple[Tensor, Tensor],
        *,
        is_image: Tensor | None = None,
        deeper: Sequence[Tensor] = (),
    ) -> None:
        """One causal pass over (B, L, hidden) for its keys and values alone.

        deeper: per image (D, tokens, hidden), in order, added to what the first D layers say where `is_image` (B, L).
        """
        added = torch.cat(list(deeper), dim=1).to(embedded) if deeper else ()  # (D, tokens, hidden)
        self._layers(embedded, buffers, rotary, None, is_image=is_image, added=added)

    def _layers(
        self,
        hidden: Tensor,
        buffers: KeyValueBuffers,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        *,
        is_image: Tensor | None = None,
        added: Sequence[Tensor] | Tensor = (),
    ) -> Tensor:
        """(B, 1, hidden) of the last column, which is never a part of an image."""
        columns = hidden.shape[1]
        *layers, last = self._language_model.layers
        around = {
            "attention_mask": mask,
            "position_embeddings": rotary,
            "past_key_values": buffers,
            "use_cache": True,
        }
        for index, layer in enumerate(layers):
            hidden = layer(hidden, **around)
            if index < len(added):
                hidden[is_image] += added[index]
        # The last layer's keys and values are wanted of every column, what follows from them of the last alone.
        attended, _ = last.self_attn(hidden_states=last.input_layernorm(hidden), **around)
        hidden = hidden[:, -1:] + attended[:, -1:]
        buffers.filled += columns
        result: Tensor = hidden + last.mlp(last.post_attention_layernorm(hidden))
        return result

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = self._network.get_input_embeddings().weight
        return weight
