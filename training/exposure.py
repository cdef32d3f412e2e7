"""Takes the picture: a patient of the bank with some findings becomes a chest radiograph as a detector would give it.

What differs between hospitals is drawn wide: field of view, turn, tube voltage, scatter, dose, processing, collimation
and markers. A third of the studies have devices (`training.devices`). The truth moves with the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.chest_radiographs import (
    GRID_SPACING_ZYX_MM,
    WATER_PER_MM,
    ProjectedFinding,
    ProjectedPatient,
    Side,
    detector_contrast,
)
from training.devices import Chest, draw_devices
from training.truth import Truth, side_of
from training.warping import Grid
from umit_pacs.umit_model.coordinate_frames import Box

PIXEL_MM = GRID_SPACING_ZYX_MM[2]
#: Between these ratios nobody agrees whether a heart is enlarged; such patients are left out.
UNCLEAR_RATIO = (0.49, 0.515)
#: change of the detector's logarithm that the middle of a nodule makes at least, and the direct beam's share there
NODULE_CONTRAST, NODULE_DIRECT_SHARE = 0.12, 0.62
#: how likely each finding is on each side of a patient who has any
PREVALENCE = {"pleural_effusion": 0.24, "pneumothorax": 0.16, "consolidation": 0.2}
#: how many nodules there are where there are any, and how likely
NODULE_COUNTS, NODULE_ODDS = (1, 2, 3, 4, 8, 14), (0.5, 0.18, 0.1, 0.08, 0.08, 0.06)
SIDES: tuple[Side, ...] = ("right", "left")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Nodule:
    """A ball in the lung, seen from the front."""

    centre_xy: tuple[float, float]
    radius_px: float
    side: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """The detector's place over the bank's picture: to_bank leads (x, y, 1) of the image to (x, y) of the bank."""

    width: int
    height: int
    to_bank: NDArray[np.float64]

    def to_image(self, points_xy: Grid) -> Grid:
        matrix = np.linalg.inv(np.vstack([self.to_bank, [0, 0, 1]]))
        return (points_xy @ matrix[:2, :2].T + matrix[:2, 2]).astype(np.float32)


def take_radiograph(
    patient: ProjectedPatient,
    rng: np.random.Generator,
    *,
    edge_px: int = 224,
    findings: frozenset[str] | None = None,
) -> tuple[Grid, Truth]:
    """Draw findings and a technique.

    findings: keys of what is to be there, as far as the patient has room for it; None: drawn. The heart is as it is.
    Returns float32 values (H, W) as a detector stores them (bright = dense), longest edge `edge_px`, and the truth in
    pixels of it.
    """
    chosen, nodules = _draw_findings(patient, rng) if findings is None else _place_findings(patient, findings, rng)
    integral = patient.soft.astype(np.float32) + patient.bone * np.float32(rng.uniform(0.6, 2.6))
    for finding in chosen:
        integral += finding.delta
    for nodule in nodules:
        _add_nodule(integral, nodule, rng)
    view = _draw_view(patient, rng, edge_px)
    truth = _truth(patient, chosen, nodules, view)
    seen = _resample(integral, view)
    devices = draw_devices(_chest(patient, view), rng.spawn(1)[0])
    if devices is not None:
        seen = seen + torch.from_numpy(devices)
    return _mark(_expose(seen, rng), rng), truth


def _chest(patient: ProjectedPatient, view: _View) -> Chest:
    """Where devices lie: also outside the picture."""
    points = view.to_image(np.array([*patient.landmarks_xy.values()], np.float32)).tolist()
    landmarks = {name: (x, y) for name, (x, y) in zip(patient.landmarks_xy, points, strict=True)}
    pixel_mm = PIXEL_MM * float(np.sqrt(abs(np.linalg.det(view.to_bank[:, :2]))))
    return Chest(width=view.width, height=view.height, pixel_mm=pixel_mm, landmarks=landmarks)


def is_heart_enlarged(patient: ProjectedPatient) -> bool:
    return patient.cardiothoracic_ratio > 0.5


def is_heart_clear(patient: ProjectedPatient) -> bool:
    """Whether the heart's size is not on the border."""
    return not UNCLEAR_RATIO[0] < patient.cardiothoracic_ratio < UNCLEAR_RATIO[1]


