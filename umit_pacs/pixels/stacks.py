"""What a series is, from its geometry and never from its file names: a volume, images, or nothing to look at.

Used by routing (is it a volume, how many slices, which orientation) and by `prepare`, which trusts nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from umit_pacs.handoffs import InstanceUID
from umit_pacs.pixels.frames import SourceFrame, frames_of
from umit_pacs.pixels.repeats import first_of_repeated_stacks
from umit_pacs.pixels.unfit import Unfit, is_localiser_frame, unfit_object

#: multi-frame instances, and the frames (1-based) of each that are looked at
ChosenFrames = Sequence[tuple[InstanceUID, Sequence[int]]]

#: Fewer slices than this are pictures, not a volume.
MINIMUM_SLICES = 3
#: A slice may lie this far from its place on the regular grid: positions are often written with one decimal.
POSITION_TOLERANCE_MM = 0.1
#: ... or this part of the slice spacing, whichever is more, but never more than the second.
POSITION_TOLERANCE_OF_SPACING = (0.02, 0.25)
#: Slices closer than this are at the same place.
SAME_POSITION_MM = 0.01
#: Direction cosines of one stack agree to this.
ORIENTATION_TOLERANCE = 2e-4
#: A gantry tilts up to 30 degrees; a stack sheared by more is not one.
MAXIMUM_SHEAR_DEG = 45.0
#: Component of the normal from which a stack is called axial, coronal or sagittal (37 degrees off at most).
PLANE_COSINE = 0.8


class Orientation(enum.StrEnum):
    """The plane of the slices."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"
    OBLIQUE = "oblique"


class NotAVolume(enum.StrEnum):
    """Why the frames of a series are not one regular stack."""

    ONE_SLICE = "one_slice"
    TOO_FEW_SLICES = "too_few_slices"
    NO_POSITION = "no_slice_position"
    NO_ORIENTATION = "no_slice_orientation"
    INVALID_ORIENTATION = "invalid_slice_orientation"
    NO_PIXEL_SPACING = "no_pixel_spacing"
    MIXED_ORIENTATIONS = "mixed_orientations"
    MIXED_MATRICES = "mixed_matrices"
    MIXED_FRAMES_OF_REFERENCE = "mixed_frames_of_reference"
    SLICES_SIDE_BY_SIDE = "slices_side_by_side"
    MISSING_SLICES = "missing_slices"
    IRREGULAR_SPACING = "irregular_spacing"
    SHEARED_STACK = "sheared_stack"


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesGeometry:
    """What the headers of one series make of it."""

    #: why the series is not for inference at all; None when it is.
    unfit: Unfit | None = None
    is_volume: bool = False
    #: why it is not a volume; None when it is, or when it is unfit.
    reason: NotAVolume | None = None
    #: the reason in words and numbers, or what was left out to make a volume.
    detail: str = ""
    #: usable frames: along the stack for a volume (feet to head for axial ones), else by instance and frame number.
    frames: tuple[SourceFrame, ...] = ()
    #: for a volume, further frames at the place of frames[k]: prepare keeps the series only if they are identical.
    repeats: tuple[tuple[SourceFrame, ...], ...] = ()
    orientation: Orientation | None = None
    spacing_row_col_mm: tuple[float, float] | None = None
    #: distance of neighbouring slices along the normal.
    slice_spacing_mm: float | None = None
    #: (4, 4) float64: (x, y, z, 1) of the stack -> patient mm; sheared when the gantry was tilted.
    stack_to_patient_mm: NDArray[np.float64] | None = None

    @property
    def slices(self) -> int:
        """Number of slices (volume) or frames."""
        return len(self.frames)


