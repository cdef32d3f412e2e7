"""The four UIDs of a data set are found in every encoding, and nothing hostile costs more than its bytes."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests.receive_fixtures import ct_slice
from umit_pacs.dicom_network.data_sets import NotUnderstood, read_identity
from umit_pacs.dicom_network.part10 import FileMeta, encode_file_meta, read_file_meta

EXPLICIT = str(ExplicitVRLittleEndian)


def encoded(image: Dataset, syntax: str = EXPLICIT) -> bytes:
    uid = UID(syntax)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = uid.is_implicit_VR, uid.is_little_endian
    write_dataset(buffer, image)
    content = buffer.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = compressor.compress(content) + compressor.flush()
        content += b"\0" * (len(content) % 2)
    return content


def identity_of(content: bytes, syntax: str = EXPLICIT):
    return read_identity(lambda size: content[:size], syntax)


def ct(**changes) -> Dataset:
    image = ct_slice(**changes)
    del image.file_meta
    return image


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_encoding_is_read(syntax: str) -> None:
    image = ct()
    identity = identity_of(encoded(image, syntax), syntax)
    assert identity.sop_class_uid == image.SOPClassUID
    assert identity.sop_instance_uid == image.SOPInstanceUID
    assert identity.study_instance_uid == image.StudyInstanceUID
    assert identity.series_instance_uid == image.SeriesInstanceUID


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "JPEG2000.dcm", "rtplan.dcm",
     "reportsi.dcm", "waveform_ecg.dcm", "liver_1frame.dcm"],
)  # fmt: skip
def test_real_files_are_read_as_pydicom_reads_them(name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    expected = dcmread(path, stop_before_pixels=True)
    meta, offset = read_file_meta(path)
    identity = identity_of(path.read_bytes()[offset:], meta.transfer_syntax_uid)
    assert identity.study_instance_uid == expected.StudyInstanceUID
    assert identity.series_instance_uid == expected.SeriesInstanceUID
    assert identity.sop_instance_uid == expected.SOPInstanceUID


@pytest.mark.parametrize("depth", [1, 300, 20_000])
def test_nested_sequences_are_passed_over_at_any_depth(depth: int) -> None:
    opening = struct.pack("<HH2s2xL", 0x0008, 0x1140, b"SQ", 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    whole = encoded(ct())
    start = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    content = whole[:start] + opening * depth + closing * depth + whole[start:]
    assert identity_of(content) == identity_of(whole)


def test_a_sequence_of_unknown_vr_is_read_as_implicit() -> None:
    whole = encoded(ct())
    start = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    private = struct.pack("<HH2s2xL", 0x0009, 0x1001, b"UN", 0xFFFFFFFF)
    private += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    private += struct.pack("<HHL", 0x0008, 0x0060, 2) + b"CT"
    private += struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    assert identity_of(whole[:start] + private + whole[start:]) == identity_of(whole)


def test_a_uid_inside_a_sequence_is_not_the_data_sets_own() -> None:
    image = ct()
    item = Dataset()
    item.StudyInstanceUID = item.SOPInstanceUID = "1.2.3.4.5"
    image.ReferencedStudySequence = Sequence([item])
    assert identity_of(encoded(image)).study_instance_uid == image.StudyInstanceUID


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_missing_uid_is_named(keyword: str) -> None:
    image = ct()
    delattr(image, keyword)
    with pytest.raises(NotUnderstood, match="missing"):
        identity_of(encoded(image))


def test_a_cut_data_set_is_not_understood() -> None:
    whole = encoded(ct())
    end = whole.index(struct.pack("<HH", 0x0020, 0x000E))
    for length in range(0, end, 7):
        with pytest.raises(NotUnderstood):
            identity_of(whole[:length])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_a_transfer_syntax_that_lies_is_not_understood(syntax: str) -> None:
    with pytest.raises(NotUnderstood):
        identity_of(encoded(ct()), syntax)


def test_a_deflate_bomb_is_opened_only_a_little() -> None:
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    element = struct.pack("<HH2s2xL", 0x0009, 0x1001, b"OB", 0xFFFFFFF0)
    bomb = compressor.compress(element)
    for _ in range(400):
        bomb += compressor.compress(bytes(1024 * 1024))
    bomb += compressor.flush()
    with pytest.raises(NotUnderstood):
        identity_of(bomb, DeflatedExplicitVRLittleEndian)


@given(
    st.binary(max_size=400),
    st.sampled_from([ImplicitVRLittleEndian, EXPLICIT, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]),
)
def test_no_bytes_raise_anything_else(content: bytes, syntax: str) -> None:
    with pytest.raises(NotUnderstood):
        identity_of(content, syntax)


def test_bytes_of_a_real_header_with_one_byte_changed_never_raise_anything_else() -> None:
    whole = encoded(ct())[:600]
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0xFF
        try:
            identity_of(bytes(changed))
        except NotUnderstood:
            continue


def test_file_meta_survives_a_round_trip(tmp_path: Path) -> None:
    image = ct()
    for host in ("10.1.2.3", "fe80::1"):
        meta = FileMeta(
            sop_class_uid=str(image.SOPClassUID),
            sop_instance_uid=str(image.SOPInstanceUID),
            transfer_syntax_uid=EXPLICIT,
            sending_ae_title="CT 1",
            receiving_ae_title="UMIT",
            sending_host=host,
        )
        path = tmp_path / "a.dcm"
        path.write_bytes(encode_file_meta(meta) + encoded(image))
        assert read_file_meta(path)[0] == meta
        as_pydicom_reads_it = dcmread(BytesIO(path.read_bytes()))
        assert as_pydicom_reads_it.SOPInstanceUID == image.SOPInstanceUID
        assert as_pydicom_reads_it.file_meta.SendingApplicationEntityTitle == "CT 1"
        assert as_pydicom_reads_it.file_meta.FileMetaInformationGroupLength > 0
