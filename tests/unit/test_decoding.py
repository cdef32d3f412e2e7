"""Every transfer syntax gives the same picture; hostile pixel data ends with its reason and hurts nothing else."""

from __future__ import annotations

import dataclasses
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from base64 import b85decode
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import data_store
import numpy as np
import psutil
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.phantoms import chest_like_ct, write_cr_image, write_ct_series
from umit_pacs.errors import PixelBudgetExceeded, StudyUnusable, UndecodablePixels
from umit_pacs.pixels.decoding_process import LONG_STACK, DecodingProcess, FrameToDecode, keep_one_ready
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.settings import ModelSettings

REAL = Path(data_store.__file__).parent / "data"
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
WANTED = ImageRequirements(
    kind=ImageKind.IMAGE,
    width=64,
    height=64,
    grey=GreyRecipe(kind=GreyKind.PERCENTILES, percentile_low=0, percentile_high=100),
)
PLANE = chest_like_ct(slices=3, edge=64)[1] + np.random.default_rng(2).integers(0, 60, (64, 64), np.int16)
#: 24 rows of 40 columns, 12 bit, value 100 * column + row, reversible; written by OpenJPH's ojph_compress.
HTJ2K_RAMP = b85decode(
    "|4;u>04YEK0000e0000O00000000000000e0000O0000000000009dD0sl|{2mk^A000R8QUDA90ssL30|W#>0smY84IprMc"
    "z}3#cyMrd|6~9b00B>MWo}APNFY{aav(4+IW90R|BwI*000000FnR!|C7K0bO8T<{=fN}zi)jx6OVklzcXC}7lHl&U|!jn9}"
    "xgCy8yrds(=Afjyrbz(huSbb^wTo_~iaczP13s0Ih%lRKUQ%z`(%o%6f5vcK`zT{D<G~-|V;mzyWJO0bE9-(P%UpjYgx<`22"
    "qgdU|?#aRPe)008j+cDn1Xy6djGn*jgW"
)


@pytest.fixture
def decoder() -> Iterator[DecodingProcess]:
    with DecodingProcess(ModelSettings()) as process:
        yield process


def rendered(decoder: DecodingProcess, path: Path, *, frame_index: int = 0) -> np.ndarray:
    frame = FrameToDecode(path=path, frame_index=frame_index)
    return decoder.render([frame], WANTED, is_one_stack=False).pixels[0]


def refusal(decoder: DecodingProcess, path: Path, *, frame_index: int = 0) -> StudyUnusable:
    with pytest.raises(StudyUnusable) as caught:
        rendered(decoder, path, frame_index=frame_index)
    return caught.value


def _outcome(decoder: DecodingProcess, path: Path) -> str:
    """The reason of a refusal, "" when the frame was decoded."""
    try:
        rendered(decoder, path)
    except UndecodablePixels as exc:
        return exc.reason
    return ""


def ct_slice(
    folder: Path, *, syntax: UID = ExplicitVRLittleEndian, change: Callable[[Dataset], None] | None = None
) -> Path:
    return write_ct_series(folder, PLANE[None], syntax=syntax, change=change)[0]


def cr_in_codestream(
    folder: Path, codestream: bytes, syntax: UID, *, edge: int = 64, columns: int | None = None, bits: int = 8
) -> Path:
    """A radiograph whose only frame is `codestream`, as it is."""
    path = write_cr_image(folder, np.zeros((edge, columns or edge), np.uint16))
    ds = pydicom.dcmread(path)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 if bits <= 8 else 16, bits, bits - 1
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path)
    return path


def first_fragment(path: Path) -> bytes:
    """The one codestream of a compressed single-frame file."""
    ds = pydicom.dcmread(path)
    return next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda syntax: str(syntax.name),
)
def test_lossless_syntaxes_give_the_same_picture(tmp_path: Path, decoder: DecodingProcess, syntax: UID) -> None:
    plain = rendered(decoder, ct_slice(tmp_path / "plain"))
    assert len(np.unique(plain)) > 20
    np.testing.assert_array_equal(rendered(decoder, ct_slice(tmp_path / "packed", syntax=syntax)), plain)


