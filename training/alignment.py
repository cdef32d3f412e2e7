"""Dense supervision of the image tokens: what lies where, asked of every token directly.

The simulator knows it anyway, and it teaches the vision tower far faster than words do. The tower sees each slice of a
volume alone, so each slice is asked for itself, and the language model is asked for the study as a whole
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

from training.truth import Examiner, Truth
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
    """What is true of the image tokens of B studies as a whole; F findings, A axes, tokens slice after slice."""

    #: (B, tokens, F) 1 where a box has just ended: at its middle, of a volume in the first slice behind it
    ended: NDArray[np.float32]
    #: (B, tokens, F, 2 A) low and high corner (x, y[, z]) from there, in tokens and `SLICES_PER_UNIT`; where `ended`
    corners: NDArray[np.float32]
    #: (B, F, 2) left, right
    presence: NDArray[np.float32]
    #: (B, tokens, 2 A, `DIGITS`) characters of the box's numbers as an answer writes them, where one box has ended
    box_digits: NDArray[np.int64]
    #: (B, tokens, 2, `DIGITS`) of the one landmark that lies there
    point_digits: NDArray[np.int64]


#: what is told of the third axis is counted in so many slices: about as much as a token measures in its plane
SLICES_PER_UNIT = 8.0
#: of its tokens one in a thousand ends a box
_ENDED_WEIGHT, _ENDED_BIAS = 0.1, -5.0
#: of a number so many characters are asked for; each is a digit or the number's end
DIGITS, _CHARACTERS, _END = 3, 11, 10
#: nobody asks
_UNASKED = -1
_DIGITS_WEIGHT = 0.3


class StudyProbe(nn.Module):
    """One linear layer that reads what a whole study shows off its image tokens inside the language model.

    A token of a volume has seen the slices before it, never those behind it: so a box can first be told where it has
    ended. Each token is also to know the number of its slice, of which the vision tower tells it nothing. And it is
    asked for the very digits of the answer, which then has but to copy them: from answers alone a small language model
    learns the first digit of a coordinate and guesses the others.
    """

    def __init__(self, examiner: Examiner, grid: TokenGrid, slices: int, width: int) -> None:
        super().__init__()
        self.findings = tuple(examiner.template.findings)
        self.landmarks = tuple(examiner.template.landmarks)
        self.frame = examiner.frame
        self.grid = grid
        self.slices = slices
        #: tokens and slices along x, y[, z] in what corners are told
        self._unit = np.array([e / t for e, t in zip(grid.extent, grid.tokens_xy, strict=True)], np.float32)
        if slices > 1:
            self._unit = np.append(self._unit, np.float32(SLICES_PER_UNIT))
        f, axes = len(self.findings), len(self._unit)
        self._sizes = [f, f * 2 * axes, f * 2, 1, 2 * axes * DIGITS * _CHARACTERS, 2 * DIGITS * _CHARACTERS]
        per_slice = grid.tokens_xy[0] * grid.tokens_xy[1]
        self._depth = (torch.arange(slices) / SLICES_PER_UNIT).repeat_interleave(per_slice)[:, None]
        self.read = nn.Linear(width, sum(self._sizes))
        nn.init.constant_(self.read.bias[:f], _ENDED_BIAS)

    def targets(self, truths: list[Truth]) -> StudyTargets:
        """What these studies are asked for."""
        f, axes, count = len(self.findings), len(self._unit), (len(truths), len(self._depth))
        targets = StudyTargets(
            ended=np.zeros((*count, f), np.float32),
            corners=np.zeros((*count, f, 2 * axes), np.float32),
            presence=np.zeros((len(truths), f, 2), np.float32),
            box_digits=np.full((*count, 2 * axes, DIGITS), _UNASKED),
            point_digits=np.full((*count, 2, DIGITS), _UNASKED),
        )
        for study, truth in enumerate(truths):
            self._write_boxes(targets, study, truth)
            self._write_landmarks(targets, study, truth)
        return targets

    def _write_boxes(self, targets: StudyTargets, study: int, truth: Truth) -> None:
        for index, name in enumerate(self.findings):
            if name in truth.sides:
                targets.presence[study, index] = _SIDES[truth.sides[name]]
            for box in reversed(truth.boxes.get(name, ())):  # the largest is written last
                low, high = np.array(box, np.float32)
                token, here = self._nearest((low + high) / 2, behind=high[2] if len(high) > 2 else 0.0)
                is_alone = not targets.ended[study, token].any()
                targets.ended[study, token, index] = 1
                targets.corners[study, token, index] = [*(low - here) / self._unit, *(high - here) / self._unit]
                written = [value for corner in self.frame.box_from_pixels(box, truth.extent) for value in corner]
                targets.box_digits[study, token] = [_characters(value) for value in written] if is_alone else _UNASKED

    def _write_landmarks(self, targets: StudyTargets, study: int, truth: Truth) -> None:
        for name in self.landmarks:
            point = truth.landmarks.get(name)
            if point is not None:
                token, _ = self._nearest(np.array(point, np.float32))
                is_alone = (targets.point_digits[study, token] == _UNASKED).all()
                written = self.frame.point_from_pixels(point, truth.extent)
                targets.point_digits[study, token] = [_characters(value) for value in written] if is_alone else _UNASKED

    def _nearest(self, place: NDArray[np.float32], behind: float = 0.0) -> tuple[int, NDArray[np.float32]]:
        """The token whose middle is nearest in the slice `behind`, and where it is (x, y[, z])."""
        low, high = self.grid.low_and_high()
        middles = (low + high) / 2
        nearest = int((((place[:2] - middles) / self._unit[:2]) ** 2).sum(axis=1).argmin())
        index = min(round(behind), self.slices - 1)
        here = np.array([*middles[nearest], index], np.float32)[: len(self._unit)]
        return index * len(middles) + nearest, here

    def loss(self, seen: Tensor, targets: StudyTargets) -> Tensor:
        """seen: (B, tokens, width), the image tokens inside the language model."""
        ended, corners, presence, depth, box_digits, point_digits = self.read(seen.float()).split(self._sizes, dim=-1)
        count, tokens, f = ended.shape
        wanted = torch.from_numpy(targets.ended)
        each = F.binary_cross_entropy_with_logits(ended, wanted, pos_weight=torch.tensor(8.0), reduction="none")
        total = _ENDED_WEIGHT * each.sum(dim=1).mean()
        is_ended = wanted > 0
        if is_ended.any():
            read = corners.view(count, tokens, f, -1)[is_ended]
            total = total + F.smooth_l1_loss(read, torch.from_numpy(targets.corners)[is_ended])
        some = torch.logsumexp(presence.view(count, tokens, f, 2), dim=1) - float(np.log(tokens))
        total = total + F.binary_cross_entropy_with_logits(some, torch.from_numpy(targets.presence))
        total = total + F.smooth_l1_loss(depth, self._depth.expand_as(depth))
        for read, digits in ((box_digits, targets.box_digits), (point_digits, targets.point_digits)):
            total = total + _DIGITS_WEIGHT * _digits_loss(read, torch.from_numpy(digits))
        return total


def _characters(value: int) -> list[int]:
    """The first characters of a number, its end, and nothing behind it."""
    digits = [int(digit) for digit in str(value)]
    return [*digits, _END, *[_UNASKED] * DIGITS][:DIGITS]


def _digits_loss(read: Tensor, wanted: Tensor) -> Tensor:
    """read: (B, tokens, numbers * `DIGITS` * characters), wanted: (B, tokens, numbers, `DIGITS`)."""
    is_asked = wanted != _UNASKED
    if not is_asked.any():
        return read.new_zeros(())
    return F.cross_entropy(read.view(*wanted.shape, _CHARACTERS)[is_asked], wanted[is_asked])
