"""Headers are read within bounds: whatever a file holds, it is a data set or a reason."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.phantoms import chest_like_ct, chinese_study, german_study, write_ct_series
from umit_pacs.errors import UndecodablePixels
from umit_pacs.pixels.headers import MAXIMUM_DEPTH, read_header
from umit_pacs.pixels.remembered_headers import MAXIMUM_HEADER_BYTES, RememberedHeaders
from umit_pacs.pixels.stacks import classify_series

PLANE = chest_like_ct(slices=3, edge=16)[1:2]
CHARACTER_SETS = Path(pydicom.__file__).parent / "data" / "charset_files"
FOLDERS = (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent / "data")


def ct_slice(folder: Path, **options: object) -> Path:
    return write_ct_series(folder, PLANE, **options)[0]  # type: ignore[arg-type]


def reason_of(path: Path) -> str:
    with pytest.raises(UndecodablePixels) as caught:
        read_header(path)
    return caught.value.reason


def outcome(path: Path) -> str:
    """The reason of a refusal, "" when the header was read; what was read can be judged."""
    try:
        header = read_header(path)
    except UndecodablePixels as exc:
        return exc.reason
    geometry = classify_series([header, header])
    assert geometry.unfit or geometry.reason or geometry.is_volume
    return ""


def with_body(path: Path, body: bytes, *, deflated: bool = False) -> Path:
    """A file with valid meta information and any bytes behind it."""
    meta = pydicom.dcmread(ct_slice(path.parent / "meta")).file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    head = BytesIO()
    head.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(head, meta)
    path.write_bytes(head.getvalue() + body)
    return path


def deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_header_ends_before_the_pixels(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    header = read_header(ct_slice(tmp_path, syntax=syntax))
    assert "PixelData" not in header
    assert (header.Rows, header.Columns, header.Modality) == (16, 16, "CT")
    assert header.file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize(
    ("study", "name"),
    [(german_study(), "Weiß^Jürgen"), (chinese_study(), "Wang^XiaoDong=王^小东")],
    ids=["ISO 8859-1", "GB18030"],
)
def test_names_come_in_their_character_set(tmp_path: Path, study: object, name: str) -> None:
    assert str(read_header(ct_slice(tmp_path, study=study)).PatientName) == name


@pytest.mark.parametrize(
    ("file", "name"), [("chrX1.dcm", "Wang^XiaoDong=王^小東"), ("chrX2.dcm", "Wang^XiaoDong=王^小东")]
)
def test_real_chinese_names_are_read(file: str, name: str) -> None:
    assert str(read_header(CHARACTER_SETS / file).PatientName) == name


@pytest.mark.parametrize("term", ["ISO_IR 999", "KLINGON", "ISO 2022 IR 6\\NOPE"])
def test_an_unknown_character_set_is_read_byte_by_byte(tmp_path: Path, term: str) -> None:
    path = ct_slice(tmp_path, study=german_study())
    content = path.read_bytes()
    # Same length, so that nothing else moves.
    start = content.index(b"CS", content.index(b"\x08\x00\x05\x00")) + 2
    (length,) = struct.unpack_from("<H", content, start)
    new = term.encode().ljust(len(term) + len(term) % 2)
    path.write_bytes(content[:start] + struct.pack("<H", len(new)) + new + content[start + 2 + length :])
    header = read_header(path)
    assert str(header.PatientName) == "Weiß^Jürgen"
    assert header.SpecificCharacterSet == "ISO_IR 100"


def test_every_file_of_the_test_data_is_a_header_or_a_reason() -> None:
    reasons, headers = set(), 0
    for path in (path for folder in FOLDERS for path in folder.rglob("*") if path.is_file()):
        try:
            headers += len(read_header(path)) > 0
        except UndecodablePixels as exc:
            reasons.add(exc.reason)
    assert headers > 200
    assert reasons <= {"not_a_dicom_file", "unreadable_header"}


def test_what_is_no_dicom_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"not an image" * 100)
    assert reason_of(path) == "not_a_dicom_file"
    path.write_bytes(b"")
    assert reason_of(path) == "unreadable_header"


def test_a_missing_file_is_not_the_study_s_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none.dcm")


def nested(depth: int) -> Dataset:
    innermost = Dataset()
    innermost.CodeValue = "1"
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = [innermost]
        innermost = outer
    return innermost


def undefined_nesting(depth: int) -> bytes:
    """Sequences of undefined length, one within the other."""
    opened = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closed = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return opened * depth + closed * depth


@pytest.mark.parametrize("depth", [MAXIMUM_DEPTH + 1, 300, 20_000])
def test_sequences_nested_too_deep_are_refused(tmp_path: Path, depth: int) -> None:
    assert reason_of(with_body(tmp_path / "deep.dcm", undefined_nesting(depth))) == "nested_too_deep"


@pytest.mark.parametrize("depth", [MAXIMUM_DEPTH + 1, 150])
def test_sequences_of_defined_length_nested_too_deep_are_refused(tmp_path: Path, depth: int) -> None:
    body = BytesIO()
    pydicom.dcmwrite(body, nested(depth), implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert reason_of(with_body(tmp_path / "deep.dcm", body.getvalue())) == "nested_too_deep"


def test_sequences_nested_as_deep_as_real_ones_are_read(tmp_path: Path) -> None:
    header = read_header(with_body(tmp_path / "deep.dcm", undefined_nesting(20)))
    assert "ContentSequence" in header


def test_a_deflate_bomb_before_the_pixels_is_refused(tmp_path: Path) -> None:
    size_bytes = 200 * 1024**2
    bomb = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, size_bytes) + b"\0" * size_bytes
    path = with_body(tmp_path / "bomb.dcm", deflate(bomb), deflated=True)
    assert path.stat().st_size < 1024**2
    assert reason_of(path) == "header_too_large"


def test_a_damaged_deflate_stream_is_refused(tmp_path: Path) -> None:
    path = with_body(tmp_path / "noise.dcm", b"\xff" * 500, deflated=True)
    assert reason_of(path) == "invalid_deflate"


def test_noise_behind_the_meta_information_is_a_header_or_a_reason(tmp_path: Path) -> None:
    generator, reasons = np.random.default_rng(11), set()
    for _ in range(60):
        path = with_body(tmp_path / "noise.dcm", generator.bytes(400))
        reasons.add(outcome(path))
    assert reasons <= {"", "unreadable_header", "nested_too_deep", "header_too_large"}


def test_a_damaged_header_is_a_header_or_a_reason(tmp_path: Path) -> None:
    content = bytearray(ct_slice(tmp_path).read_bytes())
    generator, reasons = np.random.default_rng(12), set()
    path = tmp_path / "damaged.dcm"
    for _ in range(150):
        damaged = bytearray(content)
        for place in generator.integers(132, 1200, 6):
            damaged[place] = int(generator.integers(0, 255))
        path.write_bytes(damaged)
        reasons.add(outcome(path))
    assert reasons <= {"", "unreadable_header", "nested_too_deep", "header_too_large"}


def test_a_header_is_read_once_and_the_longest_unused_is_forgotten_first(tmp_path):
    paths = [ct_slice(tmp_path / str(number)) for number in range(3)]
    headers = RememberedHeaders(maximum=2)
    first, second = headers.read(paths[0]), headers.read(paths[1])
    assert first == read_header(paths[0])
    assert headers.read(paths[0]) is first
    headers.read(paths[2])
    assert headers.read(paths[0]) is first
    assert headers.read(paths[1]) is not second
    assert len(headers) == 2


def test_long_headers_and_unreadable_ones_are_not_remembered(tmp_path):
    path = ct_slice(tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.TextValue = "x" * MAXIMUM_HEADER_BYTES
    dataset.save_as(path)
    headers = RememberedHeaders()
    assert headers.read(path) == read_header(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UndecodablePixels):
        headers.read(path)
    assert len(headers) == 0