def test_near_lossless_jpeg_ls_gives_nearly_the_same_picture(tmp_path: Path, decoder: DecodingProcess) -> None:
    plain = ct_slice(tmp_path / "plain")
    ds = pydicom.dcmread(plain)
    ds.compress(JPEGLSNearLossless, jls_error=3, generate_instance_uid=False)
    ds.save_as(tmp_path / "near.dcm")
    difference = rendered(decoder, plain).astype(int) - rendered(decoder, tmp_path / "near.dcm")
    assert 0 <= np.abs(difference).max() <= 2


def test_big_endian_gives_the_same_picture(decoder: DecodingProcess) -> None:
    assert pydicom.dcmread(PYDICOM / "MR_small_bigendian.dcm").file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    expected = rendered(decoder, PYDICOM / "MR_small.dcm")
    np.testing.assert_array_equal(rendered(decoder, PYDICOM / "MR_small_bigendian.dcm"), expected)


@pytest.mark.parametrize("number", [201, 202, 203])
def test_high_throughput_jpeg_2000_is_decoded(tmp_path: Path, decoder: DecodingProcess, number: int) -> None:
    path = cr_in_codestream(tmp_path, HTJ2K_RAMP, UID(f"1.2.840.10008.1.2.4.{number}"), edge=24, columns=40, bits=12)
    rows, columns = np.indices((24, 40))
    wanted = dataclasses.replace(WANTED, width=40, height=24)
    frame = FrameToDecode(path=path, frame_index=0)
    ramp = 100 * columns + rows
    np.testing.assert_array_equal(
        decoder.render([frame], wanted, is_one_stack=False).pixels[0], np.round(ramp / ramp.max() * 255)
    )


def test_baseline_jpeg_gives_nearly_the_same_picture(tmp_path: Path, decoder: DecodingProcess) -> None:
    grey = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    packed = BytesIO()
    Image.fromarray(grey).save(packed, "JPEG", quality=95)
    path = cr_in_codestream(tmp_path, packed.getvalue(), JPEGBaseline8Bit)
    assert np.abs(rendered(decoder, path).astype(int) - grey).max() <= 6


@pytest.mark.parametrize(
    ("folder", "name", "syntax"),
    [
        (REAL, "explicit_VR-UN.dcm", None),
        (REAL, "JPEG-LL.dcm", JPEGLosslessSV1),
        (PYDICOM, "JPEG-lossy.dcm", UID("1.2.840.10008.1.2.4.51")),
        (PYDICOM, "MR_small_RLE.dcm", RLELossless),
        (PYDICOM, "MR_small_jp2klossless.dcm", JPEG2000Lossless),
        (PYDICOM, "MR_small_jpeg_ls_lossless.dcm", JPEGLSLossless),
        (PYDICOM, "J2K_pixelrep_mismatch.dcm", JPEG2000Lossless),
        (PYDICOM, "examples_palette.dcm", None),
        (PYDICOM, "SC_rgb_jpeg_dcmtk.dcm", JPEGBaseline8Bit),
        (REAL, "color3d_jpeg_baseline.dcm", JPEGBaseline8Bit),
        (REAL, "emri_small_jpeg_ls_lossless.dcm", JPEGLSLossless),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".dcm") else "",
)
def test_real_objects_are_decoded(decoder: DecodingProcess, folder: Path, name: str, syntax: UID | None) -> None:
    path = folder / name
    if syntax is not None:
        assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    assert len(np.unique(rendered(decoder, path))) > 8


@pytest.mark.parametrize("names", [("RG1_UNCR.dcm", "RG1_J2KR.dcm"), ("693_UNCR.dcm", "693_J2KR.dcm")])
def test_a_real_image_and_its_lossless_twin_are_equal(decoder: DecodingProcess, names: tuple[str, str]) -> None:
    first, second = (rendered(decoder, REAL / name) for name in names)
    assert len(np.unique(first)) > 100
    np.testing.assert_array_equal(first, second)


def test_a_real_image_and_its_lossy_twin_are_nearly_equal(decoder: DecodingProcess) -> None:
    first, second = (rendered(decoder, REAL / name).astype(int) for name in ("RG1_UNCR.dcm", "RG1_J2KI.dcm"))
    assert np.abs(first - second).max() <= 4