def _draw_findings(patient: ProjectedPatient, rng: np.random.Generator) -> tuple[list[ProjectedFinding], list[_Nodule]]:
    if rng.random() < 0.3:
        return [], []
    chosen: list[ProjectedFinding] = []
    for side in ("right", "left"):
        taken: set[str] = set()
        for name, probability in PREVALENCE.items():
            variants = [f for f in patient.findings if f.finding == name and f.side == side]
            # Fluid and air on one side would share the same room.
            is_excluded = name == "pneumothorax" and "pleural_effusion" in taken
            if variants and not is_excluded and rng.random() < probability:
                taken.add(name)
                chosen.append(variants[rng.integers(len(variants))])
    nodules: list[_Nodule] = []
    if rng.random() < 0.42:
        nodules = _draw_nodules(patient, chosen, int(rng.choice(NODULE_COUNTS, p=NODULE_ODDS)), rng)
    return chosen, nodules


def _place_findings(
    patient: ProjectedPatient, findings: frozenset[str], rng: np.random.Generator
) -> tuple[list[ProjectedFinding], list[_Nodule]]:
    """Each of the findings on one side or on both, as often on both as when sides are drawn apart."""
    sides = {name: _drawn_sides(odds, rng) for name, odds in PREVALENCE.items() if name in findings}
    if {"pleural_effusion", "pneumothorax"} <= sides.keys():
        # Fluid and air on one side would share the same room.
        one, other = rng.permutation(len(SIDES))
        sides |= {"pleural_effusion": [SIDES[one]], "pneumothorax": [SIDES[other]]}
    chosen: list[ProjectedFinding] = []
    for name, of in sides.items():
        for side in of:
            variants = [each for each in patient.findings if (each.finding, each.side) == (name, side)]
            chosen += [variants[rng.integers(len(variants))]] if variants else []
    if "nodule" not in findings:
        return chosen, []
    return chosen, _draw_nodules(patient, chosen, int(rng.choice(NODULE_COUNTS, p=NODULE_ODDS)), rng)


def _drawn_sides(odds: float, rng: np.random.Generator) -> list[Side]:
    """The sides that something has which is on each with these odds, and at least on one."""
    both = odds / (2 - odds)
    return [*SIDES] if rng.random() < both else [SIDES[rng.integers(len(SIDES))]]


def _draw_nodules(
    patient: ProjectedPatient, chosen: list[ProjectedFinding], count: int, rng: np.random.Generator
) -> list[_Nodule]:
    """Nodules where lung lies in the beam, nothing else covers them, and their middle is seen."""
    covered = sum((np.abs(f.delta) > 0.2 for f in chosen), np.zeros(patient.soft.shape, bool))
    integral = patient.soft.astype(np.float32) + patient.bone * np.float32(1.5)
    nodules = []
    typical = rng.uniform(4.5, 14) if count < 5 else rng.uniform(4, 9)
    for _ in range(count):
        radius = float(np.clip(typical * rng.uniform(0.75, 1.3), 4, 16))
        index = int(rng.integers(2))
        chord = np.full_like(integral, 2 * radius * PIXEL_MM * WATER_PER_MM * 0.8)
        contrast, direct_share = detector_contrast(integral, chord)
        is_seen = (contrast > NODULE_CONTRAST) & (direct_share > NODULE_DIRECT_SHARE)
        room = np.argwhere((patient.lung_mm[index] > max(2.4 * radius * PIXEL_MM, 55)) & ~covered & is_seen)
        if len(room):
            row, column = room[rng.integers(len(room))]
            side = ("right", "left")[index]
            nodules.append(_Nodule(centre_xy=(column + 0.5, row + 0.5), radius_px=radius, side=side))
    return nodules


