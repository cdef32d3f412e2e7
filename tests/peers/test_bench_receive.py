"""The receive benchmark measures every receiver and gives whole rows; the figures themselves are nobody's promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from umit_pacs.cli.bench_long import bench_long_run, long_run_table
from umit_pacs.cli.bench_receive import bench_receive, receive_table

pytestmark = pytest.mark.peer


def test_every_receiver_is_measured_with_the_same_images(tmp_path: Path) -> None:
    rows = bench_receive(images=12, associations=(1, 2), repetitions=1, processes=2, folder=tmp_path)
    assert {(row.receiver, row.associations) for row in rows} == {
        (receiver, count) for receiver in ("umit-pacs", "orthanc", "storescp") for count in (1, 2)
    }
    for row in rows:
        assert row.images == 12
        assert row.images_per_s > 0
        assert row.resident_mib > 0
        assert row.response_p99_ms is not None
        assert row.response_median_ms is not None
        assert 0 < row.response_median_ms <= row.response_p99_ms
    assert [row.ratio_to_orthanc for row in rows if row.receiver == "orthanc"] == [1.0, 1.0]
    console = Console(width=120, record=True)
    console.print(receive_table(rows))
    assert "storescp" in console.export_text()
    assert list(tmp_path.iterdir()) == []


def test_a_long_run_notes_the_memory_from_the_first_image_to_the_last(tmp_path: Path) -> None:
    run = bench_long_run(images=450, associations=2, folder=tmp_path)
    assert [note.images for note in run.memory][:: len(run.memory) - 1] == [0, 450]
    assert all(note.resident_mib > 0 for note in run.memory)
    console = Console(width=120, record=True)
    console.print(long_run_table(run))
    assert "450 images" in console.export_text()
    assert list(tmp_path.iterdir()) == []