def test_frames_of_one_file_come_in_the_order_asked_for(decoder: DecodingProcess) -> None:
    path = REAL / "emri_small_jpeg_ls_lossless.dcm"
    single = [rendered(decoder, path, frame_index=index) for index in (7, 0, 3)]
    frames = [FrameToDecode(path=path, frame_index=index) for index in (7, 0, 3)]
    together = decoder.render(frames, WANTED, is_one_stack=False).pixels
    np.testing.assert_array_equal(together, single)
    assert len(set(decoder.digests(frames))) == 3


# --- pixel data that is not what it says -----------------------------------------------------------------------------


def test_truncated_native_pixels_are_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    path = ct_slice(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(decoder, path).reason == "truncated_pixel_data"


def test_pixels_that_declare_four_gigabytes_are_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    path = ct_slice(tmp_path)
    content = path.read_bytes()
    start = content.rindex(b"\xe0\x7f\x10\x00OW\x00\x00")
    path.write_bytes(content[: start + 8] + struct.pack("<L", 0xFFFFFFFE) + b"abc")
    assert refusal(decoder, path).reason == "truncated_pixel_data"


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_codestream_is_refused(tmp_path: Path, decoder: DecodingProcess, keep: float) -> None:
    whole = first_fragment(ct_slice(tmp_path / "whole", syntax=JPEG2000Lossless))
    path = cr_in_codestream(tmp_path, whole[: int(len(whole) * keep)], JPEG2000Lossless, bits=12)
    assert refusal(decoder, path).reason == "truncated_pixel_data"


def test_a_header_of_65535_by_65535_is_over_budget_before_decoding(tmp_path: Path, decoder: DecodingProcess) -> None:
    def lie(ds: Dataset) -> None:
        ds.Rows = ds.Columns = 65535

    error = refusal(decoder, ct_slice(tmp_path, change=lie))
    assert isinstance(error, PixelBudgetExceeded)
    assert "65535x65535" in error.detail


def test_an_rle_bomb_is_over_budget_before_decoding(tmp_path: Path, decoder: DecodingProcess) -> None:
    """A few kilobytes of run lengths that unpack to gigabytes."""
    segment = b"\x81\x00" * 4096
    codestream = struct.pack("<16L", 2, 64, 64 + len(segment), *([0] * 13)) + segment * 2
    path = cr_in_codestream(tmp_path, codestream, RLELossless, bits=12)
    assert refusal(decoder, path).reason in {"undecodable_pixels", "decoder_died"}
    ds = pydicom.dcmread(path)
    ds.Rows = ds.Columns = 65000
    ds.save_as(path)
    assert isinstance(refusal(decoder, path), PixelBudgetExceeded)


def _deflated(path: Path, ds: Dataset, padding: bytes = b"") -> Path:
    """`ds` as a deflated file, with raw bytes behind its last element."""
    body = BytesIO()
    pydicom.dcmwrite(body, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    meta = BytesIO()
    meta.write(b"\0" * 128 + b"DICM")
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.filewriter.write_file_meta_info(meta, ds.file_meta)
    path.write_bytes(
        meta.getvalue()
        + packer.compress(body.getvalue()[body.getvalue().index(b"\x08\x00") :] + padding)
        + packer.flush()
    )
    return path


def test_a_deflate_bomb_behind_the_pixels_is_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    ds = pydicom.dcmread(ct_slice(tmp_path))
    bomb = struct.pack("<HH2sHL", 0x7FE1, 0x1001, b"OB", 0, 100 * 1024**2) + b"\0" * (100 * 1024**2)
    del ds.file_meta.TransferSyntaxUID
    path = _deflated(tmp_path / "bomb.dcm", ds, bomb)
    assert path.stat().st_size < 1024**2
    assert refusal(decoder, path).reason == "deflate_bomb"


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=["JPEG 2000", "JPEG-LS"])
def test_a_codestream_of_another_size_is_refused(tmp_path: Path, decoder: DecodingProcess, syntax: UID) -> None:
    whole = first_fragment(ct_slice(tmp_path / "whole", syntax=syntax))
    error = refusal(decoder, cr_in_codestream(tmp_path, whole, syntax, edge=32, bits=12))
    assert error.reason == "pixel_size_lie"
    assert error.detail == "the header says 32x32x1, the compressed frame 64x64x1"


def test_a_jpeg_2000_codestream_that_asks_for_gigabytes_is_not_decoded(
    tmp_path: Path, decoder: DecodingProcess
) -> None:
    whole = bytearray(first_fragment(ct_slice(tmp_path / "whole", syntax=JPEG2000Lossless)))
    whole[8:16] = struct.pack(">LL", 60000, 60000)
    assert (
        refusal(decoder, cr_in_codestream(tmp_path, bytes(whole), JPEG2000Lossless, bits=12)).reason == "pixel_size_lie"
    )


def test_a_codestream_of_noise_is_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    noise = np.random.default_rng(5).bytes(5000)
    for syntax in (JPEG2000Lossless, JPEGLossless, JPEGLSLossless, JPEGBaseline8Bit):
        path = cr_in_codestream(tmp_path, noise, syntax)
        assert refusal(decoder, path).reason == "unreadable_codestream"


def test_a_damaged_codestream_of_the_right_size_is_refused_or_decoded(tmp_path: Path, decoder: DecodingProcess) -> None:
    """Damage inside is the codec's affair: whatever it does, the node goes on."""
    whole = bytearray(first_fragment(ct_slice(tmp_path / "whole", syntax=JPEG2000Lossless)))
    generator = np.random.default_rng(7)
    reasons = set()
    for number in range(8):
        damaged = bytearray(whole)
        for place in generator.integers(120, len(whole) - 4, 40):
            damaged[place] = int(generator.integers(0, 255))
        path = cr_in_codestream(tmp_path / str(number), bytes(damaged), JPEG2000Lossless, bits=12)
        reasons.add(_outcome(decoder, path))
    assert reasons <= {"", "undecodable_pixels", "decoder_died", "decode_timeout", "pixel_size_lie"}
    assert rendered(decoder, ct_slice(tmp_path / "after")).any()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BitsAllocated": 7}, "unsupported_bits_allocated"),
        ({"BitsAllocated": 1}, "unsupported_bits_allocated"),
        ({"BitsAllocated": 64}, "unsupported_bits_allocated"),
        ({"BitsStored": 40}, "invalid_pixel_description"),
        ({"Rows": 0}, "invalid_pixel_description"),
        ({"PixelRepresentation": 7}, "invalid_pixel_description"),
        ({"SamplesPerPixel": 0}, "unsupported_samples_per_pixel"),
        ({"SamplesPerPixel": 255}, "unsupported_samples_per_pixel"),
        ({"PhotometricInterpretation": "CMYK"}, "unsupported_photometric_interpretation"),
        ({"PhotometricInterpretation": "RGB"}, "unsupported_photometric_interpretation"),
        ({"RescaleSlope": "NaN"}, "invalid_rescale"),
        ({"RescaleIntercept": "inf"}, "invalid_rescale"),
        ({"RescaleSlope": "0"}, "invalid_rescale"),
    ],
    ids=str,
)
def test_an_impossible_description_is_refused(
    tmp_path: Path, decoder: DecodingProcess, changes: dict[str, object], reason: str
) -> None:
    def lie(ds: Dataset) -> None:
        for keyword, value in changes.items():
            setattr(ds, keyword, value)

    with pydicom.config.disable_value_validation():
        path = ct_slice(tmp_path, change=lie)
    assert refusal(decoder, path).reason == reason


