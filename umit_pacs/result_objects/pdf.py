"""Pages as PDF/A-2b (ISO 19005-2): each a picture, with its text over it, invisible, to be searched and copied.

The text needs no font that has its glyphs, so no font's licence is touched and Chinese costs nothing: it is set in
`blank.ttf`, a font of 480 bytes whose one glyph is empty, as OCR programs do. The file has no clock and no random
number in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from io import BytesIO
from xml.sax.saxutils import escape

import pydyf
from PIL import Image, ImageCms

#: Of every glyph of blank.ttf, as a share of the font's size.
_ADVANCE = 0.5
#: Every code stands for the glyph with this number.
_GLYPH = b"\x00\x01"
_TO_UNICODE = """/CIDInit /ProcSet findresource begin 12 dict begin begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def /CMapType 2 def
1 begincodespacerange <0000> <FFFF> endcodespacerange
{blocks}
endcmap CMapName currentdict /CMap defineresource pop end end"""
#: Characters in one block of the map (Adobe Technical Note 5014).
_BLOCK = 100
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/">
<pdfaid:part>2</pdfaid:part><pdfaid:conformance>B</pdfaid:conformance>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{title}</rdf:li></rdf:Alt></dc:title>
<dc:language><rdf:Bag><rdf:li>{language}</rdf:li></rdf:Bag></dc:language>
<xmp:CreateDate>{made_at}</xmp:CreateDate><xmp:ModifyDate>{made_at}</xmp:ModifyDate>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedText:
    """One line of text as it stands on a page, in points from the page's top left corner."""

    text: str
    left_pt: float
    baseline_pt: float
    width_pt: float
    size_pt: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PDFPage:
    #: RGB, fills the page.
    image: Image.Image
    texts: tuple[PlacedText, ...]


def write_pdf(
    pages: Iterable[PDFPage], size_pt: tuple[float, float], *, title: str, language: str, made_at: datetime
) -> bytes:
    """The file; the same arguments give the same bytes. size_pt: width and height of every page in points.

    One page is held at a time.
    """
    pdf = pydyf.PDF()
    to_unicode = _deflated(b"")
    font = _add_font(pdf, _add(pdf, to_unicode))
    codes: set[bytes] = set()
    for page in pages:
        _add_page(pdf, page, size_pt, font)
        codes.update(code for text in page.texts for code in _codes(text.text))
    to_unicode.stream = [zlib.compress(_map_to_unicode(sorted(codes)))]
    xmp = _XMP.format(title=escape(title), language=language, made_at=made_at.isoformat(timespec="seconds"))
    # Not compressed, so that any program finds it (ISO 19005-2 6.6.2.1).
    metadata = pydyf.Stream([xmp.encode("utf-8")], {"Type": "/Metadata", "Subtype": "/XML"})
    pdf.add_object(metadata)
    pdf.catalog["Metadata"] = metadata.reference
    pdf.catalog["Lang"] = pydyf.String(language)
    pdf.catalog["OutputIntents"] = pydyf.Array([_add_output_intent(pdf)])
    pdf.catalog["ViewerPreferences"] = pydyf.Dictionary({"DisplayDocTitle": "true"})
    content = BytesIO()
    pdf.write(content, identifier=True)
    written = content.getvalue().rstrip(b"\r\n")
    # One end of line may follow (ISO 32000-1 7.5.5), and nothing else: DICOM's even length must need no padding.
    return written + (b"\r\n" if len(written) % 2 == 0 else b"\n")


def _add(pdf: pydyf.PDF, item: pydyf.Object) -> bytes:
    pdf.add_object(item)
    reference: bytes = item.reference
    return reference


def _deflated(content: bytes, **extra: object) -> pydyf.Stream:
    return pydyf.Stream([zlib.compress(content)], {"Filter": "/FlateDecode", **extra})


