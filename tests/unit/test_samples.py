"""What a sample says is what the node asks, and its answer is read back to its truth by the node's own parser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.phantoms import chest_like_ct, write_ct_series, write_dx_image
from umit_pacs.errors import SampleInvalid, UndecodablePixels
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_images, prepare_volume
from umit_pacs.pixels.stored_pictures import picture_size, prepare_pictures, read_picture, read_stack
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model import answers
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame
from umit_pacs.umit_model.instructions import instruction
from umit_pacs.umit_model.samples import (
    SERIES,
    Sample,
    SampleTruth,
    complete,
    from_line,
    prepared,
    read_samples,
    to_line,
    true_boxes,
    verify,
    write_samples,
)
from umit_pacs.umit_model.swift_layouts import SwiftReading, from_swift, read_instruction, to_swift
from umit_pacs.vocabulary import load_templates

EN, ZH = Language.ENGLISH, Language.CHINESE


def picture(task: Task, language: Language = EN, **fields) -> Sample:
    fields = {"id": f"{task}-{language}", "images": ("images/a.png",), "modality": "DX"} | fields
    return Sample(task=task, language=language, **fields)


BOXES = SampleTruth(
    boxes={"pneumonia": (((604.0, 241.0), (839.0, 782.0)), ((100.0, 200.0), (300.0, 400.0))), "nodule": ()},
    findings={"pneumonia": "present", "nodule": "absent"},
    sides={"pneumonia": "left"},
)
FRAME = {"frame": "absolute:1024x1024", "extent": (1024, 1024), "truth": BOXES}
VOLUME = {
    "images": (),
    "volume": ("volumes/a.npy",),
    "modality": "CT",
    "frame": "voxel:32x256x256",
    "extent": (512, 512, 64),
    "truth": SampleTruth(boxes={"Tumor": (((64.0, 314.0, 38.0), (226.0, 440.0, 52.0)),)}),
}
LANDMARKS = SampleTruth(landmarks={"Gonion": (815.85, 1830.0), "Porion": None})
CEPHALOGRAM = {"frame": "absolute:600x800", "extent": (1935, 2400), "spacing_mm": (0.1, 0.1), "truth": LANDMARKS}

ASKED = [
    (
        picture(Task.VQA, question="Is it normal?", options=("yes", "no"), truth=SampleTruth(right_option=1)),
        "2:no",
    ),
    (
        picture(
            Task.VQA,
            ZH,
            question="肺或者心脏哪个是异常的?",
            options=("肺", "心脏"),
            truth=SampleTruth(right_option=1),
        ),
        "2：心脏",
    ),
    (picture(Task.VQA, question="Where is it?", answer="spleen"), "spleen"),
    (
        picture(
            Task.CLASSIFICATION,
            question="Normal?",
            options=("normal", "pneumonia"),
            truth=SampleTruth(right_option=1),
        ),
        "1:pneumonia",
    ),
    (
        picture(
            Task.CLASSIFICATION,
            ZH,
            template="chest_radiograph",
            options=("normal", "abnormal"),
            truth=SampleTruth(right_option=0),
        ),
        "0：正常",
    ),
    (
        picture(Task.DETECTION, target="pneumonia", **FRAME),
        "<|box_start|>(100,200),(300,400)<|box_end|><|box_start|>(604,241),(839,782)<|box_end|>",
    ),
    (picture(Task.DETECTION, ZH, target="nodule", template="chest_radiograph", **FRAME), "无"),
    (picture(Task.DETECTION_3D, target="Tumor", **VOLUME), "[(32,157,19),(112,219,25)]"),
    (picture(Task.LANDMARK, target="Gonion", **CEPHALOGRAM), "[253,610]"),
    (picture(Task.LANDMARK, target="Porion", **CEPHALOGRAM), "none"),
    (
        picture(Task.REPORT, template="chest_radiograph", answer="The heart size is normal."),
        "The heart size is normal.",
    ),
]


@pytest.mark.parametrize(("sample", "answer"), ASKED, ids=lambda value: getattr(value, "id", ""))
def test_a_sample_asks_and_answers_in_the_nodes_own_words(sample, answer):
    whole = complete(sample)
    template = load_templates().by_key(sample.template)
    assert whole.instruction == instruction(whole.order, template, modality=sample.modality)
    assert whole.answer == answer
    verify(whole)


@pytest.mark.parametrize(("sample", "answer"), ASKED, ids=lambda value: getattr(value, "id", ""))
def test_a_line_gives_the_sample_back(sample, answer):
    whole = complete(replace(sample, study="s", group="p", data_set="x", split="test", tags={"body_part": "腹部"}))
    assert from_line(to_line(whole)) == whole


def test_the_example_of_the_documentation_is_a_sample():
    text = (Path(__file__).parents[2] / "docs/training-data.md").read_text(encoding="utf-8")
    verify(from_line(text.split("```json\n")[1].split("```")[0]))


def test_a_file_is_read_in_its_order(tmp_path):
    written = [complete(replace(sample, id=f"q{number}")) for number, (sample, _) in enumerate(ASKED)]
    assert write_samples(tmp_path / "a.jsonl", written) == len(ASKED)
    assert list(read_samples(tmp_path / "a.jsonl")) == written


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instruction": "Is it normal?"}, "other_instruction"),
        ({"answer": "1:yes"}, "answer_not_read_back"),
        ({"answer": "maybe"}, "answer_not_read_back"),
        ({"question": "Is it abnormal?"}, "other_instruction"),
        ({"template": "nowhere"}, "sample_invalid"),
    ],
)
def test_what_the_node_would_ask_or_read_otherwise_is_refused_with_its_line(change, reason, tmp_path):
    whole = complete(ASKED[0][0])
    write_samples(tmp_path / "a.jsonl", [replace(whole, id="first"), replace(whole, **change)])
    with pytest.raises(SampleInvalid, match=r"a\.jsonl:2: ") as caught:
        list(read_samples(tmp_path / "a.jsonl"))
    assert caught.value.reason == reason


def test_a_box_that_is_not_the_true_one_is_not_read_back():
    whole = complete(picture(Task.DETECTION, target="pneumonia", **FRAME))
    for answer in (whole.answer.replace("604", "605"), whole.answer.split("<|box_end|>")[0] + "<|box_end|>", "none"):
        with pytest.raises(SampleInvalid, match="something else than the truth"):
            verify(replace(whole, answer=answer))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id":"a","task":"vqa","language":"en"}', "either images or a volume"),
        ('{"id":"a","task":"vqa","language":"en","images":["../a.png"]}', "no path beside the file"),
        ('{"id":"a","task":"vqa","language":"en","images":["/a.png"]}', "no path beside the file"),
        ('{"id":"a","task":"vqa","language":"en","images":["a.png"],"colour":"red"}', "colour"),
        ('{"id":"a","task":"vqa","language":"en","images":["a.png"],"truth":{"side":{}}}', "side"),
        ('{"id":"a","task":"segmentation","language":"en","images":["a.png"]}', "task"),
        ('{"id":"a","task":"vqa","language":"en","images":["a.png"],"options":["x"]}', "right option"),
        ('{"id":"a","task":"detection","language":"en","images":["a.png"],"target":"x"}', "coordinate frame"),
        (
            '{"id":"a","task":"landmark","language":"en","images":["a.png"],"target":"x","frame":"norm1000",'
            '"extent":[10,10],"truth":{"landmarks":{"x":[11,5]}}}',
            "outside",
        ),
        ('{"id":"a"', "line"),
    ],
)
def test_a_line_that_is_no_sample_is_refused_with_the_reason(line, words):
    with pytest.raises(SampleInvalid, match=words):
        from_line(line)


def test_an_id_stands_for_one_sample(tmp_path):
    write_samples(tmp_path / "a.jsonl", [complete(ASKED[0][0])] * 2)
    with pytest.raises(SampleInvalid, match=r"a\.jsonl:2: the id"):
        list(read_samples(tmp_path / "a.jsonl"))


def test_truth_moves_with_the_prepared_pixels():
    """A picture twice as wide as high in a square: half of the height is padding."""
    truth = SampleTruth(boxes={"nodule": (((100.0, 50.0), (200.0, 100.0)),)})
    sample = complete(
        picture(Task.DETECTION, target="nodule", frame="norm1000", extent=(400, 200), truth=truth),
    )
    assert true_boxes(sample) == [((250, 250), (500, 500))]
    to_source = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, -100.0], [0.0, 0.0, 1.0]])
    shown = prepared(sample, to_source, (200, 200))
    assert shown.truth.boxes["nodule"] == (((50.0, 75.0), (100.0, 100.0)),)
    read = answers.read_boxes(shown.answer, CoordinateFrame.parse("norm1000").largest(2))
    assert read.boxes == (((250, 375), (500, 500)),)
    other = prepared(sample, to_source, (200, 200), frame="absolute:200x200")
    assert other.answer == "<|box_start|>(50,75),(100,100)<|box_end|>"


# --- the layouts of ms-swift -------------------------------------------------------------------------------------

#: what a row tells: everything but where the sample comes from
_TOLD = ("images", "volume", "task", "language", "question", "options", "instruction", "answer", "frame", "extent")


def as_slices(sample: Sample) -> Sample:
    """A sample whose volume is given by its slices' pictures, as the layouts want it."""
    if not sample.volume:
        return sample
    slices = tuple(f"volumes/a/{index:03}.png" for index in range(sample.extent[2]))
    return replace(sample, volume=slices)


