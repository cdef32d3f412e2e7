"""Presentation states as DCMTK's engine for them shows them, the one of DICOMscope; itkwasm-dicom carries it.

What it shows stays as pictures in build/presentation-states, for people to look at.
"""

from pathlib import Path

import itkwasm_dicom
import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw
from pydicom.pixels import apply_modality_lut, apply_windowing

from tests.peer_programs import run_dcmtk
from tests.result_fixtures import brain_mr_run, ct_run, pet_ct_run, radiograph_run, with_every_kind
from umit_pacs.handoffs import Language, ObjectKind, RegionKind
from umit_pacs.result_objects.fonts import find_fonts

pytestmark = [pytest.mark.peer, pytest.mark.xdist_group("presentation_states")]

PICTURES = Path(__file__).parents[2] / "build" / "presentation-states"


def radiograph_with_spacing(folder, language):
    """The engine shows nothing without a size of the pixels, so the radiograph gets one."""

    def give_spacing(ds):
        ds.PixelSpacing = [0.2, 0.2]

    return radiograph_run(folder, language, change=give_spacing)


RUNS = {"CR": radiograph_with_spacing, "CT": ct_run, "PET-CT": pet_ct_run, "brain MR": brain_mr_run}


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("kind", RUNS)
def test_the_engine_of_dicomscope_shows_grey_marks_and_banner(tmp_path, kind, language):
    run = with_every_kind(RUNS[kind](tmp_path, language))
    draft = run.draft()
    images = {item.sop_instance_uid: run.files.path(item.relative_path) for item in run.input_set.instances}
    states = [item for item in run.compose() if item.kind is ObjectKind.PRESENTATION_STATE]
    assert states
    for number, item in enumerate(states, 1):
        state = run.files.path(item.relative_path)
        reference = pydicom.dcmread(state).ReferencedSeriesSequence[0].ReferencedImageSequence[0]
        image = images[reference.ReferencedSOPInstanceUID]
        told, _ = itkwasm_dicom.apply_presentation_state_to_image(image, state)
        grey = grey_by_the_engine(image, state, tmp_path / "grey.pgm")
        draw(told, grey, PICTURES / f"{kind}-{language}-{number}.png")
        expected = grey_of(pydicom.dcmread(image), pydicom.dcmread(state))
        assert np.abs(grey.astype(int) - expected).max() <= 1
        assert told["StandardDisplayedArea"] == [1, 1, *reversed(expected.shape)]
        of_frame = [
            mark for mark in draft.markings if mark.key_frame.sop_instance_uid == reference.ReferencedSOPInstanceUID
        ]
        assert_marks_are_told(told, of_frame)
        (banner,) = [text for layer in told["GraphicsLayers"] for text in layer["TextObjects"] if "BoundingBox" in text]
        assert banner["Text"] == draft.banner


def assert_marks_are_told(told, markings):
    """Each box with its corners, each point with its place, in pixels from the outer edge of the first one."""
    shapes = [
        (graphic["GraphicType"], np.reshape(graphic["Points"], (-1, 2)))
        for layer in told["GraphicsLayers"]
        for graphic in layer["GraphicObjects"]
    ]
    boxes = [points for kind, points in shapes if kind == "polyline"]
    places = [points for kind, points in shapes if kind == "point"]
    expected_boxes = [mark for mark in markings if mark.region.kind is not RegionKind.POINT]
    expected_places = [mark for mark in markings if mark.region.kind is RegionKind.POINT]
    assert (len(boxes), len(places)) == (len(expected_boxes), len(expected_places))
    for mark, points in zip(expected_boxes, boxes, strict=True):
        corners = np.array(mark.region.points_xy_px)
        assert np.allclose(
            [points.min(axis=0), points.max(axis=0)], [corners.min(axis=0), corners.max(axis=0)], atol=1e-3
        )
    for mark, points in zip(expected_places, places, strict=True):
        assert np.allclose(points[0], mark.region.points_xy_px[0], atol=1e-3)


def grey_by_the_engine(image, state, path):
    """The engine's bitmap, by DCMTK's own program: what itkwasm hands over is overwritten where images are small."""
    run_dcmtk("dcmp2pgm", "-p", state, image, path)
    return np.asarray(Image.open(path))


def grey_of(image, state):
    """(H, W) what the state's window makes of the image's values, by pydicom: an independent way to the same grey."""
    values = apply_modality_lut(image.pixel_array, state)
    window = pydicom.Dataset()
    window.BitsStored, window.PixelRepresentation, window.PhotometricInterpretation = 16, 1, "MONOCHROME2"
    window.WindowCenter = state.SoftcopyVOILUTSequence[0].WindowCenter
    window.WindowWidth = state.SoftcopyVOILUTSequence[0].WindowWidth
    voi = apply_windowing(values, window)
    return np.round((voi + 2**15) / (2**16 - 1) * 255)


def draw(told, grey, path, scale=4):
    """What the engine tells, drawn over the grey that it made."""
    picture = Image.fromarray(grey).convert("RGB").resize((grey.shape[1] * scale, grey.shape[0] * scale))
    pen, font = ImageDraw.Draw(picture), find_fonts(Language.CHINESE, None).regular(20)
    for layer in told["GraphicsLayers"]:
        for graphic in layer["GraphicObjects"]:
            points = np.reshape(graphic["Points"], (-1, 2)) * scale
            if graphic["GraphicType"] == "polyline":
                pen.line([tuple(point) for point in points], fill="yellow", width=2)
            elif graphic["GraphicType"] == "circle":
                pen.circle(tuple(points[0]), float(np.linalg.norm(points[1] - points[0])), outline="lime", width=2)
        for text in layer["TextObjects"]:
            if "BoundingBox" in text:
                pen.text((picture.width * text["BoundingBox"][0], 0), text["Text"], fill="red", font=font)
            else:
                pen.text(tuple(np.array(text["AnchorPoint"]) * scale), text["Text"], fill="yellow", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
