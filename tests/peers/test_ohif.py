"""OHIF in a headless Chromium shows text, boxes, points and masks where the truth is, in both languages.

The window's pictures stay in build/ohif, for people to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.peer_programs import LOOPBACK, running_orthanc
from tests.phantoms import (
    Grid,
    Study,
    axial_grid,
    chest_like_ct,
    write_cr_image,
    write_ct_series,
    write_mr_series,
    write_pt_series,
)
from tests.result_fixtures import Run, answer, box, chest_pixels, measured, order, point, run_of
from umit_pacs.cli.ohif_server import find_ohif, serving_ohif
from umit_pacs.cli.viewer import Viewer, open_viewer
from umit_pacs.handoffs import FrameReference, Language, ObjectKind, ResultObject, Task, TaskResult
from umit_pacs.vocabulary import load_templates

pytestmark = [pytest.mark.peer, pytest.mark.xdist_group("ohif"), pytest.mark.timeout(900)]

PICTURES = Path(__file__).parents[2] / "build" / "ohif"
DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
KINDS = (ObjectKind.TEXT_REPORT, ObjectKind.MEASUREMENT_REPORT, ObjectKind.SEGMENTATION)
#: Place of the carina in the radiograph, in shares of its width and height.
CARINA = (0.5, 0.33)
CT_GRID = axial_grid()
PET_GRID = axial_grid(spacing_row_col_mm=(4.0, 4.0), step_mm=(0.0, 0.0, 4.0))
MR_GRID = axial_grid(spacing_row_col_mm=(1.5, 1.5), step_mm=(0.0, 0.0, 5.0))


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A study whose lesion is known."""

    template: str
    finding: str
    #: (slices, rows, columns), or (rows, columns) of a radiograph.
    lesion: np.ndarray
    #: None where the images have no place in the patient.
    grid: Grid | None = None

    @property
    def box_xyxy_px(self) -> tuple[float, float, float, float]:
        """Around the lesion in every slice together."""
        rows, columns = np.nonzero(self.lesion.reshape(-1, *self.lesion.shape[-2:]).any(axis=0))
        return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def mark(shape: Sequence[int], center: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """An ellipsoid by the indices of its centre and its radii in voxels."""
    places = [(index - c) / r for index, c, r in zip(np.indices(shape), center, radii, strict=True)]
    return np.sum([place**2 for place in places], axis=0) <= 1


def write_radiograph(folder: Path) -> Truth:
    pixels = chest_pixels()
    write_cr_image(folder, pixels, window=(1500, 3000))
    return Truth(template="chest_radiograph", finding="nodule", lesion=pixels == 2300)


def write_chest_ct(folder: Path) -> Truth:
    volume = chest_like_ct(slices=20, edge=128)
    noise = np.random.default_rng(1).normal(0, 15, volume.shape)
    write_ct_series(folder, volume + noise, grid=CT_GRID, window=(-400, 1500))
    return Truth(template="chest_ct", finding="nodule", lesion=volume == 60, grid=CT_GRID)


def write_pet_ct(folder: Path) -> Truth:
    """A body with a heart and a hot lesion in the left lung, and the CT that goes with it."""
    shape, study = (18, 64, 64), Study()
    lesion = mark(shape, (7, 30, 46), (3.2, 4.2, 5.2))
    activity = np.where(mark(shape, (9, 32, 32), (40, 24, 30)), 4000.0, 100.0)
    activity[mark(shape, (6, 36, 26), (4, 6, 5))] = 11000
    activity[lesion] = 30000
    write_pt_series(folder / "pt", activity, study=study, grid=PET_GRID)
    write_ct_series(folder / "ct", np.where(activity > 1000, 40, -1000), study=study, grid=PET_GRID)
    return Truth(template="fdg_pet_ct", finding="lung_lesion", lesion=lesion, grid=PET_GRID)


def write_brain_mr(folder: Path) -> Truth:
    """A head with ventricles and a dark mass in the right half."""
    shape = (16, 128, 128)
    lesion = mark(shape, (9, 52, 40), (2.3, 10, 9))
    signal = np.where(mark(shape, (8, 64, 64), (40, 56, 46)), 700.0, 20.0)
    signal[mark(shape, (8, 66, 64), (4, 16, 6))] = 200
    signal[lesion] = 330
    signal += np.random.default_rng(2).normal(0, 12, shape)
    write_mr_series(folder, signal.clip(0), grid=MR_GRID, window=(450, 900))
    return Truth(template="brain_mr", finding="mass", lesion=lesion, grid=MR_GRID)


WRITERS = {
    "chest radiograph": write_radiograph,
    "chest CT": write_chest_ct,
    "PET-CT": write_pet_ct,
    "brain MR": write_brain_mr,
}
VOLUMES = [name for name in WRITERS if name != "chest radiograph"]


def answers(truth: Truth, frames: Sequence[FrameReference], language: Language) -> tuple[TaskResult, ...]:
    """A report, the box of the truth, and on a radiograph a point."""
    terms = load_templates().by_key(truth.template)
    side = "left" if truth.template != "brain_mr" else "right"
    report = terms.sentence(truth.finding, "present", side, language)
    asked = order(Task.REPORT, frames, language, truth.template)
    if truth.grid is None:
        found = box(truth.finding, frames, truth.box_xyxy_px, 0.87)
        carina = point("carina", frames[0], CARINA[0] * frames[0].columns, CARINA[1] * frames[0].rows, 0.74)
        landmark = order(Task.LANDMARK, frames, language, truth.template, target="carina")
        more = (answer(landmark, frames, regions=(carina,), confidence=0.74),)
        task = Task.DETECTION
    else:
        slices = np.flatnonzero(truth.lesion.any(axis=(1, 2)))
        found = box(truth.finding, frames[slices[0] : slices[-1] + 1], truth.box_xyxy_px, 0.87)
        more, task = (), Task.DETECTION_3D
    detection = order(task, frames, language, truth.template, target=truth.finding)
    return (
        answer(asked, frames, text=report),
        answer(detection, frames, regions=(found,), confidence=0.87),
        *more,
    )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A study and its results, as the archive behind the viewer holds them."""

    truth: Truth
    run: Run
    results: dict[ObjectKind, ResultObject]

    def open(self, viewer: Viewer, kind: ObjectKind, what: str, *, slice_uid: str = "") -> np.ndarray:
        """Show a result, and turn to a slice; (H, W, 3) int the window. No error may come up on the way."""
        viewer.faults.clear()
        viewer.show(self.run.input_set.study_instance_uid, self.results[kind].series_instance_uid, what)
        if slice_uid:
            viewer.turn_to(slice_uid)
        name = f"{self.truth.template}-{self.run.decision.language}-{kind}"
        path = viewer.save(PICTURES / f"{name}.png")
        assert viewer.faults == []
        return np.asarray(Image.open(BytesIO(path.read_bytes())).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pacs")
    with running_orthanc(folder, more_configuration={"Plugins": [DICOMWEB]}) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def viewer(pacs):
    ohif = find_ohif()
    assert ohif is not None, "OHIF is not installed; `make system` installs it"
    with serving_ohif(ohif, f"http://{LOOPBACK}:{pacs.http_port}") as address, open_viewer(address) as opened:
        yield opened


@pytest.fixture(scope="module")
def shown(pacs, tmp_path_factory):
    """Write, compose and store a study by name and language, each once."""
    held: dict[tuple[str, Language], Shown] = {}

    def of(name: str, language: Language) -> Shown:
        if (name, language) not in held:
            folder = tmp_path_factory.mktemp("study")
            truth = WRITERS[name](folder / "instances")
            run = read_run(folder, truth, language)
            results = {result.kind: result for result in run.compose()}
            for path in (*run.input_set.instances, *results.values()):
                pacs.rest("POST", "/instances", run.files.path(path.relative_path).read_bytes())
            held[name, language] = Shown(truth=truth, run=run, results=results)
        return held[name, language]

    return of


def read_run(folder: Path, truth: Truth, language: Language) -> Run:
    """The run of a study whose series with the lesion was read."""

    def results(frames, language):
        if truth.template == "fdg_pet_ct":
            frames = [frame for frame in frames if frame.rows and "1.128" in frame.sop_class_uid]
        return answers(truth, frames, language)

    return measured(run_of(folder, results, language, kinds={"PACS": KINDS}))


def is_coloured(window: np.ndarray) -> np.ndarray:
    """(H, W) where something is marked: images and texts are grey, the viewer's own signs blue, markings neither."""
    return window[..., :2].max(axis=2) - window[..., 2] > 60


def edge_share(drawn: np.ndarray, fixed: float, span: tuple[float, float], *, is_column: bool) -> float:
    """Share of an edge along which something is drawn, at most 2 pixels off."""
    low, high = (round(value) for value in span)
    along = drawn[:, low:high].T if not is_column else drawn[low:high]
    near = along[:, round(fixed) - 2 : round(fixed) + 3]
    return float(near.any(axis=1).mean())


def corners_on_screen(viewer: Viewer, truth: Truth) -> tuple[float, float, float, float]:
    left, top, right, bottom = truth.box_xyxy_px
    if truth.grid is None:
        places = viewer.image_on_screen([(left, top), (right, bottom)])
    else:
        index = viewer_slice(truth)
        corners = [truth.grid.center_mm(x - 0.5, y - 0.5, index) for x, y in ((left, top), (right, bottom))]
        places = viewer.on_screen([list(map(float, corner)) for corner in corners])
    (x0, y0), (x1, y1) = places
    return x0, y0, x1, y1


def viewer_slice(truth: Truth) -> int:
    """The slice that the rectangle is on: the middle one of the lesion."""
    slices = np.flatnonzero(truth.lesion.any(axis=(1, 2)))
    return int(slices[len(slices) // 2])


@pytest.mark.parametrize("name", WRITERS)
def test_box_and_point_are_drawn_where_the_truth_is(viewer, shown, name):
    study = shown(name, Language.ENGLISH)
    drawn = is_coloured(study.open(viewer, ObjectKind.MEASUREMENT_REPORT, "regions"))
    x0, y0, x1, y1 = corners_on_screen(viewer, study.truth)
    for fixed, span, is_column in (
        (x0, (y0, y1), True),
        (x1, (y0, y1), True),
        (y0, (x0, x1), False),
        (y1, (x0, x1), False),
    ):
        # The line is dashed: about half of it is drawn.
        assert edge_share(drawn, fixed, span, is_column=is_column) > 0.4
        assert edge_share(drawn, fixed + (12 if fixed in (x0, y0) else -12), span, is_column=is_column) < 0.2
    if study.truth.grid is None:
        assert_point_is_marked(viewer, drawn, study.truth)


def assert_point_is_marked(viewer: Viewer, drawn: np.ndarray, truth: Truth) -> None:
    """The tip of the arrow is at most 2 pixels off."""
    rows, columns = truth.lesion.shape
    ((x, y),) = viewer.image_on_screen([(CARINA[0] * columns, CARINA[1] * rows)])
    assert drawn[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].any()
    assert not drawn[round(y) - 12 : round(y) - 4, round(x) - 12 : round(x) - 4].any()


@pytest.mark.parametrize("name", VOLUMES)
def test_the_mask_covers_the_lesion(viewer, shown, name):
    study = shown(name, Language.CHINESE)
    grid, lesion, index = study.truth.grid, study.truth.lesion, viewer_slice(study.truth)
    middle = study.run.findings.results[0].frames[index].sop_instance_uid
    window = study.open(viewer, ObjectKind.SEGMENTATION, "segments", slice_uid=middle)
    rows, columns = np.nonzero(lesion[index])
    places = [grid.center_mm(x, y, index) for y, x in zip(rows, columns, strict=True)]
    expected = np.array(viewer.on_screen([list(map(float, place)) for place in places]))
    pixel = pixel_on_screen(viewer, grid, index)
    seen_rows, seen_columns = np.nonzero(is_coloured(window)[100:740, 320:1130])
    seen = np.array([seen_columns.min() + 320, seen_rows.min() + 100, seen_columns.max() + 321, seen_rows.max() + 101])
    truth = np.array([*(expected.min(axis=0) - pixel / 2), *(expected.max(axis=0) + pixel / 2)])
    assert np.abs(seen - truth).max() <= 2 * pixel + 2


def pixel_on_screen(viewer: Viewer, grid: Grid, index: int) -> float:
    """Edge of an image's pixel in pixels of the window."""
    places = [list(map(float, grid.center_mm(x, 0, index))) for x in (0, 10)]
    (x0, _), (x1, _) = viewer.on_screen(places)
    return abs(x1 - x0) / 10


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("name", WRITERS)
def test_every_line_of_the_draft_can_be_read(viewer, shown, name, language):
    study = shown(name, language)
    study.open(viewer, ObjectKind.TEXT_REPORT, "text")
    text = " ".join(viewer.text().split())
    for section in study.run.draft().sections:
        assert section.heading in text
        for line in section.lines:
            assert " ".join(line.text.split()) in text
