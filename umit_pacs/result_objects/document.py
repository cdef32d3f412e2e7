"""The draft as Encapsulated PDF (PS3.3 A.45.1), A4: the text, then the key images, with the banner on each page."""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage

from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.composition import Composition
from umit_pacs.result_objects.fonts import Font, Fonts, find_fonts
from umit_pacs.result_objects.frame_headers import image_reference
from umit_pacs.result_objects.pages import MOST_PICTURES, caption_of
from umit_pacs.result_objects.pdf import PDFPage, PlacedText, write_pdf
from umit_pacs.result_objects.picture import draw_picture, draw_sides, fitted_size_px
from umit_pacs.result_objects.provenance import code_item, new_object
from umit_pacs.result_objects.text_flow import Row, flow, identity_rows, rows_of, text_rows, wrap

MIME_TYPE = "application/pdf"
#: A4. The page is laid out in pixels of 0.62 points, and drawn with twice as many.
_SIZE_PT = (595.0, 842.0)
_WIDTH_PX, _HEIGHT_PX = 960, 1358
_SCALE = 2
_POINTS = _SIZE_PT[0] / _WIDTH_PX
_MARGIN_PX, _BANNER_PX, _FOOTER_PX, _BODY_PX = 60, 64, 44, 18
_TOP_PX = _BANNER_PX + 24
_COLUMN_PX = _WIDTH_PX - 2 * _MARGIN_PX
_ROOM_PX = _HEIGHT_PX - _TOP_PX - _FOOTER_PX
_RED, _WHITE, _GREY = (176, 0, 32), (255, 255, 255), (90, 94, 98)


def document(work: Composition) -> Dataset:
    """The Encapsulated PDF object."""
    draft, made = work.draft, work.made
    ds = new_object(EncapsulatedPDFStorage, ObjectKind.DOCUMENT, 1, "DOC", made)
    ds.ConversionType = "WSD"
    ds.SecondaryCaptureDeviceManufacturer = ds.Manufacturer
    ds.SecondaryCaptureDeviceManufacturerModelName = ds.ManufacturerModelName
    ds.SecondaryCaptureDeviceSoftwareVersions = ds.SoftwareVersions
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "YES", "NO"
    ds.AcquisitionDateTime = ""
    instances = {frame.sop_instance_uid: replace(frame, frame_number=None) for frame in draft.frames}
    ds.SourceInstanceSequence = [image_reference(instance) for instance in instances.values()]
    ds.DocumentTitle = f"{draft.banner}: {draft.title}"
    title = codes.cid7000.DiagnosticImagingReport
    ds.ConceptNameCodeSequence = [code_item(title.value, title.scheme_designator, title.meaning)]
    ds.VerificationFlag = "UNVERIFIED"
    ds.MIMETypeOfEncapsulatedDocument = MIME_TYPE
    ds.EncapsulatedDocument = _pdf(work)
    ds.EncapsulatedDocumentLength = len(ds.EncapsulatedDocument)
    return ds


