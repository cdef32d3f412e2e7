"""What DCMTK compresses is decoded to the pixels that DCMTK itself decodes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.phantoms import chest_like_ct, write_ct_series
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode
from umit_pacs.settings import ModelSettings

pytestmark = pytest.mark.peer

EXTENDED_12_BIT = Path(pydicom.__file__).parent / "data" / "test_files" / "JPEG-lossy.dcm"


def decompressed(path: Path, folder: Path) -> Path:
    """The file as dcmdjpeg decodes it."""
    plain = folder / "plain.dcm"
    subprocess.run(["dcmdjpeg", str(path), str(plain)], check=True, timeout=60)
    return plain


def assert_same_stored_values(path: Path, folder: Path) -> None:
    with DecodingProcess(ModelSettings()) as decoder:
        ours, theirs = decoder.digests(
            [FrameToDecode(path=each, frame_index=0) for each in (path, decompressed(path, folder))]
        )
    assert ours == theirs


def test_a_real_extended_jpeg_of_12_bits(tmp_path: Path) -> None:
    assert pydicom.dcmread(EXTENDED_12_BIT).BitsStored == 12
    assert_same_stored_values(EXTENDED_12_BIT, tmp_path)


@pytest.mark.parametrize("option", ["+e1", "+el", "+ee"], ids=["lossless SV1", "lossless", "extended"])
def test_what_dcmtk_compresses(tmp_path: Path, option: str) -> None:
    noise = np.random.default_rng(4).integers(0, 80, (64, 64), np.int16)
    (path,) = write_ct_series(tmp_path / "ct", (chest_like_ct(slices=3, edge=64)[1] + noise)[None])
    packed = tmp_path / "packed.dcm"
    subprocess.run(["dcmcjpeg", option, str(path), str(packed)], check=True, timeout=60)
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID.is_encapsulated
    assert_same_stored_values(packed, tmp_path)