@pytest.mark.parametrize("layout", ["swift2", "swift3"])
@pytest.mark.parametrize(("sample", "answer"), ASKED, ids=lambda value: getattr(value, "id", ""))
def test_a_row_of_either_layout_gives_back_what_it_tells(sample, answer, layout):
    # A row holds words, not the keys of a template.
    plain = {} if sample.task is Task.REPORT else {"template": "general"}
    if sample.template != "general" and sample.options:
        plain |= {"options": ("正常", "异常"), "question": "这张胸部X线片是否正常?"}
    whole = as_slices(complete(replace(sample, **plain)))
    row = to_swift(whole, layout)
    assert (row["query"] if layout == "swift2" else row["messages"][0]["content"]).startswith("<image>")
    frame = whole.frame or "norm1000"
    reading = SwiftReading(
        size_of=lambda _: whole.extent[:2], box_frame=frame, point_frame=frame, volume_frame=frame, modality="DX"
    )
    back = from_swift(row, reading, id_=whole.id)
    assert {name: getattr(back, name) for name in _TOLD} == {name: getattr(whole, name) for name in _TOLD}
    assert back.truth.right_option == whole.truth.right_option
    verify(back)


@pytest.mark.parametrize("layout", ["swift2", "swift3"])
def test_objects_keep_boxes_in_pixels_for_the_trainer_to_scale(layout):
    whole = complete(picture(Task.DETECTION, target="pneumonia", **FRAME))
    row = to_swift(whole, layout, as_objects=True)
    text = (
        row["query"] + row["response"] if layout == "swift2" else "".join(turn["content"] for turn in row["messages"])
    )
    assert text == "<image>Find <ref-object> in this image<bbox><bbox>"
    assert isinstance(row["objects"], str if layout == "swift2" else dict)
    reading = SwiftReading(size_of=lambda _: (1024, 1024), box_frame="absolute:1024x1024")
    back = from_swift(row, reading, id_="a")
    assert (back.instruction, back.answer) == (whole.instruction, whole.answer)
    assert set(back.truth.boxes["pneumonia"]) == set(whole.truth.boxes["pneumonia"])