def _add_nodule(integral: Grid, nodule: _Nodule, rng: np.random.Generator) -> None:
    """The chord through an uneven ball of soft tissue that stands where lung was."""
    x0, y0 = nodule.centre_xy
    y, x = np.ogrid[: integral.shape[0], : integral.shape[1]]
    dx, dy = x + 0.5 - x0, y + 0.5 - y0
    lobulation = 1 + 0.08 * np.sin(rng.integers(2, 6) * np.arctan2(dy, dx) + rng.uniform(0, 6))
    square = (dx**2 + dy**2) / (nodule.radius_px * lobulation) ** 2
    chord_mm = 2 * nodule.radius_px * PIXEL_MM * np.sqrt(np.clip(1 - square, 0, None))
    integral += (chord_mm * WATER_PER_MM * rng.uniform(0.7, 0.95)).astype(np.float32)


def _draw_view(patient: ProjectedPatient, rng: np.random.Generator, edge_px: int) -> _View:
    """A field of view around the lungs, with margins and a turn of its own."""
    rows, columns = np.nonzero(patient.lung_mm.max(axis=0) > 8)
    left, right = columns.min() - rng.uniform(-2, 28), columns.max() + 1 + rng.uniform(-2, 28)
    top, bottom = rows.min() - rng.uniform(-2, 32), rows.max() + 1 + rng.uniform(0, 45)
    scale = max(right - left, bottom - top) / edge_px  # bank pixels per image pixel
    stretch = rng.uniform(0.96, 1.04)
    width, height = round((right - left) / scale), round((bottom - top) / scale)
    angle = np.deg2rad(rng.normal(0, 2.5))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale * [stretch, 1]
    centre = np.array([(left + right) / 2, (top + bottom) / 2]) - turn @ [width / 2, height / 2]
    return _View(width=width, height=height, to_bank=np.column_stack([turn, centre]))


def _resample(integral: Grid, view: _View) -> torch.Tensor:
    x, y = np.meshgrid(np.arange(view.width) + 0.5, np.arange(view.height) + 0.5)
    points = np.stack([x, y, np.ones_like(x)], axis=-1) @ view.to_bank.T
    unit = points / np.array([integral.shape[1], integral.shape[0]]) * 2 - 1
    grid = torch.from_numpy(unit.astype(np.float32))[None]
    source = torch.from_numpy(integral)[None, None]
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)  # (1, 1, H, W)


def _expose(integral: torch.Tensor, rng: np.random.Generator) -> Grid:
    """Scatter, quantum noise, logarithm and the unsharp masking and tone curve of a vendor."""
    intensity = torch.exp(-integral)
    fraction = rng.uniform(0.1, 0.45)
    scattered = _blur(intensity, 12) * fraction + intensity * (1 - fraction) + rng.uniform(0.001, 0.012)
    noise = torch.from_numpy(rng.standard_normal(tuple(intensity.shape), dtype=np.float32))
    dose = 10 ** rng.uniform(3.6, 5.5)
    values = -torch.log((scattered + noise * torch.sqrt(scattered / dose)).clamp(min=1e-4))
    values = values - rng.choice([0.0, rng.uniform(0.1, 0.75)]) * _blur(values, int(rng.integers(8, 28)))
    values = values + rng.choice([0.0, rng.uniform(0.2, 2.5)]) * (values - _blur(values, 3))
    if rng.random() < 0.2:
        values = F.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)
    low, high = (float(value) for value in np.percentile(values.numpy(), (0.2, 99.8)))
    unit = ((values - low) / (high - low)).clamp(0, 1)
    if rng.random() < 0.5:
        unit = unit ** float(np.exp(rng.uniform(-0.6, 0.6)))
    else:  # a vendor's S curve
        steepness, middle = rng.uniform(2, 7), rng.uniform(0.35, 0.65)
        unit = torch.sigmoid((unit - middle) * steepness)
    picture: Grid = unit[0, 0].numpy()
    return picture


