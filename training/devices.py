"""Devices on chest radiographs: what lines, tubes, leads and clips add to the line integral of a picture.

They are distractors: a study with a device is labelled as the same study without one. They are drawn when the picture
is taken, in its own pixels, since a wire is thinner than those of the bank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.interpolate import make_interp_spline

from training.warping import Grid

Points = NDArray[np.float64]

#: share of studies with at least one device
SHARE_WITH_DEVICES = 0.34
#: drawn finer by this factor and averaged
_FINER = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Chest:
    """Where things are in the picture, continuous pixels (x, y); the patient's right is at the left."""

    width: int
    height: int
    pixel_mm: float
    #: names as in `ProjectedPatient.landmarks_xy`
    landmarks: dict[str, tuple[float, float]]

    def at(self, name: str, right_mm: float = 0.0, down_mm: float = 0.0) -> tuple[float, float]:
        """A place some way from a landmark, to the right and to the bottom of the picture."""
        x, y = self.landmarks[name]
        return x + right_mm / self.pixel_mm, y + down_mm / self.pixel_mm


class _Film:
    """What the devices of one picture add."""

    def __init__(self, chest: Chest) -> None:
        self.chest = chest
        self._image = Image.new("F", (chest.width * _FINER, chest.height * _FINER))
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points_xy: Points, width_mm: float, integral: float) -> None:
        width = max(1, round(width_mm / self.chest.pixel_mm * _FINER))
        self._draw.line([*map(tuple, points_xy * _FINER)], fill=integral, width=width, joint="curve")

    def disc(self, centre_xy: tuple[float, float], radius_mm: float, integral: float) -> None:
        self._draw.ellipse(self._square(centre_xy, radius_mm, radius_mm), fill=integral)

    def plate(self, centre_xy: tuple[float, float], width_mm: float, height_mm: float, integral: float) -> None:
        corners = self._square(centre_xy, width_mm / 2, height_mm / 2)
        self._draw.rounded_rectangle(
            corners, radius=min(width_mm, height_mm) / 3 / self.chest.pixel_mm * _FINER, fill=integral
        )

    def _square(self, centre_xy: tuple[float, float], half_width_mm: float, half_height_mm: float) -> list[float]:
        x, y = centre_xy
        half_x, half_y = half_width_mm / self.chest.pixel_mm, half_height_mm / self.chest.pixel_mm
        return [edge * _FINER for edge in (x - half_x, y - half_y, x + half_x, y + half_y)]

    def layer(self) -> Grid:
        layer: Grid = np.array(self._image.reduce(_FINER), np.float32)
        return layer


def draw_devices(chest: Chest, rng: np.random.Generator) -> Grid | None:
    """(height, width) that the devices of a study add to its line integral; None for most studies, which have none."""
    if rng.random() > SHARE_WITH_DEVICES:
        return None
    film = _Film(chest)
    count = int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
    for index in rng.choice(len(_DEVICES), size=count, replace=False, p=[share for _, share in _DEVICES]):
        _DEVICES[index][0](film, rng)
    return film.layer()


def _curve(points_xy: list[tuple[float, float]], rng: np.random.Generator, *, wander_px: float = 0.0) -> Points:
    """A smooth line through points that are moved a little."""
    points = np.array(points_xy) + rng.normal(0, wander_px, (len(points_xy), 2)) if wander_px else np.array(points_xy)
    spline = make_interp_spline(np.arange(len(points)), points, k=min(3, len(points) - 1))
    curve: Points = spline(np.linspace(0, len(points) - 1, 60))
    return curve


def _electrodes(film: _Film, rng: np.random.Generator) -> None:
    """ECG electrodes with their wires, which leave the picture at an edge."""
    chest = film.chest
    width_mm, integral = rng.uniform(0.8, 1.6), rng.uniform(0.25, 0.9)
    exit_xy = (rng.uniform(-0.05, 1.05) * chest.width, chest.height * rng.choice([-0.05, 1.05], p=[0.3, 0.7]))
    places = [
        chest.at("right_apex", rng.uniform(-40, 0), rng.uniform(0, 40)),
        chest.at("left_apex", rng.uniform(0, 40), rng.uniform(0, 40)),
        chest.at("left_costophrenic_angle", rng.uniform(-50, 5), rng.uniform(-60, 10)),
        chest.at("right_costophrenic_angle", rng.uniform(-5, 40), rng.uniform(-60, 10)),
        chest.at("carina", rng.uniform(-10, 40), rng.uniform(20, 100)),
    ]
    for index in rng.choice(len(places), size=int(rng.integers(2, 6)), replace=False):
        x, y = places[index]
        middle = ((x + exit_xy[0]) / 2, (y + exit_xy[1]) / 2)
        film.line(_curve([(x, y), middle, exit_xy], rng, wander_px=0.05 * chest.width)[1:], width_mm, integral)
        film.disc((x, y), rng.uniform(4, 8), integral * rng.uniform(0.3, 1.0))
        film.disc((x, y), rng.uniform(1.5, 3), integral * rng.uniform(1.2, 2.5))


