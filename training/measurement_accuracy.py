"""How far the node's measurements are off for lesions whose size is known: simulated CT, PET and MR.

`python -m training.measurement_accuracy --studies 6` prints a line for each modality and finding. The truth is the
ellipsoid that was put in; each lesion is outlined in its true box and in one whose faces are moved, as in
`training.mask_accuracy`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator

import numpy as np

from training.anatomy import load_anatomy
from training.head_template import load_head
from training.head_warping import HeadSampler
from training.mask_accuracy import Lesion, boxed_values, simulated_lesions
from training.warping import Sampler
from umit_pacs.pixels.mask_routines import NoMask, lesion_mask
from umit_pacs.pixels.measure_routines import NotMeasured, longest_diameter_mm, volume_ml

_MOVED = (0.0, 0.1)


def errors_of(lesion: Lesion, moved: float, rng: np.random.Generator) -> tuple[float, float] | None:
    """Relative error of the volume and error of the longest diameter in a slice, in mm; None where none is measured."""
    boxed, low, high = boxed_values(lesion, moved, rng)
    edges_mm = (high - low) * boxed.spacing_zyx_mm
    try:
        mask, _ = lesion_mask(boxed, lesion.modality)
        volume, longest_mm = volume_ml(mask, boxed), longest_diameter_mm(mask, boxed)
    except (NoMask, NotMeasured):
        return None
    return volume / (math.pi / 6 * float(np.prod(edges_mm)) / 1000) - 1, longest_mm - float(edges_mm[1:].max())


def accuracy_lines(lesions: Iterable[Lesion], rng: np.random.Generator) -> Iterator[str]:
    """A line for each modality and finding, true and moved boxes together."""
    found: dict[tuple[str, str], list[tuple[float, float] | None]] = {}
    for lesion in lesions:
        for moved in _MOVED:
            found.setdefault((lesion.modality, lesion.finding), []).append(errors_of(lesion, moved, rng))
    for (modality, finding), errors in sorted(found.items()):
        line = f"{modality} {finding:20} {sum(error is not None for error in errors)} of {len(errors)} measured"
        made = np.array([error for error in errors if error is not None])
        if made.size:
            mean, worst = made.mean(axis=0), made[np.abs(made).argmax(axis=0), [0, 1]]
            line += f", volume {mean[0]:+.0%} (worst {worst[0]:+.0%})"
            line += f", diameter {mean[1]:+.1f} mm (worst {worst[1]:+.1f} mm)"
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=6, help="PET/CT and brain MR studies, each")
    parser.add_argument("--seed", type=int, default=77)
    arguments = parser.parse_args()
    chest, head = Sampler(load_anatomy()), HeadSampler(load_head())
    for line in accuracy_lines(
        simulated_lesions(chest, head, arguments.studies, arguments.seed), np.random.default_rng(arguments.seed)
    ):
        print(line)


if __name__ == "__main__":
    main()
