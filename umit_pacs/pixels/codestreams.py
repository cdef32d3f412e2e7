"""Looks into compressed frames before a decoder does: a codestream that contradicts its header is not decoded.

A decoder allocates what the codestream announces, whatever the DICOM header and the pixel budget say, and some
decoders return the part of a truncated image that arrived without a word.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import UID, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from umit_pacs.errors import UndecodablePixels

_JPEG = frozenset({*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes})
#: JPEG 2000 (parts 1 and 2) and High-Throughput JPEG 2000.
_JPEG_2000 = frozenset({f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93, 201, 202, 203)})
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_END = b"\xff\xd9"


@dataclass(frozen=True, kw_only=True, slots=True)
class CodestreamSize:
    """What a codestream says of itself."""

    rows: int
    columns: int
    components: int


def require_matching_codestream(frame: bytes, *, syntax: UID, rows: int, columns: int, samples: int) -> None:
    """Raise UndecodablePixels unless the compressed frame has the announced size and its end.

    Reasons: pixel_size_lie, truncated_pixel_data, unreadable_codestream. Syntaxes other than JPEG, JPEG-LS and
    JPEG 2000 pass: their decoders work from the header alone.
    """
    if syntax not in _JPEG | _JPEG_2000:
        return
    size = _jpeg_2000_size(frame) if syntax in _JPEG_2000 else _jpeg_size(frame)
    if size is None:
        raise UndecodablePixels("the compressed frame has no readable beginning", reason="unreadable_codestream")
    if size != CodestreamSize(rows=rows, columns=columns, components=samples):
        raise UndecodablePixels(
            f"the header says {rows}x{columns}x{samples}, the compressed frame "
            f"{size.rows}x{size.columns}x{size.components}",
            reason="pixel_size_lie",
        )
    # Fragments are padded to even length (PS3.5 A.4): with zero, by some writers with more, by some with 0xFF.
    if not frame.rstrip(b"\x00\xff").endswith(_END):
        raise UndecodablePixels("the compressed frame ends too early", reason="truncated_pixel_data")


def _jpeg_size(frame: bytes) -> CodestreamSize | None:
    """From the start of frame segment (ISO/IEC 10918-1 B.2.2, ISO/IEC 14495-1 C.2.2)."""
    offset = 2
    if frame[:2] != b"\xff\xd8":
        return None
    while offset + 10 <= len(frame):
        if frame[offset] != 0xFF:
            return None
        marker = frame[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        # SOF0 to SOF15 without DHT, JPG and DAC; SOF55 is JPEG-LS.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            return CodestreamSize(
                rows=int.from_bytes(frame[offset + 5 : offset + 7], "big"),
                columns=int.from_bytes(frame[offset + 7 : offset + 9], "big"),
                components=frame[offset + 9],
            )
        offset += 2 + int.from_bytes(frame[offset + 2 : offset + 4], "big")
    return None


def _jpeg_2000_size(frame: bytes) -> CodestreamSize | None:
    """From the SIZ segment, which comes first (ISO/IEC 15444-1 A.5.1), inside a JP2 file or not."""
    start = frame.find(b"jp2c") + 4 if frame.startswith(_JP2_SIGNATURE) else 0
    if frame[start : start + 4] != b"\xff\x4f\xff\x51" or len(frame) < start + 42:
        return None
    width, height, left, top = (
        int.from_bytes(frame[start + 8 + 4 * index : start + 12 + 4 * index], "big") for index in range(4)
    )
    return CodestreamSize(
        rows=height - top, columns=width - left, components=int.from_bytes(frame[start + 40 : start + 42], "big")
    )
