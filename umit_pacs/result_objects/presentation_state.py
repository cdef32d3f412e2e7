"""The marks as Grayscale Softcopy Presentation States (PS3.3 A.33.1), one for each marked key frame.

For viewers that draw presentation states and no structured reports. Each state names one frame, so that it may say how
the frame's own values become grey: slices of a PET series differ in that. Frames in colour get none.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from highdicom.color import CIELabColor
from highdicom.pr import AnnotationUnitsValues, GraphicLayer, GraphicObject, GraphicTypeValues, TextObject
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage
from pydicom.valuerep import format_number_as_ds

from umit_pacs.handoffs import FrameReference, ObjectKind, RegionKind
from umit_pacs.result_objects.composition import Composition
from umit_pacs.result_objects.draft import Marking
from umit_pacs.result_objects.frame_headers import attribute_of_frame, image_reference, value_of_frame
from umit_pacs.result_objects.measurement_report import outline_xy_px
from umit_pacs.result_objects.picture import label_of
from umit_pacs.result_objects.provenance import MANUFACTURER, add_body_part, new_object
from umit_pacs.vocabulary import Words

_FINDINGS, _LANDMARKS, _BANNER = "AI FINDINGS", "AI LANDMARKS", "AI BANNER"
#: CIELab of yellow, green and red.
_COLOURS = {_FINDINGS: (88, 2, 87), _LANDMARKS: (92, -40, 70), _BANNER: (54, 80, 67)}
#: left, top, right, bottom of the banner as shares of the displayed area.
_BANNER_BOX = (0.2, 0.0, 0.8, 0.06)
#: of the values of a frame without a window, as for the pages and for most models.
_SHOWN_PERCENTILES = (1.0, 99.0)
#: of the ring around a point, as a share of the frame's width; a point alone is hardly seen.
_RING_RADIUS = 0.012


def presentation_states(work: Composition) -> tuple[Dataset, ...]:
    """One state for each frame with markings, in the order of the key frames."""
    marked = {marking.key_frame for marking in work.draft.markings}
    headers = {frame: work.header_of(frame) for frame in work.draft.key_frames if frame in marked}
    grey = {frame: header for frame, header in headers.items() if header.get("SamplesPerPixel", 1) == 1}
    return tuple(_state(frame, header, number, work) for number, (frame, header) in enumerate(grey.items(), 1))


def _state(frame: FrameReference, header: Dataset, number: int, work: Composition) -> Dataset:
    draft, made = work.draft, work.made
    ds = new_object(GrayscaleSoftcopyPresentationStateStorage, ObjectKind.PRESENTATION_STATE, number, "PR", made)
    add_body_part(ds, draft.body_part, made)
    ds.ContentLabel, ds.ContentDescription = "AI DRAFT", draft.banner[:64]
    ds.ContentCreatorName = f"{MANUFACTURER}^{made.model.name}"
    ds.PresentationCreationDate, ds.PresentationCreationTime = ds.ContentDate, ds.ContentTime
    series = Dataset()
    series.SeriesInstanceUID = frame.series_instance_uid
    series.ReferencedImageSequence = [image_reference(frame)]
    ds.ReferencedSeriesSequence = [series]
    ds.DisplayedAreaSelectionSequence = [_whole_frame(frame, header, work)]
    ds.GraphicLayerSequence = [
        GraphicLayer(name, order, display_color=CIELabColor(*colour))
        for order, (name, colour) in enumerate(_COLOURS.items(), 1)
    ]
    markings = [marking for marking in draft.markings if marking.key_frame == frame]
    ds.GraphicAnnotationSequence = [*_annotations(frame, markings, work), _banner(frame, work)]
    _say_how_values_become_grey(ds, frame, header, work)
    return ds


def _whole_frame(frame: FrameReference, header: Dataset, work: Composition) -> Dataset:
    """PS3.3 C.10.4; pixels have a size where the image gives one, else only proportions."""
    item = Dataset()
    item.DisplayedAreaTopLeftHandCorner = [1, 1]
    item.DisplayedAreaBottomRightHandCorner = [frame.columns, frame.rows]
    item.PresentationSizeMode = "SCALE TO FIT"
    spacing_mm = attribute_of_frame(header, frame, "PixelMeasuresSequence", "PixelSpacing")
    if isinstance(spacing_mm, MultiValue) and min(spacing_mm) > 0:
        item.PresentationPixelSpacing = list(spacing_mm)
        return item
    proportions = work.made.source.series_of(frame.series_instance_uid).row_to_column_spacing
    ratio = Fraction(proportions).limit_denominator(1000)
    item.PresentationPixelAspectRatio = [ratio.numerator, ratio.denominator]
    return item


def _annotations(frame: FrameReference, markings: list[Marking], work: Composition) -> Iterator[Dataset]:
    for layer, is_landmark in ((_FINDINGS, False), (_LANDMARKS, True)):
        of_layer = [marking for marking in markings if marking.is_landmark is is_landmark]
        if of_layer:
            item = _annotation(frame, layer)
            item.GraphicObjectSequence = [graphic for marking in of_layer for graphic in _graphics(marking, work)]
            item.TextObjectSequence = [_label(marking, work.made.words) for marking in of_layer]
            yield item


def _banner(frame: FrameReference, work: Composition) -> Dataset:
    item = _annotation(frame, _BANNER)
    item.TextObjectSequence = [TextObject(work.draft.banner, AnnotationUnitsValues.DISPLAY, bounding_box=_BANNER_BOX)]
    return item


def _annotation(frame: FrameReference, layer: str) -> Dataset:
    item = Dataset()
    item.ReferencedImageSequence = [image_reference(frame)]
    item.GraphicLayer = layer
    return item


def _graphics(marking: Marking, work: Composition) -> Iterator[GraphicObject]:
    """A closed rectangle, or a point in a ring; coordinates as in SCOORD (PS3.3 C.10.5.1.2)."""
    outline = outline_xy_px(marking)
    shapes = [(GraphicTypeValues.POLYLINE, outline)]
    if marking.region.kind is RegionKind.POINT:
        radius = _RING_RADIUS * marking.key_frame.columns
        # The second point of a circle lies on it, and has to lie within the frame.
        towards_middle = radius if outline[0, 0] < marking.key_frame.columns / 2 else -radius
        ring = np.vstack([outline[0], outline[0] + (towards_middle, 0.0)])
        shapes = [(GraphicTypeValues.POINT, outline), (GraphicTypeValues.CIRCLE, ring)]
    for kind, points in shapes:
        yield GraphicObject(
            graphic_type=kind,
            graphic_data=points,
            units=AnnotationUnitsValues.PIXEL,
            tracking_id=f"{marking.name} {marking.number}"[:64],
            tracking_uid=work.made.uids.tracking(marking.number),
        )


def _label(marking: Marking, words: Words) -> TextObject:
    left, top = outline_xy_px(marking).min(axis=0)
    return TextObject(
        label_of(marking, words), AnnotationUnitsValues.PIXEL, anchor_point=(left, top), anchor_point_visible=False
    )


def _say_how_values_become_grey(ds: Dataset, frame: FrameReference, header: Dataset, work: Composition) -> None:
    """Modality LUT, window and polarity (PS3.3 C.11.1, C.11.8, C.11.6); a state without them would change the grey."""
    slope = value_of_frame(header, frame, "PixelValueTransformationSequence", "RescaleSlope")
    if slope is not None:
        ds.RescaleSlope = slope
        ds.RescaleIntercept = value_of_frame(header, frame, "PixelValueTransformationSequence", "RescaleIntercept") or 0
        unit = value_of_frame(header, frame, "PixelValueTransformationSequence", "RescaleType")
        ds.RescaleType = unit or ("HU" if header.get("Modality") == "CT" else "US")
    elif "ModalityLUTSequence" in header:
        ds.ModalityLUTSequence = header.ModalityLUTSequence
    ds.SoftcopyVOILUTSequence = [_window(frame, header, work)]
    # Under a presentation state the photometric interpretation does not decide about polarity any more.
    is_inverse = header.get("PhotometricInterpretation") == "MONOCHROME1"
    ds.PresentationLUTShape = "INVERSE" if is_inverse else "IDENTITY"


def _window(frame: FrameReference, header: Dataset, work: Composition) -> Dataset:
    """The window that the model saw the frame through, else the header's first one, else its table, else its values.

    Without any a viewer would spread its grey over all values that could be stored (PS3.3 C.11.8), few of which occur.
    """
    voi, seen = Dataset(), work.window_of(frame)
    center = value_of_frame(header, frame, "FrameVOILUTSequence", "WindowCenter")
    width = value_of_frame(header, frame, "FrameVOILUTSequence", "WindowWidth")
    if seen is not None:
        voi.WindowCenter, voi.WindowWidth = seen
    elif center is not None and width is not None:
        voi.WindowCenter, voi.WindowWidth = center, width
        function = value_of_frame(header, frame, "FrameVOILUTSequence", "VOILUTFunction")
        if function is not None:
            voi.VOILUTFunction = function
    elif "VOILUTSequence" in header:
        voi.VOILUTSequence = header.VOILUTSequence[:1]
    else:
        low, high = np.percentile(work.values_of(frame), _SHOWN_PERCENTILES)
        voi.WindowCenter, voi.WindowWidth = (
            format_number_as_ds((low + high + 1) / 2),
            format_number_as_ds(high - low + 1),
        )
    return voi