def _blur(values: torch.Tensor, radius: int) -> torch.Tensor:
    """A wide blur by shrinking and growing again."""
    height, width = values.shape[-2:]
    size = (max(2, height // radius), max(2, width // radius))
    small = F.interpolate(values, size=size, mode="area")
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)


def _mark(picture: Grid, rng: np.random.Generator) -> Grid:
    """Collimator shadows and a side letter, as many films have."""
    height, width = picture.shape
    span = float(picture.max() - picture.min())
    if rng.random() < 0.25:
        depths = rng.integers(0, 12, size=4) * (rng.random(4) < 0.6)
        shade = float(picture.min() if rng.random() < 0.75 else picture.max())
        for region in (
            picture[: depths[0]],
            picture[height - depths[1] :],
            picture[:, : depths[2]],
            picture[:, width - depths[3] :],
        ):
            region[:] = shade
    if rng.random() < 0.35:
        is_left = rng.random() < 0.5
        x = rng.uniform(0.82, 0.94) if is_left else rng.uniform(0.03, 0.12)
        layer = Image.fromarray(np.zeros(picture.shape, np.uint8))
        position = (x * width, rng.uniform(0.02, 0.2) * height)
        ImageDraw.Draw(layer).text(position, "L" if is_left else "R", fill=255, font_size=rng.uniform(8, 18))
        letter = np.asarray(layer, np.float32) / 255
        picture = (picture + letter * np.float32(span * rng.uniform(0.5, 1))).astype(np.float32)
    return picture


def _truth(patient: ProjectedPatient, chosen: list[ProjectedFinding], nodules: list[_Nodule], view: _View) -> Truth:
    found: list[tuple[str, str, Box | None]] = [
        (finding.finding, finding.side, _box(view.to_image(finding.outline_xy), view)) for finding in chosen
    ]
    scale = float(np.sqrt(abs(np.linalg.det(view.to_bank[:, :2]))))
    for nodule in nodules:
        centre = view.to_image(np.array([nodule.centre_xy], np.float32))[0]
        radius = nodule.radius_px / scale
        found.append(("nodule", nodule.side, _box(np.stack([centre - radius, centre + radius]), view)))
    if is_heart_enlarged(patient):
        found.append(("cardiomegaly", "", _box(view.to_image(patient.heart_outline_xy), view)))
    boxes: dict[str, list[Box]] = {}
    sides: dict[str, set[str]] = {}
    for name, side, box in found:
        if box is not None:
            boxes.setdefault(name, []).append(box)
            sides.setdefault(name, set()).add(side)
    landmarks = {}
    for name, point in patient.landmarks_xy.items():
        x, y = map(float, view.to_image(np.array([point], np.float32))[0])
        landmarks[name] = (x, y) if 0 <= x <= view.width and 0 <= y <= view.height else None
    return Truth(
        template="chest_radiograph",
        modality="DX",
        extent=(view.width, view.height),
        boxes={name: tuple(sorted(items, key=_area, reverse=True)) for name, items in boxes.items()},
        sides={name: "none" if name == "cardiomegaly" else side_of(each) for name, each in sides.items()},
        landmarks=landmarks,
    )


def _area(box: Box) -> float:
    return (box[1][0] - box[0][0]) * (box[1][1] - box[0][1])


def _box(points_xy: Grid, view: _View) -> Box | None:
    """The box around the points inside the image; None when nearly nothing is inside."""
    low, high = points_xy.min(axis=0), points_xy.max(axis=0)
    limit = np.array([view.width, view.height])
    inner_low, inner_high = low.clip(0, limit), high.clip(0, limit)
    if (inner_high - inner_low).min() < 3:
        return None
    return (float(inner_low[0]), float(inner_low[1])), (float(inner_high[0]), float(inner_high[1]))