def _add_output_intent(pdf: pydyf.PDF) -> pydyf.Dictionary:
    """What the device's colours mean: sRGB (ISO 19005-2 6.2.3)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # ICC.1 7.2: when the profile was made, 12 bytes from 24 on.
    profile[24:36] = b"".join(value.to_bytes(2, "big") for value in (2026, 1, 1, 0, 0, 0))
    return pydyf.Dictionary(
        {
            "Type": "/OutputIntent",
            "S": "/GTS_PDFA1",
            "OutputConditionIdentifier": pydyf.String("sRGB IEC61966-2.1"),
            "DestOutputProfile": _add(pdf, _deflated(bytes(profile), N=3)),
        }
    )


def _codes(text: str) -> Iterator[bytes]:
    """The UTF-16 code units of a text."""
    units = text.encode("utf-16-be")
    yield from (units[at : at + 2] for at in range(0, len(units), 2))


def _map_to_unicode(codes: Sequence[bytes]) -> bytes:
    """Every code stands for itself (ISO 32000-1 9.10.3)."""
    blocks = []
    for start in range(0, len(codes), _BLOCK):
        lines = [f"<{code.hex()}> <{code.hex()}>" for code in codes[start : start + _BLOCK]]
        blocks += [f"{len(lines)} beginbfchar", *lines, "endbfchar"]
    return _TO_UNICODE.format(blocks="\n".join(blocks)).encode("ascii")


def _add_font(pdf: pydyf.PDF, to_unicode: bytes) -> bytes:
    """A composite font whose codes are UTF-16 and whose glyphs are all the blank one (ISO 32000-1 9.7)."""
    file = resources.files("umit_pacs.result_objects").joinpath("blank.ttf").read_bytes()
    descriptor = pydyf.Dictionary(
        {
            "Type": "/FontDescriptor",
            "FontName": "/Blank",
            "Flags": 5,
            "FontBBox": pydyf.Array([0, 0, 500, 1000]),
            "ItalicAngle": 0,
            "Ascent": 800,
            "Descent": -200,
            "CapHeight": 800,
            "StemV": 80,
            "FontFile2": _add(pdf, _deflated(file, Length1=len(file))),
        }
    )
    descendant = pydyf.Dictionary(
        {
            "Type": "/Font",
            "Subtype": "/CIDFontType2",
            "BaseFont": "/Blank",
            "CIDSystemInfo": "<< /Registry (Adobe) /Ordering (Identity) /Supplement 0 >>",
            "FontDescriptor": _add(pdf, descriptor),
            "DW": round(_ADVANCE * 1000),
            "CIDToGIDMap": _add(pdf, _deflated(_GLYPH * 65536)),
        }
    )
    font = pydyf.Dictionary(
        {
            "Type": "/Font",
            "Subtype": "/Type0",
            "BaseFont": "/Blank",
            "Encoding": "/Identity-H",
            "DescendantFonts": pydyf.Array([_add(pdf, descendant)]),
            "ToUnicode": to_unicode,
        }
    )
    return _add(pdf, font)


def _add_page(pdf: pydyf.PDF, page: PDFPage, size_pt: tuple[float, float], font: bytes) -> None:
    picture = _deflated(
        page.image.tobytes(),
        Type="/XObject",
        Subtype="/Image",
        Width=page.image.width,
        Height=page.image.height,
        ColorSpace="/DeviceRGB",
        BitsPerComponent=8,
    )
    width, height = size_pt
    operators = [f"q {width:g} 0 0 {height:g} 0 0 cm /I Do Q BT 3 Tr"]
    operators += [_text_operators(text, height) for text in page.texts if text.text.strip() and text.width_pt > 0]
    content = _deflated("\n".join([*operators, "ET"]).encode("ascii"))
    pdf.add_page(
        pydyf.Dictionary(
            {
                "Type": "/Page",
                "Parent": pdf.pages.reference,
                "MediaBox": pydyf.Array([0, 0, width, height]),
                "Resources": pydyf.Dictionary(
                    {
                        "XObject": pydyf.Dictionary({"I": _add(pdf, picture)}),
                        "Font": pydyf.Dictionary({"F": font}),
                    }
                ),
                "Contents": _add(pdf, content),
            }
        )
    )


def _text_operators(placed: PlacedText, page_height_pt: float) -> str:
    """Set one line, stretched to the width that its glyphs take in the picture."""
    codes = placed.text.encode("utf-16-be")
    natural_width_pt = len(codes) / 2 * _ADVANCE * placed.size_pt
    stretch_percent = 100 * placed.width_pt / natural_width_pt
    return (
        f"/F {placed.size_pt:.2f} Tf {stretch_percent:.2f} Tz "
        f"1 0 0 1 {placed.left_pt:.2f} {page_height_pt - placed.baseline_pt:.2f} Tm <{codes.hex()}> Tj"
    )