def test_fragments_in_a_native_transfer_syntax_are_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    path = ct_slice(tmp_path, syntax=JPEG2000Lossless)
    content = path.read_bytes()
    assert content.count(JPEG2000Lossless.encode()) == 1
    # A UID of the same length, so that nothing moves.
    path.write_bytes(content.replace(JPEG2000Lossless.encode(), b"1.2.840.10008.1.2.1\0\0\0"))
    assert refusal(decoder, path).reason == "invalid_pixel_description"


def test_fewer_fragments_than_frames_are_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    path = ct_slice(tmp_path, syntax=JPEG2000Lossless)
    ds = pydicom.dcmread(path)
    ds.NumberOfFrames = 40
    ds.save_as(path)
    assert refusal(decoder, path, frame_index=39).reason == "truncated_pixel_data"


def test_video_is_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    path = cr_in_codestream(tmp_path, b"\0" * 100, UID("1.2.840.10008.1.2.4.102"))
    assert refusal(decoder, path).reason == "unsupported_transfer_syntax"


def test_a_frame_beyond_the_last_is_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    assert refusal(decoder, ct_slice(tmp_path), frame_index=1).reason == "no_such_frame"


# --- the process -----------------------------------------------------------------------------------------------------


def _child_pid(decoder: DecodingProcess) -> int:
    assert decoder._child is not None
    return decoder._child.process.pid


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
def test_the_death_of_the_process_is_the_reason_and_nothing_else(
    tmp_path: Path, decoder: DecodingProcess, kind: signal.Signals
) -> None:
    path = ct_slice(tmp_path)
    before = rendered(decoder, path)
    pid = _child_pid(decoder)
    os.kill(pid, signal.SIGSTOP)
    # The child lies still until the job is on its way; then the signal ends it in the middle.
    killer = threading.Thread(target=_kill_when_asked, args=(pid, kind))
    killer.start()
    error = refusal(decoder, path)
    killer.join()
    assert error.reason == ("decode_timeout" if kind is signal.SIGXCPU else "decoder_died")
    np.testing.assert_array_equal(rendered(decoder, path), before)
    assert _child_pid(decoder) != pid