PUBLISHED = [
    (
        {
            "query": "<image>Given this image, choose one option from the 0:normal\n1:pneumonia, "
            "to answer the question: Does this chest X-ray image show a normal lung?",
            "response": "1:pneumonia",
            "images": ["images/pneumonia/test_0.png"],
        },
        {"task": Task.CLASSIFICATION, "options": ("normal", "pneumonia")},
    ),
    (
        {
            "query": "Find <|object_ref_start|> pneumonia<|object_ref_end|> in this image",
            "response": "<|box_start|>(604,241),(839,782)<|box_end|>",
            "images": ["rsna/ID.png"],
        },
        {"task": Task.DETECTION, "target": "pneumonia"},
    ),
    (
        {
            "query": "Find <ref-object> in this image",
            "response": "<bbox>",
            "images": ["a.jpg"],
            "objects": '[{"caption": "mass", "bbox": [138, 136, 235, 359], "bbox_type": "real", "image": 0}]',
        },
        {"task": Task.DETECTION, "target": "mass"},
    ),
    (
        {
            "messages": [
                {"role": "user", "content": "<image>Find <ref-object> in this image"},
                {"role": "assistant", "content": "<bbox>"},
            ],
            "images": ["a.jpg"],
            "objects": {"ref": ["mass"], "bbox": [[0.1, 0.2, 0.5, 0.75]], "bbox_type": "norm1"},
        },
        {"task": Task.DETECTION, "answer": "<|box_start|>(102,205),(512,768)<|box_end|>"},
    ),
]


