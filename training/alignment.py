"""Dense supervision of the image tokens: what lies where, asked of every token directly.

The simulator knows it anyway, and it teaches the vision tower far faster than words do. The tower sees each slice of a
volume alone, so each slice is asked for itself, and the language model, which sees all slices, is asked for the whole
(`StudyProbe`). The probes are thrown away after training; the checkpoint does not hold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.truth import Truth
from umit_pacs.vocabulary import SRTemplate

#: Most tokens lie in no box at all, so their mean says little.
COVER_WEIGHT = 3.0
_SIDES = {"left": (1.0, 0.0), "right": (0.0, 1.0), "both": (1.0, 1.0), "none": (1.0, 1.0)}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenGrid:
    """How the image tokens of one image tile its pixels."""

    tokens_xy: tuple[int, int]
    extent: tuple[int, int]

    def low_and_high(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(tokens, axes) corners of each token, in the order of the tokens (x fastest)."""
        edges = [e / t for e, t in zip(self.extent, self.tokens_xy, strict=True)]
        axes = [np.arange(t) * edge for t, edge in zip(self.tokens_xy, edges, strict=True)]
        mesh = np.meshgrid(*reversed(axes), indexing="ij")
        low = np.stack([axis.ravel() for axis in reversed(mesh)], axis=1).astype(np.float32)
        return low, low + np.array(edges, np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseTargets:
    """What is true of each token of N images; F findings, M landmarks."""

    #: (N, tokens, F) share of the token inside a box of the finding
    cover: NDArray[np.float32]
    #: (N, tokens, F) 1 where the middle of a box lies
    middle: NDArray[np.float32]
    #: (N, tokens, F, 4) low and high corner from the token's middle, in tokens; only where `middle`
    corners: NDArray[np.float32]
    #: (N, M) token of each landmark, -1 outside
    landmark_token: NDArray[np.int64]
    #: (N, M, 2) offset from the token's middle, in tokens
    landmark_offset: NDArray[np.float32]
    #: (N, F, 2) left, right
    presence: NDArray[np.float32]


class Probe(nn.Module):
    """One linear layer that reads everything in DenseTargets off the image tokens."""

    def __init__(self, template: SRTemplate, grid: TokenGrid, width: int) -> None:
        super().__init__()
        self.findings = tuple(template.findings)
        self.landmarks = tuple(template.landmarks)
        self.grid = grid
        f, m = len(self.findings), len(self.landmarks)
        self._sizes = [f, f, f * 4, m, m * 2, f * 2, 2]
        low, high = grid.low_and_high()
        #: (tokens, 2) middle of each token, in tokens
        self._places = torch.from_numpy((low + high) / 2 / (high[0] - low[0]))
        self.read = nn.Linear(width, sum(self._sizes))

    def targets(self, truths: list[Truth]) -> DenseTargets:
        """What is true of each token of these images."""
        low, high = self.grid.low_and_high()
        each = [self._targets_of(truth, low, high) for truth in truths]
        stacked: list[NDArray[Any]] = [np.stack(part) for part in zip(*each, strict=True)]
        cover, middle, corners, landmark_token, landmark_offset, presence = stacked
        return DenseTargets(
            cover=cover,
            middle=middle,
            corners=corners,
            landmark_token=landmark_token,
            landmark_offset=landmark_offset,
            presence=presence,
        )

    def _targets_of(
        self, truth: Truth, low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> tuple[NDArray[np.generic], ...]:
        size = high[0] - low[0]
        centre = (low + high) / 2
        f, m = len(self.findings), len(self.landmarks)
        cover, middle = np.zeros((len(low), f), np.float32), np.zeros((len(low), f), np.float32)
        corners = np.zeros((len(low), f, 4), np.float32)
        token, offset = np.full(m, -1, np.int64), np.zeros((m, 2), np.float32)
        presence = np.zeros((f, 2), np.float32)
        for index, name in enumerate(self.findings):
            if name in truth.sides:
                presence[index] = _SIDES[truth.sides[name]]
            for box in reversed(truth.boxes.get(name, ())):  # the largest is written last
                box_low, box_high = np.array(box, np.float32)
                shared = np.clip(np.minimum(high, box_high) - np.maximum(low, box_low), 0, None)
                cover[:, index] = np.maximum(cover[:, index], (shared / size).prod(axis=1))
                nearest = (((box_low + box_high) / 2 - centre) ** 2 / size**2).sum(axis=1).argmin()
                middle[nearest, index] = 1
                corners[nearest, index] = np.concatenate(
                    [(box_low - centre[nearest]) / size, (box_high - centre[nearest]) / size]
                )
        for index, name in enumerate(self.landmarks):
            point = truth.landmarks.get(name)
            if point is not None:
                nearest = (((np.array(point) - centre) / size) ** 2).sum(axis=1).argmin()
                token[index], offset[index] = nearest, (np.array(point) - centre[nearest]) / size
        return cover, middle, corners, token, offset, presence

    def loss(self, features: Tensor, targets: DenseTargets) -> Tensor:
        """features: (N, tokens, width)."""
        parts = self.read(features.float()).split(self._sizes, dim=-1)
        cover, middle, corners, landmarks, offsets, presence, places = parts
        count, tokens, f = cover.shape
        wanted = {name: torch.from_numpy(getattr(targets, name)) for name in DenseTargets.__slots__}
        total = COVER_WEIGHT * F.binary_cross_entropy_with_logits(cover, wanted["cover"])
        rare = torch.tensor(8.0)
        total = total + F.binary_cross_entropy_with_logits(middle, wanted["middle"], pos_weight=rare)
        is_middle = wanted["middle"] > 0
        if is_middle.any():
            read = corners.view(count, tokens, f, 4)[is_middle]
            total = total + F.smooth_l1_loss(read, wanted["corners"][is_middle])
        # A finding is on a side when some token says so: a smooth maximum over the tokens.
        some = torch.logsumexp(presence.view(count, tokens, f, 2), dim=1) - float(np.log(tokens))
        total = total + F.binary_cross_entropy_with_logits(some, wanted["presence"])
        # Attention knows distances alone, and an answer names places: each token is to know its own.
        total = total + F.smooth_l1_loss(places, self._places.expand_as(places))
        if self.landmarks:
            total = total + _landmark_loss(landmarks, offsets, wanted["landmark_token"], wanted["landmark_offset"])
        return total


def _landmark_loss(landmarks: Tensor, offsets: Tensor, wanted_token: Tensor, wanted_offset: Tensor) -> Tensor:
    count, tokens, m = landmarks.shape
    is_inside = wanted_token >= 0
    token = wanted_token[is_inside]
    place = F.cross_entropy(landmarks.transpose(1, 2)[is_inside], token)
    each = offsets.view(count, tokens, m, 2).transpose(1, 2)[is_inside]  # (K, tokens, 2)
    read = each[torch.arange(len(token)), token]
    return 0.3 * place + F.smooth_l1_loss(read, wanted_offset[is_inside])


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTargets:
    """What is true of the image tokens of B volumes as a whole; F findings, tokens slice after slice."""

    #: (B, tokens, F) 1 where a box has just ended: at its middle, in the first slice behind it
    ended: NDArray[np.float32]
    #: (B, tokens, F, 6) low and high corner (x, y, z) from there, in tokens and `SLICES_PER_UNIT`; only where `ended`
    corners: NDArray[np.float32]
    #: (B, F, 2) left, right
    presence: NDArray[np.float32]


#: what is told of the third axis is counted in so many slices: about as much as a token measures in its plane
SLICES_PER_UNIT = 8.0
#: of its tokens one in a thousand ends a box
_ENDED_WEIGHT, _ENDED_BIAS = 0.1, -5.0


class StudyProbe(nn.Module):
    """One linear layer that reads the boxes of a whole volume off its image tokens inside the language model.

    A token there has seen the slices before it, never those behind it: so a box can first be told where it has ended.
    Each token is also to know the number of its slice, of which the vision tower tells it nothing.
    """

    def __init__(self, template: SRTemplate, grid: TokenGrid, slices: int, width: int) -> None:
        super().__init__()
        self.findings = tuple(template.findings)
        self.grid = grid
        self.slices = slices
        f = len(self.findings)
        self._sizes = [f, f * 6, f * 2, 1]
        per_slice = grid.tokens_xy[0] * grid.tokens_xy[1]
        self._depth = (torch.arange(slices) / SLICES_PER_UNIT).repeat_interleave(per_slice)[:, None]
        self.read = nn.Linear(width, sum(self._sizes))
        nn.init.constant_(self.read.bias[:f], _ENDED_BIAS)

    def targets(self, truths: list[Truth]) -> StudyTargets:
        low, high = self.grid.low_and_high()
        centre_xy: NDArray[np.float32] = (low + high) / np.float32(2)
        each = [self._targets_of(truth, centre_xy, high[0] - low[0]) for truth in truths]
        ended, corners, presence = (np.stack(part) for part in zip(*each, strict=True))
        return StudyTargets(ended=ended, corners=corners, presence=presence)

    def _targets_of(
        self, truth: Truth, centre_xy: NDArray[np.float32], size_xy: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        f, per_slice = len(self.findings), len(centre_xy)
        ended = np.zeros((self.slices * per_slice, f), np.float32)
        corners = np.zeros((self.slices * per_slice, f, 6), np.float32)
        presence = np.zeros((f, 2), np.float32)
        size = np.array([*size_xy, SLICES_PER_UNIT], np.float32)
        for index, name in enumerate(self.findings):
            if name in truth.sides:
                presence[index] = _SIDES[truth.sides[name]]
            for box in reversed(truth.boxes.get(name, ())):  # the largest is written last
                low, high = np.array(box, np.float32)
                nearest = int(((((low + high)[:2] / 2 - centre_xy) / size_xy) ** 2).sum(axis=1).argmin())
                behind = min(round(float(high[2])), self.slices - 1)
                here = np.array([*centre_xy[nearest], behind], np.float32)
                token = behind * per_slice + nearest
                ended[token, index] = 1
                corners[token, index] = np.concatenate([(low - here) / size, (high - here) / size])
        return ended, corners, presence

    def loss(self, seen: Tensor, targets: StudyTargets) -> Tensor:
        """seen: (B, tokens, width), the image tokens inside the language model."""
        ended, corners, presence, depth = self.read(seen.float()).split(self._sizes, dim=-1)
        count, tokens, f = ended.shape
        wanted = torch.from_numpy(targets.ended)
        each = F.binary_cross_entropy_with_logits(ended, wanted, pos_weight=torch.tensor(8.0), reduction="none")
        total = _ENDED_WEIGHT * each.sum(dim=1).mean()
        is_ended = wanted > 0
        if is_ended.any():
            read = corners.view(count, tokens, f, 6)[is_ended]
            total = total + F.smooth_l1_loss(read, torch.from_numpy(targets.corners)[is_ended])
        some = torch.logsumexp(presence.view(count, tokens, f, 2), dim=1) - float(np.log(tokens))
        total = total + F.binary_cross_entropy_with_logits(some, torch.from_numpy(targets.presence))
        return total + F.smooth_l1_loss(depth, self._depth.expand_as(depth))