def _pdf(work: Composition) -> bytes:
    draft, made = work.draft, work.made
    fonts = find_fonts(draft.language, work.settings.font)
    plans = [*_text_plans(work, fonts), *_picture_plans(work, fonts)]
    pages = (_render(plan, number, len(plans), work, fonts) for number, plan in enumerate(plans, 1))
    return write_pdf(
        pages,
        _SIZE_PT,
        title=f"{draft.banner}: {draft.title}",
        language=made.words("language_code"),
        made_at=made.composed_at,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What one page holds between banner and footer."""

    rows: list[Row]
    picture: Image.Image | None = None


def _text_plans(work: Composition, fonts: Fonts) -> Iterator[_Plan]:
    # The first line of the status is the banner, which stands over every page.
    status = [text_rows(line.text, fonts, _COLUMN_PX) for line in work.draft.sections[0].lines[1:]]
    rows = [*itertools.chain.from_iterable(status), *rows_of(work.draft, fonts, _COLUMN_PX, _BODY_PX)]
    rows += identity_rows(work.draft, fonts, _COLUMN_PX)
    yield from (_Plan(rows=column) for column in flow(rows, itertools.repeat(_ROOM_PX)))


def _picture_plans(work: Composition, fonts: Fonts) -> Iterator[_Plan]:
    """A page for each key image, with its caption; its reason where it cannot be drawn."""
    draft, source, words = work.draft, work.made.source, work.made.words
    for frame in draft.key_frames[:MOST_PICTURES]:
        series = source.series_of(frame.series_instance_uid)
        size_px = fitted_size_px(frame, series.row_to_column_spacing, _COLUMN_PX, _ROOM_PX - 80)
        try:
            grey = work.frame_source(frame, *size_px)
        except StudyUnusable as exc:
            text = words("pages.no_picture", reason=words.reason(exc.reason))
            yield _Plan(rows=text_rows(text, fonts, _COLUMN_PX))
            continue
        markings = [marking for marking in draft.markings if marking.key_frame == frame]
        picture = draw_picture(grey, frame, markings, fonts, words)
        draw_sides(picture, series.left_direction, fonts)
        yield _Plan(rows=text_rows(caption_of(frame, draft, source, words), fonts, _COLUMN_PX), picture=picture)


def _render(plan: _Plan, number: int, count: int, work: Composition, fonts: Fonts) -> PDFPage:
    page = _Sheet()
    draft, words = work.draft, work.made.words
    page.canvas.rectangle((0, 0, _WIDTH_PX * _SCALE, _BANNER_PX * _SCALE), fill=_RED)
    page.write(draft.banner, fonts.bold(32), _MARGIN_PX, 14, _WHITE)
    side = words("pages.page", number=number, count=count)
    page.write(side, fonts.regular(16), _WIDTH_PX - _MARGIN_PX - round(fonts.regular(16).getlength(side)), 24, _WHITE)
    footer = wrap(words("not_a_diagnosis"), fonts.regular(13).getlength, _COLUMN_PX)[0]
    page.write(footer, fonts.regular(13), _MARGIN_PX, _HEIGHT_PX - _FOOTER_PX + 12, _GREY)
    top = _TOP_PX
    if plan.picture is not None:
        size_px = (plan.picture.width * _SCALE, plan.picture.height * _SCALE)
        page.image.paste(plan.picture.resize(size_px), (_MARGIN_PX * _SCALE, top * _SCALE))
        top += plan.picture.height + 12
    for row in plan.rows:
        if row.font is not None:
            page.write(row.text, row.font, _MARGIN_PX + row.indent_px, top, _on_paper(row.colour))
        top += row.height_px
    return PDFPage(image=page.image, texts=tuple(page.texts))


class _Sheet:
    """A white page that keeps what is written on it, as picture and as text."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (_WIDTH_PX * _SCALE, _HEIGHT_PX * _SCALE), _WHITE)
        self.canvas = ImageDraw.Draw(self.image)
        self.texts: list[PlacedText] = []

    def write(self, text: str, font: Font, left_px: float, top_px: float, colour: tuple[int, int, int]) -> None:
        """font: in pixels of the layout."""
        size_px = float(getattr(font, "size", _BODY_PX))
        drawn = font.font_variant(size=size_px * _SCALE) if isinstance(font, ImageFont.FreeTypeFont) else font
        self.canvas.text((left_px * _SCALE, top_px * _SCALE), text, font=drawn, fill=colour)
        self.texts.append(
            PlacedText(
                text=text,
                left_pt=left_px * _POINTS,
                baseline_pt=(top_px + size_px) * _POINTS,
                width_pt=font.getlength(text) * _POINTS,
                size_pt=size_px * _POINTS,
            )
        )


def _on_paper(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour that stands out from black, as one of the same hue that stands out from white."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in colour))
    red, green, blue = colorsys.hls_to_rgb(hue, min(1 - lightness, 0.35), saturation)
    return round(red * 255), round(green * 255), round(blue * 255)