@pytest.mark.parametrize(("row", "told"), PUBLISHED)
def test_published_rows_are_read_as_what_the_node_would_ask(row, told):
    reading = SwiftReading(size_of=lambda _: (1024, 1024), box_frame="absolute:1024x1024")
    sample = from_swift(row, reading, id_="a")
    verify(sample)
    assert {name: getattr(sample, name) for name in told} == told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": "What is this?"}, "other_instruction"),
        ({"response": "3:perhaps"}, "answer_not_read_back"),
        ({"label": "1"}, "unknown_column"),
        ({"history": [["a", "b"]]}, "sample_invalid"),
        ({"images": []}, "sample_invalid"),
        ({"images": ["../a.png"]}, "sample_invalid"),
    ],
)
def test_a_row_that_the_node_would_not_ask_or_read_is_refused(change, reason):
    with pytest.raises(SampleInvalid) as caught:
        from_swift(PUBLISHED[0][0] | change, SwiftReading(size_of=lambda _: (8, 8)), id_="a")
    assert caught.value.reason == reason


def test_arrays_do_not_go_into_a_layout_of_pictures():
    with pytest.raises(SampleInvalid, match="slices"):
        to_swift(complete(picture(Task.DETECTION_3D, target="Tumor", **VOLUME)), "swift2")


def test_a_question_that_looks_like_options_stays_a_question():
    asked = read_instruction("Given this image, choose one option from: yes or no to answer the question: Is it so?")
    assert asked is None
    asked = read_instruction("Given this image, please answer the question: 1:yes\n2:no?")
    assert (asked.question, asked.options) == ("1:yes\n2:no?", ())


# --- pixels ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder():
    with DecodingProcess(ModelSettings()) as process:
        yield process


@pytest.mark.parametrize("bits", [8, 12])
def test_a_picture_is_prepared_as_a_dicom_image_is(bits, decoder, tmp_path):
    values = np.random.default_rng(1).integers(0, 2**bits, (90, 120))
    values[20:60, 30:90] //= 4
    Image.fromarray(values.astype(np.uint8 if bits == 8 else np.uint16)).save(tmp_path / "a.png")
    dicom = write_dx_image(tmp_path / "dicom", values, bits_stored=bits, window=(2 ** (bits - 1), 2**bits))
    kinds = [GreyKind.PERCENTILES] + ([GreyKind.HEADER] if bits == 8 else [])
    for kind in kinds:
        wanted = ImageRequirements(kind=ImageKind.IMAGE, width=64, height=64, grey=GreyRecipe(kind=kind))
        served = prepare_images(open_series([dicom]), wanted, decoder)[0]
        read = prepare_pictures([tmp_path / "a.png"], (), wanted, series=SERIES, modality="DX").images[0]
        np.testing.assert_array_equal(read.pixels, served.pixels)
        np.testing.assert_allclose(read.to_source, served.to_source)


