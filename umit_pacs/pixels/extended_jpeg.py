"""JPEG Extended (processes 2 and 4) with 12 bits, as a decoder plugin of pydicom that uses GDCM.

pydicom's own GDCM plugin refuses more than 8 bits for this syntax and Pillow's codec cannot do them, so that without
this only a GPL codec would be left. GDCM decodes them as DCMTK does, which a test holds.
"""

from __future__ import annotations

from typing import Any

import gdcm
from pydicom.pixels.decoders.base import JPEGExtended12BitDecoder
from pydicom.uid import JPEGExtended12Bit

#: Asked for by pydicom's plugin interface.
DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("gdcm>=3.2",)}
_NAME = "gdcm-12-bit"


def is_available(uid: str) -> bool:
    """Whether the plugin decodes this transfer syntax."""
    return uid == JPEGExtended12Bit


def decode_frame(src: bytes, runner: Any) -> bytes:
    """The decoded frame, samples of two bytes. Raises ValueError when it is not 12-bit grey or GDCM gives up."""
    if not 8 < runner.bits_stored <= 12 or runner.samples_per_pixel != 1 or runner.bits_allocated != 16:
        raise ValueError("only grey frames of 9 to 12 bits are decoded here")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(src)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(str(runner.photometric_interpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, runner.pixel_representation))
    # GDCM hands bytes out as text.
    buffer = image.GetBuffer()
    if buffer is None:
        raise ValueError("GDCM gives up")
    return bytes(buffer.encode("utf-8", "surrogateescape"))


def register() -> None:
    """Let pydicom use this plugin."""
    if _NAME not in JPEGExtended12BitDecoder.available_plugins:
        JPEGExtended12BitDecoder.add_plugin(_NAME, (__name__, "decode_frame"))