def test_a_request_to_stop_the_node_does_not_cost_a_series(tmp_path: Path, decoder: DecodingProcess) -> None:
    path = ct_slice(tmp_path)
    before = rendered(decoder, path)
    pid = _child_pid(decoder)
    for kind in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, kind)
    np.testing.assert_array_equal(rendered(decoder, path), before)
    assert (_child_pid(decoder), os.getsid(pid)) == (pid, pid)


def test_the_process_ends_with_its_parent() -> None:
    script = (
        "import os, signal;"
        "from umit_pacs.pixels.decoding_process import DecodingProcess;"
        "from umit_pacs.settings import ModelSettings;"
        "decoder = DecodingProcess(ModelSettings()); decoder.start();"
        "print(decoder._child.process.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert parent.returncode == -signal.SIGKILL
    child = Path("/proc") / parent.stdout.strip()
    deadline = time.monotonic() + 60
    while _is_running(child) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert not _is_running(child)


def _is_running(process: Path) -> bool:
    """Whether a process still runs; one that nobody has waited for does not."""
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill_when_asked(pid: int, kind: signal.Signals) -> None:
    """Wait until the stopped process has a job in its pipe, then end it."""
    deadline = time.monotonic() + 20
    pipe = Path(f"/proc/{pid}/fd/0")
    with pipe.open("rb", buffering=0) as job:
        os.set_blocking(job.fileno(), False)
        while time.monotonic() < deadline and not job.read(1):
            threading.Event().wait(0.005)
    os.kill(pid, kind)
    os.kill(pid, signal.SIGCONT)


def test_a_decoder_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = ct_slice(tmp_path)
    with DecodingProcess(ModelSettings(decode_timeout_s=2)) as decoder:
        before = rendered(decoder, path)
        os.kill(_child_pid(decoder), signal.SIGSTOP)
        error = refusal(decoder, path)
        assert error.reason == "decode_timeout"
        assert error.detail == "decoding took longer than 2 s"
        np.testing.assert_array_equal(rendered(decoder, path), before)


def test_a_decoder_that_needs_too_much_memory_is_stopped(tmp_path: Path) -> None:
    edge = 7000
    path = write_cr_image(tmp_path, np.zeros((edge, edge), np.uint16), syntax=RLELossless)
    with DecodingProcess(ModelSettings(decode_memory_bytes=256 * 1024**2)) as decoder:
        assert refusal(decoder, path).reason in {"decoder_out_of_memory", "undecodable_pixels", "decoder_died"}
    with DecodingProcess(ModelSettings()) as decoder:
        assert not rendered(decoder, path).any()


def test_the_process_inherits_neither_environment_nor_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMIT_PACS__STORE__CATALOGUE_URL", "postgresql://user:secret@host/db")
    secret = (tmp_path / "secret").open("wb")
    with secret, DecodingProcess(ModelSettings(decode_timeout_s=77)) as decoder:
        rendered(decoder, ct_slice(tmp_path))
        child = Path(f"/proc/{_child_pid(decoder)}")
        assert b"secret" not in (child / "environ").read_bytes()
        assert str(tmp_path / "secret") not in {os.readlink(entry) for entry in (child / "fd").iterdir()}
        limits = (child / "limits").read_text()
    assert f"Max address space         {4 * 1024**3}" in limits
    assert "Max file size             0" in limits
    assert "Max core file size        0" in limits


def test_a_healthy_process_waits_for_the_next_study(tmp_path: Path) -> None:
    path = ct_slice(tmp_path)
    pids = []
    for _ in range(2):
        with DecodingProcess(ModelSettings(decode_timeout_s=78)) as decoder:
            rendered(decoder, path)
            pids.append(_child_pid(decoder))
    assert pids[0] == pids[1]


def test_a_process_that_was_kept_ready_is_the_first_to_be_used() -> None:
    settings = ModelSettings(decode_timeout_s=79)
    keep_one_ready(settings)
    started = _decoding_children()
    with DecodingProcess(settings) as decoder:
        decoder.start()
        assert _child_pid(decoder) in started


def _decoding_children() -> set[int]:
    """Processes of ours that decode."""
    return {child.pid for child in psutil.Process().children() if "decoding_child" in " ".join(child.cmdline())}


@pytest.fixture
def on_one_processor() -> Iterator[Callable[[], None]]:
    """Confines this process to one processor from the call to the end of the test."""
    before = os.sched_getaffinity(0)
    yield lambda: os.sched_setaffinity(0, {min(before)})
    os.sched_setaffinity(0, before)


def long_stack(folder: Path) -> list[FrameToDecode]:
    """A stack that is rendered in two parts; its slices differ, and some have another rescale intercept."""
    stack = chest_like_ct(slices=LONG_STACK + 3, edge=32)
    paths = write_ct_series(folder, stack)
    for path in paths[::5]:
        ds = pydicom.dcmread(path)
        ds.RescaleIntercept = -1000
        ds.save_as(path)
    return [FrameToDecode(path=path, frame_index=0) for path in paths]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="two processors are needed for two parts")
