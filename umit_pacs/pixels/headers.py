"""Reads the header of a stored instance, without its pixels and without trusting it.

pydicom alone inflates a deflated data set without a bound, follows nested sequences until the interpreter's stack ends
and warns about every odd value. Here each of these ends in a reason or is passed over.
"""

from __future__ import annotations

import mmap
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom.config
from pydicom.charset import convert_encodings, python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from umit_pacs.errors import UndecodablePixels

#: A header longer than this, inflated or not, is refused: the longest real ones (enhanced objects) have a few MiB.
MAXIMUM_HEADER_BYTES = 64 * 1024**2
#: Sequences within sequences; structured reports of real systems stay under 20.
MAXIMUM_DEPTH = 64

_PREAMBLE_BYTES = 132
#: Pixel Data, Float Pixel Data, Double Float Pixel Data.
_PIXEL_DATA = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
#: What pydicom raises on what it cannot parse.
_PARSER_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    NotImplementedError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
    struct.error,
    BytesLengthException,
)
_CHARACTER_SET = 0x00080005
#: ISO 8859-1 gives every byte a character and gives the same bytes back.
_TOLERANT_CHARACTER_SET = "ISO_IR 100"

# Odd values are judged where they are used; a warning per element would only fill the log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_header(path: Path) -> Dataset:
    """The data set of the file at `path` up to its pixel data, with `file_meta`.

    An unknown character set is replaced by ISO 8859-1, so that every text can be read. Raises UndecodablePixels with
    the reason not_a_dicom_file, header_too_large, nested_too_deep, invalid_deflate or unreadable_header.
    """
    return locate_pixels(path)[0]


def locate_pixels(path: Path) -> tuple[Dataset, int]:
    """As `read_header`, and the byte at which the pixel data element begins.

    Of a deflated file that is the byte of the inflated data set, without file meta information.
    """
    try:
        size_bytes = path.stat().st_size
        with (
            warnings.catch_warnings(action="ignore"),
            path.open("rb") as file,
            mmap.mmap(file.fileno(), min(size_bytes, MAXIMUM_HEADER_BYTES), access=mmap.ACCESS_READ) as content,
        ):
            header, offset = _parse(content, is_whole=size_bytes <= MAXIMUM_HEADER_BYTES)
            _check_depth(header)
    except RecursionError as exc:
        raise _too_deep() from exc
    except FileNotFoundError:
        raise
    except _PARSER_ERRORS as exc:
        # pydicom turns the end of the stack into an OSError in places.
        if isinstance(exc.__context__, RecursionError):
            raise _too_deep() from exc
        detail = f"the header cannot be read ({type(exc).__name__})"
        raise UndecodablePixels(detail, reason="unreadable_header") from exc
    return header, offset


def _parse(content: mmap.mmap, *, is_whole: bool) -> tuple[Dataset, int]:
    """File meta information, then the data set up to its pixel data; `is_whole`: nothing of the file is cut off."""
    if content[128:_PREAMBLE_BYTES] != b"DICM":
        raise UndecodablePixels("the file has no DICOM prefix", reason="not_a_dicom_file")
    content.seek(_PREAMBLE_BYTES)
    source: Any = content
    meta = read_dataset(source, False, True, stop_when=_is_past_meta)
    syntax = str(meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
    if syntax == DeflatedExplicitVRLittleEndian:
        body, is_whole = inflate(content.read(), MAXIMUM_HEADER_BYTES)
        source = BytesIO(body)
    has_stopped = False

    def stop_at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal has_stopped
        has_stopped = tag in _PIXEL_DATA
        return has_stopped

    is_implicit, is_little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    header = read_dataset(source, is_implicit, is_little, stop_when=stop_at_pixels)
    if not (has_stopped or is_whole):
        raise UndecodablePixels(f"no pixel data within {MAXIMUM_HEADER_BYTES} bytes", reason="header_too_large")
    header.file_meta = FileMetaDataset(meta)
    header.set_original_encoding(is_implicit, is_little, _character_set(header))
    return header, source.tell()


def _is_past_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def inflate(content: bytes, maximum_bytes: int) -> tuple[bytes, bool]:
    """The first `maximum_bytes` of a deflated data set (PS3.5 A.5), inflated, and whether that is all of it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(content, maximum_bytes)
    except zlib.error as exc:
        raise UndecodablePixels("the deflated data set is damaged", reason="invalid_deflate") from exc
    return body, inflater.eof or not inflater.unconsumed_tail


def _check_depth(header: Dataset) -> None:
    """Raise unless every sequence is nested less than MAXIMUM_DEPTH deep.

    Sequences of defined length are parsed only when touched: this touches them all, so that later readers may.
    """
    level = [header]
    for _ in range(MAXIMUM_DEPTH):
        level = [item for dataset in level for item in _items(dataset)]
        if not level:
            return
    raise _too_deep()


def _items(dataset: Dataset) -> list[Dataset]:
    """The items of all sequences directly in `dataset`."""
    items: list[Dataset] = []
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        vr = element.VR if element is not None else None
        if vr == "SQ" or (vr is None and _dictionary_says_sequence(tag)):
            items.extend(dataset[tag].value or [])
    return items


def _dictionary_says_sequence(tag: BaseTag) -> bool:
    return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"


def _too_deep() -> UndecodablePixels:
    return UndecodablePixels(f"sequences are nested more than {MAXIMUM_DEPTH} deep", reason="nested_too_deep")


def _character_set(header: Dataset) -> list[str]:
    """The Python encodings of the header's texts; a character set that pydicom does not know is replaced."""
    value = header[_CHARACTER_SET].value if _CHARACTER_SET in header else None
    terms = [str(term) for term in ([value] if isinstance(value, str) else value or [])]
    if any(term not in python_encoding for term in terms):
        header.SpecificCharacterSet = terms = [_TOLERANT_CHARACTER_SET]
    return convert_encodings(terms or [""])