def _central_line(film: _Film, rng: np.random.Generator) -> None:
    """A venous catheter from the neck or below a clavicle to the superior vena cava, right of the carina."""
    chest = film.chest
    side, outward = ("right_apex", -1.0) if rng.random() < 0.65 else ("left_apex", 1.0)
    tip = chest.at("carina", -rng.uniform(12, 24), rng.uniform(-5, 55))
    above = chest.at("carina", -rng.uniform(12, 24), -rng.uniform(25, 45))
    start = (
        chest.at(side, -outward * rng.uniform(0, 20), -rng.uniform(30, 70))
        if rng.random() < 0.5
        else chest.at(side, outward * rng.uniform(30, 60), rng.uniform(-5, 30))
    )
    film.line(
        _curve([start, above, tip], rng, wander_px=0.005 * chest.width), rng.uniform(1.5, 3), rng.uniform(0.12, 0.45)
    )


def _pacemaker(film: _Film, rng: np.random.Generator) -> None:
    """A generator below one clavicle, and one or two leads to the right heart."""
    chest = film.chest
    side, outward = ("left_apex", 1.0) if rng.random() < 0.8 else ("right_apex", -1.0)
    box = chest.at(side, outward * rng.uniform(25, 60), rng.uniform(20, 65))
    lead_mm, integral = rng.uniform(1.5, 3), rng.uniform(0.35, 1.0)
    for _ in range(int(rng.integers(1, 3))):
        vein = chest.at("carina", -rng.uniform(8, 20), -rng.uniform(15, 40))
        atrium = chest.at("carina", -rng.uniform(10, 30), rng.uniform(35, 60))
        tip = chest.at("carina", rng.uniform(-20, 60), rng.uniform(75, 120))
        film.line(_curve([box, vein, atrium, tip], rng, wander_px=0.01 * chest.width), lead_mm, integral)
        film.disc(tip, lead_mm * 0.9, integral * 1.3)
    film.plate(box, rng.uniform(35, 55), rng.uniform(32, 50), rng.uniform(1.5, 4.0))


def _breathing_tube(film: _Film, rng: np.random.Generator) -> None:
    """A tube in the trachea that ends above the carina, with an opaque stripe."""
    chest = film.chest
    tip = chest.at("carina", rng.uniform(-3, 3), -rng.uniform(15, 60))
    path = _curve([(tip[0] + rng.normal(0, 0.02) * chest.width, -5.0), tip], rng)
    width_mm, integral = rng.uniform(8, 12), rng.uniform(0.04, 0.12)
    film.line(path, width_mm, integral)
    film.line(path, width_mm - 3, integral * 0.3)
    beside = np.array([rng.choice([-0.3, 0.3]) * width_mm / chest.pixel_mm, 0])
    film.line(path + beside, 1.2, rng.uniform(0.2, 0.6))


def _stomach_tube(film: _Film, rng: np.random.Generator) -> None:
    """A feeding tube down the middle and, below the diaphragm, to the patient's left."""
    chest = film.chest
    top = (chest.at("carina", rng.uniform(-8, 8))[0], -5.0)
    hiatus = chest.at("carina", rng.uniform(-5, 15), rng.uniform(85, 130))
    end = chest.at("left_costophrenic_angle", -rng.uniform(30, 80), rng.uniform(0, 60))
    path = _curve([top, chest.at("carina", rng.uniform(-6, 6), rng.uniform(-10, 20)), hiatus, end], rng)
    film.line(path, rng.uniform(3.5, 6), rng.uniform(0.05, 0.15))
    film.line(path, 1.2, rng.uniform(0.2, 0.6))


def _clips(film: _Film, rng: np.random.Generator) -> None:
    """Surgical clips, each a few millimetres long, in a group."""
    chest = film.chest
    around = chest.at(str(rng.choice([*chest.landmarks])), rng.uniform(-30, 30), rng.uniform(-10, 40))
    for _ in range(int(rng.integers(3, 10))):
        middle = np.array(around) + rng.normal(0, 12, 2) / chest.pixel_mm
        angle, half_px = rng.uniform(0, np.pi), rng.uniform(2, 5) / chest.pixel_mm
        reach = np.array([np.cos(angle), np.sin(angle)]) * half_px
        film.line(np.stack([middle - reach, middle + reach]), rng.uniform(1, 2), rng.uniform(0.8, 2.5))


def _sternal_wires(film: _Film, rng: np.random.Generator) -> None:
    """Loops of wire one below the other along the middle."""
    chest = film.chest
    width_mm, integral, lean_mm = rng.uniform(1, 1.8), rng.uniform(0.5, 1.5), rng.normal(0, 4)
    for number in range(int(rng.integers(4, 8))):
        x, y = chest.at("carina", lean_mm + rng.normal(0, 2), -35 + 22 * number + rng.normal(0, 2))
        angles = np.linspace(0.3, 2 * np.pi - 0.3, 20) + rng.normal(0, 0.3)
        loop = np.stack([np.cos(angles) * rng.uniform(7, 11), np.sin(angles) * rng.uniform(2.5, 5)], axis=1)
        film.line(np.array([x, y]) + loop / chest.pixel_mm, width_mm, integral)


_DEVICES: tuple[tuple[Callable[[_Film, np.random.Generator], None], float], ...] = (
    (_electrodes, 0.34),
    (_central_line, 0.18),
    (_pacemaker, 0.12),
    (_breathing_tube, 0.08),
    (_stomach_tube, 0.08),
    (_clips, 0.12),
    (_sternal_wires, 0.08),
)