@pytest.mark.parametrize("kind", [GreyKind.WINDOW, GreyKind.PERCENTILES])
def test_a_volume_is_prepared_as_a_dicom_series_is(kind, decoder, tmp_path):
    hu = chest_like_ct(slices=12, edge=32)
    np.save(tmp_path / "a.npy", hu[None])
    recipe = GreyRecipe(kind=kind, window_center=-400, window_width=1500)
    wanted = ImageRequirements(kind=ImageKind.VOLUME, width=24, height=24, slices=8, grey=recipe)
    served = prepare_volume(open_series(write_ct_series(tmp_path / "dicom", hu)), wanted, decoder)
    read = prepare_pictures((), [tmp_path / "a.npy"], wanted, series=SERIES, modality="CT").volume
    np.testing.assert_array_equal(read.voxels, served.voxels)
    np.testing.assert_allclose(read.to_source, served.to_source)


def test_pictures_of_a_stack_are_its_slices(tmp_path):
    voxels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, plane in zip(paths, voxels, strict=True):
        Image.fromarray(plane).save(path)
    np.testing.assert_array_equal(read_stack(paths), voxels)
    Image.fromarray(voxels[0, :2]).save(paths[1])
    with pytest.raises(UndecodablePixels, match="size"):
        read_stack(paths)


def test_display_grey_is_shown_as_it_stands_and_colour_by_its_luminance(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 1] = 200
    Image.fromarray(colour).save(tmp_path / "colour.png")
    recipe = GreyRecipe(kind=GreyKind.WINDOW)
    wanted = ImageRequirements(kind=ImageKind.IMAGE, width=8, height=8, grey=recipe)
    paths = [tmp_path / "grey.png", tmp_path / "colour.png"]
    first, second = prepare_pictures(paths, (), wanted, series=SERIES, modality="XC").images
    np.testing.assert_array_equal(first.pixels, grey)
    assert set(second.pixels.reshape(-1)) == {117}
    assert second.grey_recipe == "luminance"


def test_what_a_model_was_shown_is_shown_again_byte_by_byte(tmp_path):
    values = np.random.default_rng(4).integers(0, 200, (4, 16, 16)).astype(np.uint8)
    np.save(tmp_path / "a.npy", values)
    Image.fromarray(values[0]).save(tmp_path / "a.png")
    recipe = GreyRecipe(kind=GreyKind.PERCENTILES)
    for is_display_grey in (True, False):
        told = {"series": SERIES, "modality": "MR", "is_display_grey": is_display_grey}
        flat = ImageRequirements(kind=ImageKind.IMAGE, width=16, height=16, grey=recipe)
        image = prepare_pictures([tmp_path / "a.png"], (), flat, **told).images[0].pixels
        deep = ImageRequirements(kind=ImageKind.VOLUME, width=16, height=16, slices=4, grey=recipe)
        voxels = prepare_pictures((), [tmp_path / "a.npy"], deep, **told).volume.voxels
        assert np.array_equal(image, values[0]) == np.array_equal(voxels, values) == is_display_grey
    np.save(tmp_path / "a.npy", values.astype(np.float32))
    with pytest.raises(UndecodablePixels, match="float32 is no display grey"):
        prepare_pictures((), [tmp_path / "a.npy"], deep, series=SERIES, modality="MR", is_display_grey=True)


def test_what_is_no_picture_and_no_array_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    with pytest.raises(UndecodablePixels):
        picture_size(tmp_path / "a.png")
    with pytest.raises(UndecodablePixels):
        read_picture(tmp_path / "a.png")
    for name in ("a.npy", "flat.npy", "absent.npy"):
        with pytest.raises(UndecodablePixels):
            read_stack([tmp_path / name])