@pytest.mark.parametrize("grey", [WANTED.grey, GreyRecipe(kind=GreyKind.WINDOW, window_center=40, window_width=400)])
def test_a_long_stack_looks_the_same_from_two_processes_and_from_one(
    tmp_path: Path, decoder: DecodingProcess, grey: GreyRecipe, on_one_processor: Callable[[], None]
) -> None:
    frames, wanted = long_stack(tmp_path), dataclasses.replace(WANTED, grey=grey)
    by_two = decoder.render(frames, wanted, is_one_stack=True)
    assert decoder._second is not None
    on_one_processor()
    by_one = decoder.render(frames, wanted, is_one_stack=True)
    np.testing.assert_array_equal(by_two.pixels, by_one.pixels)
    assert by_two.recipes == by_one.recipes
    assert len({frame.tobytes() for frame in by_two.pixels}) > LONG_STACK // 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="two processors are needed for two parts")
def test_the_death_of_the_second_process_is_the_reason_as_well(tmp_path: Path, decoder: DecodingProcess) -> None:
    frames = long_stack(tmp_path)
    before = decoder.render(frames, WANTED, is_one_stack=True)
    assert decoder._second is not None
    pid = _child_pid(decoder._second)
    os.kill(pid, signal.SIGSTOP)
    killer = threading.Thread(target=_kill_when_asked, args=(pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(UndecodablePixels) as caught:
        decoder.render(frames, WANTED, is_one_stack=True)
    killer.join()
    assert caught.value.reason == "decoder_died"
    after = decoder.render(frames, WANTED, is_one_stack=True)
    np.testing.assert_array_equal(after.pixels, before.pixels)


def test_a_process_whose_codec_gave_up_is_replaced(tmp_path: Path, decoder: DecodingProcess) -> None:
    truncated, broken = ct_slice(tmp_path / "truncated"), ct_slice(tmp_path / "broken", syntax=JPEGLSLossless)
    rendered(decoder, truncated)
    pid = _child_pid(decoder)
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    assert refusal(decoder, truncated).reason == "truncated_pixel_data"
    assert _child_pid(decoder) == pid
    whole = first_fragment(broken)
    damaged = cr_in_codestream(tmp_path, whole[:40] + b"\x11" * 9 + whole[-2:], JPEGLSLossless, bits=12)
    assert refusal(decoder, damaged).reason in {"undecodable_pixels", "decoder_died"}
    decoder.start()
    assert _child_pid(decoder) != pid
