"""Decodes the frames of one file to stored values. Runs in the disposable process of `decoding_process` only."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from struct import unpack_from
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import data_element_generator, read_dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    HTJ2K,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from umit_pacs.errors import UndecodablePixels
from umit_pacs.pixels.attributes import value, whole_number
from umit_pacs.pixels.budget import pixels_announced, require_decodable
from umit_pacs.pixels.codestreams import require_matching_codestream
from umit_pacs.pixels.extended_jpeg import register
from umit_pacs.pixels.frames import frame_count
from umit_pacs.pixels.headers import MAXIMUM_HEADER_BYTES, inflate, locate_pixels

#: What pydicom and its plugins raise on pixel data they cannot decode.
_DECODER_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    OverflowError,
    ArithmeticError,
)
#: Tag, VR, two reserved bytes and length of an explicit VR element with a long length.
_EXPLICIT_HEAD_BYTES = 12
_IMPLICIT_HEAD_BYTES = 8
_PIXEL_DATA_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"UN"})
_UNDEFINED_LENGTH = 0xFFFFFFFF
#: One codec per syntax, so that lossy frames have the same pixels everywhere; pydicom would take any that answers.
_PLUGINS = {
    RLELossless: "pylibjpeg",
    **dict.fromkeys((*JPEG2000TransferSyntaxes, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL), "pylibjpeg"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls"),
}

register()


def stored_frames(
    path: Path, frame_indices: Sequence[int], *, image_pixel_budget: int
) -> Iterator[tuple[Dataset, int, NDArray[Any]]]:
    """(header, frame index, stored values) for each of `frame_indices` (0-based, ascending) of the file at `path`.

    Stored values: (H, W), or (H, W, 3) RGB for colour. Raises PixelBudgetExceeded before anything is allocated, and
    UndecodablePixels with a reason: besides those of `require_decodable` and `require_matching_codestream`,
    truncated_pixel_data, no_such_frame and undecodable_pixels.
    """
    header, offset = locate_pixels(path)
    require_decodable(header, image_pixel_budget=image_pixel_budget)
    if max(frame_indices) >= frame_count(header):
        raise UndecodablePixels(f"frame {max(frame_indices) + 1} of {frame_count(header)}", reason="no_such_frame")
    syntax = UID(header.file_meta.TransferSyntaxUID)
    _require_pixels(path, header, offset, frame_indices, syntax)
    source = _source(path, header, offset, syntax)
    rows, columns = whole_number(value(header, "Rows")), whole_number(value(header, "Columns"))
    try:
        with warnings.catch_warnings(action="ignore"):
            # Asked for single frames, pydicom walks the fragments from the first one for each of them.
            single = None if list(frame_indices) == list(range(frame_count(header))) else frame_indices
            decoded = iter_pixels(source, indices=single, decoding_plugin=_PLUGINS.get(syntax, ""))
            for frame_index, stored in zip(frame_indices, decoded, strict=True):
                if stored.shape[:2] != (rows, columns):
                    raise UndecodablePixels(f"decoded to {stored.shape}", reason="pixel_size_lie")
                yield header, frame_index, np.ascontiguousarray(stored)
    except _DECODER_ERRORS as exc:
        raise UndecodablePixels(f"the decoder gave up ({type(exc).__name__})", reason="undecodable_pixels") from exc


def _require_pixels(path: Path, header: Dataset, offset: int, frame_indices: Sequence[int], syntax: UID) -> None:
    """Raise unless the pixel data are there in full: their length when native, their codestreams when compressed."""
    if syntax == DeflatedExplicitVRLittleEndian:
        return  # pydicom compares the length once it is inflated.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # By what is there: some writers change to implicit VR behind the meta information.
        is_explicit = content[offset + 4 : offset + 6] in _PIXEL_DATA_VRS
        start = offset + (_EXPLICIT_HEAD_BYTES if is_explicit else _IMPLICIT_HEAD_BYTES)
        if start > len(content):
            raise UndecodablePixels("the file ends before its pixel data", reason="truncated_pixel_data")
        if syntax.is_encapsulated:
            content.seek(start)
            _require_codestreams(content, header, frame_indices, syntax)
        else:
            _require_length(content, header, start, syntax)


def _require_length(content: mmap.mmap, header: Dataset, start: int, syntax: UID) -> None:
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    (declared,) = unpack_from(f"{order}L", content, start - 4)
    if declared == _UNDEFINED_LENGTH:
        raise UndecodablePixels("fragments in a native transfer syntax", reason="invalid_pixel_description")
    available = min(declared, len(content) - start)
    needed = pixels_announced(header) * ((whole_number(value(header, "BitsAllocated")) or 8) // 8)
    if value(header, "PhotometricInterpretation") == "YBR_FULL_422":
        needed = needed * 2 // 3
    if available < needed:
        raise UndecodablePixels(f"{available} of {needed} bytes of pixel data", reason="truncated_pixel_data")


def _require_codestreams(content: mmap.mmap, header: Dataset, frame_indices: Sequence[int], syntax: UID) -> None:
    source: Any = content
    wanted = set(frame_indices)
    try:
        for frame_index, frame in enumerate(generate_frames(source, number_of_frames=frame_count(header))):
            if frame_index in wanted:
                wanted.discard(frame_index)
                require_matching_codestream(
                    frame,
                    syntax=syntax,
                    rows=whole_number(value(header, "Rows")) or 0,
                    columns=whole_number(value(header, "Columns")) or 0,
                    samples=whole_number(value(header, "SamplesPerPixel")) or 0,
                )
            if not wanted:
                return
    except _DECODER_ERRORS as exc:
        raise UndecodablePixels("the fragments hold no such frame", reason="truncated_pixel_data") from exc
    raise UndecodablePixels("the fragments hold no such frame", reason="truncated_pixel_data")


def _source(path: Path, header: Dataset, offset: int, syntax: UID) -> Any:
    """What pydicom decodes from: the file, or a data set with its pixels where that spares reading the header twice."""
    if syntax == DeflatedExplicitVRLittleEndian:
        return _inflated(path, header)
    if syntax != ExplicitVRLittleEndian or frame_count(header) != 1:
        return path
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(_EXPLICIT_HEAD_BYTES)[4:6] not in _PIXEL_DATA_VRS:
            return path  # in implicit VR, against its meta information
        file.seek(offset)
        element = next(data_element_generator(file, False, True))
    whole = Dataset(dict(header.items()))
    whole.file_meta = header.file_meta
    whole[element.tag] = element
    whole.set_original_encoding(False, True, header.original_character_set)
    return whole


def _inflated(path: Path, header: Dataset) -> Dataset:
    """The whole data set of a deflated file, as long as it inflates to no more than it announces."""
    limit = MAXIMUM_HEADER_BYTES + pixels_announced(header) * 8
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        content.seek(132)
        source: Any = content
        read_dataset(source, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        body, is_whole = inflate(content.read(), limit)
    if not is_whole:
        raise UndecodablePixels("the data set inflates to more than it announces", reason="deflate_bomb")
    dataset = read_dataset(BytesIO(body), False, True)
    dataset.file_meta = header.file_meta
    dataset.set_original_encoding(False, True, header.original_character_set)
    return dataset
