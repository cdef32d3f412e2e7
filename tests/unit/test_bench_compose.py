"""`bench compose` composes every kind of object in another process; the figures themselves are nobody's promise."""

from __future__ import annotations

from itertools import pairwise

import pydicom
from rich.console import Console

from tests.phantoms import chest_like_ct, write_ct_series
from umit_pacs.cli.bench_compose import Target, bench_compose, compose_table, write_repeated
from umit_pacs.pixels.headers import read_header
from umit_pacs.result_objects.composers import COMPOSERS


def test_every_kind_of_object_is_composed_in_a_process_that_did_not_make_the_study():
    (row,) = bench_compose(runs=1, targets=[Target(slices=133, wall_s=2.0, peak_mb=300.0)])
    assert row.slices == 133
    assert row.objects >= len(COMPOSERS)
    assert row.first_s == row.wall_s > 0
    assert row.cpu_s > 0
    assert row.peak_mb > 50  # less than this no process takes that has loaded the libraries
    console = Console(width=140, record=True)
    console.print(compose_table([row]))
    text = console.export_text()
    assert "< 2 s" in text
    assert "< 300 MB" in text


def test_repeated_slices_make_one_even_stack(tmp_path):
    original = tmp_path / "original"
    write_ct_series(original, chest_like_ct(slices=5, edge=32))
    write_repeated(original, tmp_path / "long", slices=12)
    headers = [read_header(path) for path in sorted((tmp_path / "long").glob("*.dcm"))]
    assert len({header.SOPInstanceUID for header in headers}) == 12
    assert len({header.StudyInstanceUID for header in headers}) == 1
    heights_mm = [float(header.ImagePositionPatient[2]) for header in headers]
    steps_mm = {round(high - low, 3) for low, high in pairwise(heights_mm)}
    assert len(steps_mm) == 1
    first, sixth = (pydicom.dcmread(tmp_path / "long" / f"slice-{number:04d}.dcm") for number in (1, 6))
    assert first.PixelData == sixth.PixelData