class _Refused(Exception):
    def __init__(self, reason: NotAVolume, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


def classify_series(headers: Sequence[Dataset], chosen: ChosenFrames = ()) -> SeriesGeometry:
    """Judge the headers of one series (as `read_header` gives them, in any order).

    chosen: the frames (1-based) of multi-frame instances that are looked at; of every other instance, all.
    """
    fit, first_unfit = _fit_frames(headers)
    wanted = dict(chosen)
    fit = tuple(frame for frame in fit if _is_wanted(frame, wanted))
    if not fit:
        unfit, detail = first_unfit or (Unfit.NO_PIXELS, "the series has no objects")
        return SeriesGeometry(unfit=unfit, detail=detail)
    notes = [f"{len(headers) - len({f.instance_index for f in fit})} objects left out"] if first_unfit else []
    frames, split_note = first_of_repeated_stacks(headers, fit, same_position_mm=SAME_POSITION_MM)
    notes += [split_note] if split_note else []
    try:
        geometry = _stack(frames)
    except _Refused as refusal:
        geometry = _images(fit, refusal)
    return replace(geometry, detail="; ".join(part for part in (geometry.detail, *notes) if part))


def _fit_frames(headers: Sequence[Dataset]) -> tuple[tuple[SourceFrame, ...], tuple[Unfit, str] | None]:
    """The frames that may be looked at, and why the first that may not was left out."""
    verdicts = [unfit_object(header) for header in headers]
    # One phantom object makes the series a phantom's; a localiser among slices is only left out.
    phantom = next((verdict for verdict in verdicts if verdict and verdict[0] is Unfit.PHANTOM), None)
    if phantom:
        return (), phantom
    first_unfit = next((verdict for verdict in verdicts if verdict), None)
    fit: list[SourceFrame] = []
    usable = [header for header, verdict in zip(headers, verdicts, strict=True) if verdict is None]
    indices = [index for index, verdict in enumerate(verdicts) if verdict is None]
    for frame in frames_of(usable):
        if is_localiser_frame(usable[frame.instance_index], frame.frame_index):
            first_unfit = first_unfit or (Unfit.LOCALISER, "ImageType")
        else:
            fit.append(replace(frame, instance_index=indices[frame.instance_index]))
    return tuple(fit), first_unfit


def _is_wanted(frame: SourceFrame, chosen: Mapping[InstanceUID, Sequence[int]]) -> bool:
    numbers_ = chosen.get(frame.reference.sop_instance_uid)
    return numbers_ is None or (frame.reference.frame_number or 1) in numbers_


def _images(frames: tuple[SourceFrame, ...], refusal: _Refused) -> SeriesGeometry:
    """A series that is looked at frame by frame."""
    orientations = {_plane(frame) for frame in frames}
    spacings = {frame.spacing_row_col_mm for frame in frames}
    return SeriesGeometry(
        reason=refusal.reason,
        detail=refusal.detail,
        frames=frames,
        orientation=orientations.pop() if len(orientations) == 1 else None,
        spacing_row_col_mm=spacings.pop() if len(spacings) == 1 else None,
    )


def _plane(frame: SourceFrame) -> Orientation | None:
    return None if frame.orientation is None else orientation_of(slice_normal(frame.orientation))


def slice_normal(orientation: tuple[float, ...]) -> NDArray[np.float64]:
    """(3,) the normal of the slice plane: row direction cross column direction (PS3.3 C.7.6.2.1.1)."""
    return np.cross(np.array(orientation[:3]), np.array(orientation[3:]))


def orientation_of(normal: NDArray[np.float64]) -> Orientation:
    """The name of the plane with this normal."""
    axis = int(np.argmax(np.abs(normal)))
    if abs(normal[axis]) < PLANE_COSINE:
        return Orientation.OBLIQUE
    return (Orientation.SAGITTAL, Orientation.CORONAL, Orientation.AXIAL)[axis]


def _stack(frames: tuple[SourceFrame, ...]) -> SeriesGeometry:
    """One regular stack of `frames`; raises _Refused with the reason when they are none."""
    _require_one_grid(frames)
    orientation = frames[0].orientation or ()
    normal = slice_normal(orientation)
    # The stack runs toward the head, the back or the left, whichever way its slices were numbered.
    axis = int(np.argmax(np.abs(normal)))
    direction = normal * np.sign(normal[axis])
    places = _places(frames, direction)
    if len(places) < MINIMUM_SLICES:
        reason = NotAVolume.ONE_SLICE if len(places) == 1 else NotAVolume.TOO_FEW_SLICES
        raise _Refused(reason, f"{len(places)} of at least {MINIMUM_SLICES} slices")
    slices = tuple(place[0] for place in places)
    positions_mm = np.array([frame.position_mm for frame in slices])
    first_mm, step_mm = _regular_grid(positions_mm, direction)
    return SeriesGeometry(
        is_volume=True,
        frames=slices,
        repeats=tuple(place[1:] for place in places),
        orientation=orientation_of(normal),
        spacing_row_col_mm=slices[0].spacing_row_col_mm,
        slice_spacing_mm=float(step_mm @ direction),
        stack_to_patient_mm=plane_to_patient_mm(replace(slices[0], position_mm=tuple(first_mm)), step_mm),
    )


def _require_one_grid(frames: tuple[SourceFrame, ...]) -> None:
    """Raise unless all frames share orientation, matrix, spacing and frame of reference."""
    if any(frame.position_mm is None for frame in frames):
        raise _Refused(NotAVolume.NO_POSITION, "ImagePositionPatient is absent or not three numbers")
    if any(frame.orientation is None for frame in frames):
        raise _Refused(NotAVolume.NO_ORIENTATION, "ImageOrientationPatient is absent or not six numbers")
    if any(frame.spacing_row_col_mm is None for frame in frames):
        raise _Refused(NotAVolume.NO_PIXEL_SPACING, "PixelSpacing is absent, zero or negative")
    orientations = np.array([frame.orientation for frame in frames])
    if not _are_orthonormal(orientations):
        raise _Refused(NotAVolume.INVALID_ORIENTATION, "ImageOrientationPatient is not two perpendicular unit vectors")
    if np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE:
        raise _Refused(NotAVolume.MIXED_ORIENTATIONS, f"{len(np.unique(orientations.round(3), axis=0))} orientations")
    matrices = {(frame.reference.rows, frame.reference.columns) for frame in frames}
    spacings = np.array([frame.spacing_row_col_mm for frame in frames])
    if len(matrices) > 1 or not np.allclose(spacings, spacings[0], rtol=1e-4, atol=0):
        raise _Refused(NotAVolume.MIXED_MATRICES, "rows, columns or pixel spacing differ between slices")
    if len({frame.reference.frame_of_reference_uid for frame in frames}) > 1:
        raise _Refused(NotAVolume.MIXED_FRAMES_OF_REFERENCE, "FrameOfReferenceUID differs between slices")


def _are_orthonormal(orientations: NDArray[np.float64]) -> bool:
    rows, columns = orientations[:, :3], orientations[:, 3:]
    lengths = np.linalg.norm(np.concatenate([rows, columns]), axis=1)
    return bool(np.abs(lengths - 1).max() < 1e-3 and np.abs((rows * columns).sum(axis=1)).max() < 1e-3)


def _places(frames: tuple[SourceFrame, ...], direction: NDArray[np.float64]) -> list[tuple[SourceFrame, ...]]:
    """The frames grouped by place, sorted along `direction`."""
    heights_mm = np.array([frame.position_mm for frame in frames]) @ direction
    places: list[list[SourceFrame]] = []
    last_mm = -np.inf
    for index in np.argsort(heights_mm, kind="stable"):
        frame = frames[index]
        if heights_mm[index] - last_mm >= SAME_POSITION_MM:
            places.append([])
            last_mm = heights_mm[index]
        elif np.linalg.norm(np.array(frame.position_mm) - np.array(places[-1][0].position_mm)) >= SAME_POSITION_MM:
            raise _Refused(NotAVolume.SLICES_SIDE_BY_SIDE, "several slices lie in one plane")
        places[-1].append(frame)
    return [tuple(place) for place in places]


def _regular_grid(
    positions_mm: NDArray[np.float64], direction: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) the first position and (3,) the step of the grid that fits the (N, 3) positions best.

    Raises _Refused when a slice is not where the grid says, or when the stack leans too much.
    """
    gaps_mm = np.diff(positions_mm @ direction)
    usual_mm = float(np.median(gaps_mm))
    index = np.arange(len(positions_mm)) - (len(positions_mm) - 1) / 2
    step_mm = index @ positions_mm / (index @ index)
    grid_mm = positions_mm.mean(axis=0) + index[:, None] * step_mm
    least, most = (part * usual_mm for part in POSITION_TOLERANCE_OF_SPACING)
    tolerance_mm = min(max(POSITION_TOLERANCE_MM, least), most)
    if np.linalg.norm(positions_mm - grid_mm, axis=1).max() > tolerance_mm:
        missing = int((np.round(gaps_mm / usual_mm) - 1).clip(min=0).sum())
        is_multiple = np.allclose(gaps_mm / usual_mm, np.round(gaps_mm / usual_mm), atol=0.1)
        if missing and is_multiple:
            raise _Refused(NotAVolume.MISSING_SLICES, f"{missing} slices are missing at {usual_mm:.2f} mm spacing")
        detail = f"gaps of {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm between slices"
        raise _Refused(NotAVolume.IRREGULAR_SPACING, detail)
    shear_deg = float(np.degrees(np.arccos(np.clip(step_mm @ direction / np.linalg.norm(step_mm), -1, 1))))
    if shear_deg > MAXIMUM_SHEAR_DEG:
        raise _Refused(NotAVolume.SHEARED_STACK, f"the slices are shifted by {shear_deg:.0f} degrees")
    return grid_mm[0], step_mm


def plane_to_patient_mm(frame: SourceFrame, step_mm: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """(4, 4): (x, y, z, 1) of the frame's pixels -> patient mm (PS3.3 C.7.6.2.1.1, shifted to outer corners).

    `step_mm` (3,) leads from one slice to the next and z = 0.5 is the first slice's centre; without it z = 0 is the
    frame's own plane and z counts millimetres along the normal.
    """
    row_mm, column_mm = frame.spacing_row_col_mm or (1.0, 1.0)
    orientation = np.array(frame.orientation)
    along = slice_normal(tuple(orientation)) if step_mm is None else step_mm
    matrix = np.eye(4)
    matrix[:3, 0] = orientation[:3] * column_mm
    matrix[:3, 1] = orientation[3:] * row_mm
    matrix[:3, 2] = along
    half = np.array([0.5, 0.5, 0.0 if step_mm is None else 0.5])
    matrix[:3, 3] = np.array(frame.position_mm) - matrix[:3, :3] @ half
    return matrix
