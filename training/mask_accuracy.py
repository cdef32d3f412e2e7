"""How well the node's masks meet lesions whose shape is known: Dice on simulated CT, PET and MR.

`python -m training.mask_accuracy --studies 14` prints a line for each modality and finding. The truth is the ellipsoid
that was put in; each lesion is outlined inside its true box and inside one whose faces are moved by up to a tenth of
the box's edges, as a model's are. A filled box would reach 0.69. Infarcts, whose shape no box tells, are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.anatomy import load_anatomy
from training.brain_mr import simulate_brain_mr
from training.head_template import load_head
from training.head_warping import HeadSampler
from training.pet_ct import simulate_pet_ct
from training.placement import Ellipsoid, Mask, Placement, VoxelBox, triple
from training.warping import Grid, Sampler
from umit_pacs.pixels.mask_routines import MARGIN, BoxedValues, NoMask, lesion_mask

#: Parts of a voxel along each axis that decide whether most of it lies in the lesion.
_PARTS = 3
_MOVED = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesion:
    """One lesion in the volume it is outlined in."""

    modality: str
    finding: str
    volume: Grid
    placement: Placement
    box: VoxelBox


def dice_of(lesion: Lesion, moved: float, rng: np.random.Generator) -> float | None:
    """Dice of the mask that is made inside the box with its faces moved by up to `moved` edges; None without one."""
    boxed, low, high = boxed_values(lesion, moved, rng)
    try:
        mask, _ = lesion_mask(boxed, lesion.modality)
    except NoMask:
        return None
    truth = _inscribed(mask.shape, low, high)
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def boxed_values(
    lesion: Lesion, moved: float, rng: np.random.Generator
) -> tuple[BoxedValues, NDArray[np.float64], NDArray[np.float64]]:
    """What the node looks at of a lesion whose box has its faces moved, and the true box's corners (z, y, x) in it."""
    true_low, true_high = (np.array(corner[::-1]) for corner in lesion.box)
    edges = true_high - true_low
    low, high = (corner + rng.uniform(-moved, moved, 3) * edges for corner in (true_low, true_high))
    margin = np.maximum(1.0, MARGIN * (high - low))
    start = np.floor(low - margin).clip(0).astype(int)
    stop = np.minimum(np.ceil(high + margin), lesion.volume.shape).astype(int)
    boxed = BoxedValues(
        values=lesion.volume[tuple(map(slice, start, stop))].astype(np.float32),
        low_zyx=triple(low - start),
        high_zyx=triple(high - start),
        spacing_zyx_mm=lesion.placement.spacing_zyx_mm,
    )
    return boxed, true_low - start, true_high - start


def _inscribed(shape: tuple[int, ...], low: NDArray[np.float64], high: NDArray[np.float64]) -> Mask:
    """The voxels that lie mostly in the ellipsoid between two corners."""
    fine = Placement(shape=triple(n * _PARTS for n in shape), spacing_zyx_mm=(1, 1, 1))  # type: ignore[arg-type]
    middle = fine.first_voxel_zyx_mm - 0.5 + (low + high) / 2 * _PARTS
    ellipsoid = Ellipsoid(centre_zyx_mm=triple(middle), radii_zyx_mm=triple((high - low) / 2 * _PARTS))
    whole = (slice(None), slice(None), slice(None))
    inside = ellipsoid.depth_mm(fine, whole) > 0
    z, y, x = shape
    return np.asarray(inside.reshape(z, _PARTS, y, _PARTS, x, _PARTS).mean(axis=(1, 3, 5)) >= 0.5)


def simulated_lesions(chest: Sampler, head: HeadSampler, studies: int, seed: int) -> Iterator[Lesion]:
    """Lesions of PET/CT (in the PET, and those of the lung in the CT) and of brain MR, `studies` of each."""
    for number in range(studies):
        pet_ct = simulate_pet_ct(chest, np.random.default_rng((seed, 2, number)))
        for pet in pet_ct.lesions:
            box = pet.shape.box(pet_ct.pet)
            yield Lesion(modality="PT", finding=pet.finding, volume=pet_ct.suv, placement=pet_ct.pet, box=box)
            if pet.finding == "lung_lesion":
                box = pet.shape.box(pet_ct.ct)
                yield Lesion(modality="CT", finding=pet.finding, volume=pet_ct.hu, placement=pet_ct.ct, box=box)
        brain = simulate_brain_mr(head, np.random.default_rng((seed, 3, number)))
        for lesion in brain.lesions:
            if lesion.finding != "infarct":
                yield Lesion(
                    modality="MR",
                    finding=lesion.finding,
                    volume=brain.signal,
                    placement=brain.placement,
                    box=lesion.box,
                )


def accuracy_lines(lesions: Iterable[Lesion], rng: np.random.Generator) -> Iterator[str]:
    """A line for each modality and finding, with the true boxes and with moved ones."""
    found: dict[tuple[str, str, float], list[float | None]] = {}
    for lesion in lesions:
        for moved in (0.0, _MOVED):
            found.setdefault((lesion.modality, lesion.finding, moved), []).append(dice_of(lesion, moved, rng))
    for (modality, finding, moved), all_dice in sorted(found.items()):
        made = [dice for dice in all_dice if dice is not None]
        line = f"{modality} {finding:20} faces moved {moved:.0%}: {len(made)} of {len(all_dice)} outlined"
        yield line + (f", Dice mean {np.mean(made):.3f} least {min(made):.3f}" if made else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=14, help="PET/CT and brain MR studies, each")
    parser.add_argument("--seed", type=int, default=77)
    arguments = parser.parse_args()
    chest, head = Sampler(load_anatomy()), HeadSampler(load_head())
    lesions = simulated_lesions(chest, head, arguments.studies, arguments.seed)
    for line in accuracy_lines(lesions, np.random.default_rng(arguments.seed)):
        print(line)


if __name__ == "__main__":
    main()
