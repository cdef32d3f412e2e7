"""How far landmarks lie from where they are, in millimetres of the patient or of the detector."""

from __future__ import annotations

import math

#: the distances at which cephalometry asks whether a landmark was found (ISBI 2015); 2 mm is the clinical one
DETECTION_LIMITS_MM = (2.0, 2.5, 3.0, 4.0)


def error_mm(
    said_xy_px: tuple[float, ...], true_xy_px: tuple[float, ...], *, spacing_row_col_mm: tuple[float, float]
) -> float:
    """Distance of two points of one image; spacing: (between rows, between columns)."""
    rows_mm, columns_mm = spacing_row_col_mm
    return math.hypot((said_xy_px[0] - true_xy_px[0]) * columns_mm, (said_xy_px[1] - true_xy_px[1]) * rows_mm)
