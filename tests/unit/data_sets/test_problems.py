"""What is wrong in a data set is named with its file and row, left out and counted."""

from __future__ import annotations

import json
import os
import pickle
import random

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.unit.data_sets import published
from tests.unit.data_sets.published import write_csv, write_json, write_jsonl, write_picture
from training.data_command import app
from training.data_sets.closed_questions import closed_question
from training.data_sets.conversion import convert, tally
from training.data_sets.plain_pickle import load_plain
from training.data_sets.reading import Row
from training.data_sets.registry import DATA_SETS, FORMS
from training.data_sets.splits import connected_groups, hashed_split
from umit_pacs.handoffs import Language

EN, ZH = Language.ENGLISH, Language.CHINESE


def problems(key, root):
    """reason -> (where, detail) of a data set of which one row or file is wrong."""
    return {each.reason: (each.where, each.detail) for each in tally(DATA_SETS[key], root).problems}


def edit_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    write_json(path, value)


# --- rows and columns --------------------------------------------------------------------------------------------


def test_a_missing_picture_is_named_with_its_row(tmp_path):
    published.vqa_rad(tmp_path)
    (tmp_path / "VQA_RAD Image Folder/synpic2.jpg").unlink()
    counted = tally(DATA_SETS["vqa_rad"], tmp_path)
    assert [(each.where, each.reason) for each in counted.problems] == [
        ("VQA_RAD Dataset Public.json:3", "missing_file")
    ]
    assert (counted.total, counted.skipped) == (4, 1)


def test_an_unknown_column_is_named_once_and_a_missing_one_leaves_the_row_out(tmp_path):
    published.vqa_rad(tmp_path)

    def change(rows):
        for row in rows[1:]:
            row["difficulty"] = "hard"
        del rows[0]["answer"]

    edit_json(tmp_path / "VQA_RAD Dataset Public.json", change)
    counted = tally(DATA_SETS["vqa_rad"], tmp_path)
    assert [(each.where, each.reason, each.detail, each.is_skipped) for each in counted.problems] == [
        ("VQA_RAD Dataset Public.json:1", "missing_column", "answer", True),
        ("VQA_RAD Dataset Public.json:2", "unknown_column", "'difficulty'", False),
    ]
    assert counted.total == 4


def test_a_table_without_a_column_or_with_a_torn_row_is_named_by_line(tmp_path):
    published.m3d_vqa(tmp_path)
    write_csv(tmp_path / "M3D_VQA_val.csv", ["Image Path", "Question", "Answer"], [["a.npy", "b", "c"]])
    header = published.M3D_VQA_HEADER
    relative = "M3D_Cap/ct_quizze/000005/Coronal_C__non-contrast.npy"
    right = [relative, "", 1, "Which plane?", "Axial", "Coronal", "Sagittal", "Oblique", "Coronal", "B"]
    rows = [right, right[:-1], [*right[:-1], "C"], [*right[:-1], "E"], ["../x.npy", *right[1:]], right]
    write_csv(tmp_path / "M3D_VQA_test.csv", header, rows)
    counted = tally(DATA_SETS["m3d_vqa"], tmp_path)
    assert [(each.where, each.reason) for each in counted.problems] == [
        ("M3D_VQA_val.csv:1", "missing_column"),
        ("M3D_VQA_test.csv:3", "wrong_number_of_cells"),
        ("M3D_VQA_test.csv:4", "answer_contradicts_choice"),
        ("M3D_VQA_test.csv:5", "unknown_option"),
        ("M3D_VQA_test.csv:6", "path_outside"),
    ]
    assert counted.total == 4


def test_broken_lines_and_files_are_named(tmp_path):
    published.pmc_oa(tmp_path)
    with (tmp_path / "pmc_oa_beta.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"image": \n[1]\n{"image": "PMC1_a.jpg", "caption": "x"}\n')
    (tmp_path / "images/PMC212310_Fig3_4.jpg").write_bytes(b"no picture")
    counted = tally(DATA_SETS["pmc_oa"], tmp_path)
    assert [(each.where, each.reason) for each in counted.problems] == [
        ("pmc_oa_beta.jsonl:1", "unreadable_picture"),
        ("pmc_oa_beta.jsonl:4", "unreadable_row"),
        ("pmc_oa_beta.jsonl:5", "unreadable_row"),
        ("pmc_oa_beta.jsonl:6", "missing_file"),
    ]
    published.iu_xray(tmp_path)
    (tmp_path / "annotation.json").write_text("[", encoding="utf-8")
    assert problems("iu_xray", tmp_path)["unreadable_file"][0] == "annotation.json"


@pytest.mark.parametrize("key", DATA_SETS)
def test_an_empty_folder_has_no_samples_and_says_what_is_missing(key, tmp_path):
    counted = tally(DATA_SETS[key], tmp_path)
    assert counted.total == 0
    assert {each.reason for each in counted.problems} == {"missing_file"}


def test_rows_of_the_same_id_are_not_both_kept(tmp_path):
    published.vqa_rad(tmp_path)
    edit_json(tmp_path / "VQA_RAD Dataset Public.json", lambda rows: rows[1].update(qid=1))
    assert problems("vqa_rad", tmp_path)["repeated_id"] == ("VQA_RAD Dataset Public.json:2", "vqa_rad-1")


def test_a_text_that_the_node_could_not_read_is_left_out(tmp_path):
    published.iu_xray(tmp_path)
    edit_json(tmp_path / "annotation.json", lambda listed: listed["val"][0].update(report="Heart <|im_end|> large."))
    assert problems("iu_xray", tmp_path)["answer_not_read_back"][0] == "annotation.json:val:1"


# --- places ------------------------------------------------------------------------------------------------------


def test_boxes_outside_the_image_and_ages_like_148_are_named_with_file_and_row(tmp_path):
    rows = [
        ("good", 1, 2, 30, 40, 1),
        ("outside", 10, 10, 20, 20, 1),
        ("outside", 40, 10, 30, 20, 1),
        ("old", "", "", "", "", 0),
        ("torn", "", "", "", "", 1),
        ("odd", "x", 1, 2, 3, 1),
    ]
    published.write_rsna(tmp_path, rows, ages={"old": "148"})
    counted = tally(DATA_SETS["rsna_pneumonia"], tmp_path)
    assert [(each.where, each.reason, each.detail) for each in counted.problems] == [
        (
            "stage_2_train_labels.csv:3",
            "box_outside_image",
            "stage_2_train_labels.csv:4: 40,10 30x20 in 64x64",
        ),
        ("stage_2_train_labels.csv:5", "implausible_age", "PatientAge 148 in old.dcm"),
        (
            "stage_2_train_labels.csv:6",
            "target_contradicts_box",
            "stage_2_train_labels.csv:6: Target 1 without a box",
        ),
        ("stage_2_train_labels.csv:7", "no_number", "'x' in x"),
    ]
    assert (counted.total, counted.skipped) == (1, 4)


def test_the_boxes_of_one_radiograph_are_one_truth(tmp_path):
    published.rsna_pneumonia(tmp_path)
    negative, positive = (row.sample for row in DATA_SETS["rsna_pneumonia"].read(tmp_path))
    assert negative.answer == "none"
    assert negative.instruction == "Find <|object_ref_start|> pneumonia<|object_ref_end|> in this image"
    assert positive.answer == "<|box_start|>(16,10),(29,40)<|box_end|><|box_start|>(35,10),(51,38)<|box_end|>"
    assert positive.frame == "absolute:64x64"
    assert positive.tags == {"class": "Lung Opacity"}


def test_a_detection_box_outside_its_picture_leaves_out_the_pictures_boxes_and_not_its_questions(tmp_path):
    published.slake(tmp_path)
    write_json(tmp_path / "imgs/xmlab1/detection.json", [{"Liver": [4, 8, 80, 16]}])
    counted = tally(DATA_SETS["slake"], tmp_path)
    assert [(each.where, each.reason) for each in counted.problems] == [
        ("imgs/xmlab1/detection.json", "box_outside_image")
    ]
    assert counted.samples["train", "vqa", "en"] == 1
    assert counted.samples["train", "detection", "en"] == 0
    rows = [found for found in DATA_SETS["slake"].read(tmp_path) if isinstance(found, Row)]
    kidney = next(row.sample for row in rows if row.sample.id == "slake-xmlab2-Kidney")
    chinese = next(row.sample for row in rows if row.sample.id == "slake-xmlab2-肾脏")
    assert chinese.instruction == "请在图像中找出<|object_ref_start|> 肾脏<|object_ref_end|>"
    assert chinese.answer == kidney.answer
    # x, y, width, height in 64x48 pixels, upper left corner first, in thousandths
    assert kidney.answer == "<|box_start|>(16,625),(172,1000)<|box_end|><|box_start|>(625,625),(781,833)<|box_end|>"


def test_landmarks_are_the_mean_of_two_observers_in_umits_frame(tmp_path):
    published.isbi_cephalometry(tmp_path)
    first = next(iter(DATA_SETS["isbi_cephalometry"].read(tmp_path))).sample
    assert first.truth.landmarks["Sella"] == (11.0, 9.0)
    assert first.truth.landmarks["Articulare"] == (190.0, 238.0)
    assert first.answer == f"[{round(11 / 194 * 600)},{round(9 / 240 * 800)}]"
    path = tmp_path / "AnnotationsByMD/400_senior/151.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("12,10", "1200,10", 1), encoding="utf-8")
    assert problems("isbi_cephalometry", tmp_path)["landmark_outside_image"] == (
        "RawImage/Test1Data/151.bmp",
        "400_senior/151.txt:1: 1200,10 in 194x240",
    )
    path.write_text("1,2\n", encoding="utf-8")
    assert problems("isbi_cephalometry", tmp_path)["no_number"][1] == "400_senior/151.txt:2: '' is no x,y"


def test_a_box_in_a_volume_is_the_masks_extent_in_columns_rows_and_slices(tmp_path):
    published.m3d_seg(tmp_path)
    rows = list(DATA_SETS["m3d_seg"].read(tmp_path))
    kidney, tumor = (row.sample for row in rows[:2])
    assert kidney.extent == (10, 12, 6)
    assert kidney.truth.boxes["kidney"] == (((2.0, 3.0, 1.0), (5.0, 9.0, 4.0)),)
    assert kidney.answer == "[(51,64,5),(127,191,20)]"
    assert tumor.truth.boxes["kidney tumor"] == (((7.0, 11.0, 5.0), (8.0, 12.0, 6.0)),)
    # As M3D does, the first of the stored axes becomes the columns.
    np.testing.assert_array_equal(rows[0].pixels[0](), np.load(tmp_path / "0004/1/image.npy")[0].transpose(2, 1, 0))


def test_the_two_forms_of_a_mask_give_one_box(tmp_path):
    raw, processed = tmp_path / "raw", tmp_path / "processed"
    for folder, build in ((raw, published.m3d_seg), (processed, published.m3d_seg_processed)):
        folder.mkdir()
        build(folder)
    of_raw = next(iter(DATA_SETS["m3d_seg"].read(raw))).sample
    of_processed = next(iter(DATA_SETS["m3d_seg"].read(processed))).sample
    assert of_processed.target == "tumor"
    assert of_processed.truth.boxes["tumor"] == of_raw.truth.boxes["kidney"]
    assert of_processed.answer == of_raw.answer


def test_masks_that_do_not_fit_their_image_or_names_are_left_out(tmp_path):
    published.m3d_seg(tmp_path)
    path = tmp_path / "0004/1"
    (path / "mask_(3, 10, 12, 6).npz").rename(path / "mask_(3, 12, 10, 6).npz")
    change = {"label": "0004/1/mask_(3, 12, 10, 6).npz"}
    edit_json(tmp_path / "0004/0004.json", lambda lists: lists["train"][0].update(change))
    write_json(tmp_path / "dataset_info.json", {"0004": ["kidney"]})
    counted = tally(DATA_SETS["m3d_seg"], tmp_path)
    assert [(each.where, each.reason) for each in counted.problems] == [
        ("0004.json:train:1", "shape_contradicts_image"),
        ("0004.json:test:1", "unknown_class"),
    ]


def test_class_names_are_read_from_python_without_running_it(tmp_path):
    published.m3d_seg_processed(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "dataset_info.py").write_text(f"dataset_info = open({str(mark)!r}, 'w')\n")
    assert problems("m3d_seg", tmp_path)["unreadable_file"][0] == "dataset_info.py"
    assert not mark.exists()


# --- arrays ------------------------------------------------------------------------------------------------------


def test_labels_without_a_class_and_arrays_of_other_types_are_named(tmp_path):
    published.medmnist(tmp_path)
    with np.load(tmp_path / "breastmnist.npz") as archive:
        arrays = dict(archive)
    arrays["val_labels"] = np.array([[0], [2]], np.uint8)
    arrays["test_images"] = arrays["test_images"].astype(np.float32)
    np.savez(tmp_path / "breastmnist_64.npz", **arrays)
    counted = tally(DATA_SETS["medmnist"], tmp_path)
    assert [(each.where, each.reason) for each in counted.problems] == [
        ("breastmnist_64.npz:val:1", "unknown_class"),
        ("breastmnist_64.npz:test", "unreadable_array"),
    ]
    assert counted.total == 6 * 6 + 3


def test_classes_are_counted_from_nought_in_umits_words(tmp_path):
    published.medmnist(tmp_path)
    rows = {row.sample.id: row.sample for row in DATA_SETS["medmnist"].read(tmp_path)}
    asked = rows["medmnist-pneumonia/test_1"]
    assert asked.images == ("images/pneumonia/test_1.png",)
    assert asked.answer == "1:pneumonia"
    assert asked.instruction == (
        "Given this image, choose one option from the 0:normal\n1:pneumonia, to answer the question: "
        "Does this chest X-ray image show a normal lung?"
    )


def test_a_volume_of_values_that_were_not_scaled_is_found_when_it_is_written(tmp_path):
    published.m3d_cap(tmp_path)
    np.save(tmp_path / "ct_case/000001/Axial.npy", np.full((1, 4, 8, 8), 300.0, np.float32))
    assert tally(DATA_SETS["m3d_cap"], tmp_path).total == 3
    counted = convert(DATA_SETS["m3d_cap"], tmp_path, tmp_path / "out")
    assert [(each.where, each.reason) for each in counted.problems] == [
        ("M3D_Cap.json:validation:1", "values_out_of_range")
    ]
    assert counted.total == 2
    assert not (tmp_path / "out/validation.jsonl").exists()


def test_slices_of_another_size_are_left_out_and_named(tmp_path):
    published.m3d_cap_raw(tmp_path)
    write_picture(tmp_path / "ct_quizze/000000/Axial_bone/3.png", width=5, height=5)
    counted = tally(DATA_SETS["m3d_cap"], tmp_path)
    assert [(each.where, each.reason, each.is_skipped) for each in counted.problems] == [
        ("ct_quizze/000000/Axial_bone", "differing_slices", False)
    ]
    first = next(row for row in DATA_SETS["m3d_cap"].read(tmp_path) if isinstance(row, Row)).sample
    assert first.extent == (16, 12, 10)
    # In the order of their numbers, not of their names.
    assert [path.rsplit("/", 1)[1] for path in first.volume[-2:]] == ["9.png", "10.png"]
    assert first.answer == "a mass in the liver."


# --- PathVQA -----------------------------------------------------------------------------------------------------


class _Runs:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_names_anything_but_plain_containers_is_refused_and_nothing_is_run(tmp_path):
    published.path_vqa(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "qas/val/val_qa.pkl").write_bytes(pickle.dumps([_Runs(mark)]))
    where, detail = problems("path_vqa", tmp_path)["unsafe_pickle"]
    assert where == "val_qa.pkl"
    assert "mkdir" in detail
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"(lp0\n", b"cos\nsystem\n.", b"no pickle at all", b"P1\n."])
def test_what_is_no_plain_pickle_is_refused(content, tmp_path):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pkl"):
        load_plain(tmp_path / "a.pkl")


@pytest.mark.parametrize("suffix", ["json", "tsv"])
def test_the_questions_may_be_given_without_pickles(suffix, tmp_path):
    published.path_vqa(tmp_path)
    for short in ("train", "val", "test"):
        folder = tmp_path / "qas" / short
        (folder / f"{short}_qa.pkl").unlink()
        rows = [{"image": f"{short}_0261"} | row for row in published.PATH_VQA_ROWS]
        if suffix == "json":
            write_json(folder / f"{short}_qa.json", rows)
        else:
            lines = ["image\tquestion\tanswer", *(f"{short}_0261\tIs it {n}?\tno" for n in range(2))]
            (folder / f"{short}_qa.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    counted = tally(DATA_SETS["path_vqa"], tmp_path)
    assert (counted.total, counted.problems) == (6, [])


def test_parquet_files_are_read_where_pyarrow_is_and_else_named_with_it(tmp_path):
    picture = write_picture(tmp_path / "a.jpg", colour=True).read_bytes()
    (tmp_path / "data").mkdir()
    rows = [{"image": {"bytes": picture, "path": None}} | row for row in published.PATH_VQA_ROWS]
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        (tmp_path / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1")
        assert "pyarrow" in problems("path_vqa", tmp_path)["library_missing"][1]
        return
    for split in ("train", "validation", "test"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"data/{split}-00000-of-00001.parquet")
    counted = convert(DATA_SETS["path_vqa"], tmp_path, tmp_path / "out")
    assert (counted.total, counted.problems) == (6, [])
    # Two questions about one picture: it is written once in each split.
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 3


# --- questions and splits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer", "language", "options"),
    [
        ("Is there a mass?", "Yes", EN, ("yes", "no")),
        ("Is there a mass?", "no.", EN, ("yes", "no")),
        ("Which is bigger in this image, liver or spleen?", "Liver", EN, ("liver", "spleen")),
        ("Is the lesion on the left or right side?", "Right", EN, ("left", "right")),
        ("Is this a CT or an MRI?", "MRI", EN, ("CT", "MRI")),
        ("Is it dark or bright?", "grey", EN, None),
        ("Where is it?", "liver", EN, None),
        ("图像中是否包含肝脏?", "不包含", ZH, ("包含", "不包含")),
        ("有肿块吗?", "没有", ZH, ("有", "没有")),
        ("有肿块吗?", "有", ZH, ("有", "没有")),
        ("肺是健康的吗?", "不是", ZH, ("是", "否")),
        ("病变在左肺还是右肺?", "右肺", ZH, ("左肺", "右肺")),
        ("病变位于左上肺还是右肺?", "右肺", ZH, None),
        ("肺或者心脏哪个是异常的?", "心脏", ZH, ("肺", "心脏")),
        ("这是什么?", "肝脏", ZH, None),
    ],
)
def test_closed_questions_have_the_options_that_they_are_answered_from(question, answer, language, options):
    closed = closed_question(question, answer, language)
    if options is None:
        assert closed is None
        return
    assert closed.options == options
    right = closed.options[closed.right_option].casefold()
    assert right == answer.rstrip(".").casefold() or (answer, right) == ("不是", "否")


def test_a_hashed_split_has_about_the_shares_asked_for_and_never_moves():
    splits = [hashed_split(f"patient {number}", validation=0.1, test=0.2) for number in range(4000)]
    assert splits.count("test") == pytest.approx(800, abs=80)
    assert splits.count("validation") == pytest.approx(400, abs=60)
    assert [hashed_split(name, validation=0.1, test=0.1) for name in ("a", "b", "c")] == ["train", "train", "train"]


def test_rows_that_share_an_image_or_a_linked_question_are_one_group():
    groups = connected_groups([("image 1", "link a"), ("image 2", "link a"), ("image 2",), ("image 3", "link b")])
    assert groups["image 1"] == groups["image 2"] == groups["link a"]
    assert groups["image 3"] != groups["image 1"]


# --- the command -------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


@pytest.mark.xdist_group("training")  # whose tests load everything that the import takes
def test_the_command_is_one_of_pythons_m_training():
    from training.command_line import app as training

    assert "check" in CliRunner().invoke(training, ["data", "--help"]).output


def test_check_names_what_is_wrong_and_only_strict_fails(tmp_path):
    published.vqa_rad(tmp_path)
    assert run("check", "vqa_rad", tmp_path, "--strict").exit_code == 0
    (tmp_path / "VQA_RAD Image Folder/synpic2.jpg").unlink()
    found = run("check", "vqa_rad", tmp_path)
    assert found.exit_code == 0
    assert "VQA_RAD Dataset Public.json:3: VQA_RAD Image Folder/synpic2.jpg" in found.output
    assert "4 samples, 1 rows skipped." in found.output
    assert run("check", "vqa_rad", tmp_path, "--strict").exit_code == 1
    as_json = json.loads(run("check", "vqa_rad", tmp_path, "--json").stdout)
    assert as_json["skipped"] == 1
    assert as_json["rows"][0]["where"] == "VQA_RAD Dataset Public.json:3"


def test_a_folder_without_anything_usable_fails(tmp_path):
    assert run("check", "slake", tmp_path).exit_code == 1
    assert run("check", "nothing", tmp_path).exit_code == 2
    assert run("convert", "slake", tmp_path, tmp_path / "out", "--layout", "swift9").exit_code == 2


def test_convert_writes_both_layouts_and_reads_them_again(tmp_path):
    root, out = tmp_path / "published", tmp_path / "out"
    published.rsna_pneumonia(root)
    done = run(
        "convert", "rsna_pneumonia", root, out, "--layout", "swift2", "--layout", "swift3", "--objects", "--strict"
    )
    assert done.exit_code == 0, done.output
    assert "2 samples, 0 rows skipped." in done.output
    samples = tally(FORMS["samples"], out)
    rows = tally(FORMS["swift"], out)
    assert (samples.total, rows.total, rows.problems) == (2, 4, [])
    assert json.loads(run("stats", "samples", out, "--json").stdout)["sizes"] == {"train 64x64": 2}


def test_what_stands_in_two_splits_is_counted_and_left_out_of_train_when_asked(tmp_path):
    root, out = tmp_path / "published", tmp_path / "out"
    published.vqa_rad(root)
    # As in the real one: a picture of the test set is asked about in train too.
    edit_json(root / "VQA_RAD Dataset Public.json", lambda rows: rows[2].update(image_name="synpic3.jpg"))
    assert json.loads(run("check", "vqa_rad", root, "--json").stdout)["divided_groups"] == {"test train": 1}
    assert "1 groups (patients, articles or pictures) stand in test and train." in run("check", "vqa_rad", root).output
    done = run("convert", "vqa_rad", root, out, "--separate")
    assert "VQA_RAD Dataset Public.json:3: linked b is in test too" in done.output
    counted = tally(FORMS["samples"], out)
    assert (counted.total, counted.divided) == (4, {})


def test_stats_count_per_split_task_language_and_size(tmp_path):
    published.slake(tmp_path)
    counted = json.loads(run("stats", "slake", tmp_path, "--json").stdout)
    assert counted["samples"]["train vqa zh"] == 1
    assert counted["samples"]["validation detection en"] == 3
    assert counted["samples"]["validation detection zh"] == 2
    assert counted["sizes"] == {"train 64x48": 1, "validation 64x48": 1, "test 64x48": 1}
    table = run("stats", "slake", tmp_path).output
    assert "detection" in table
    assert "19 samples, 0 rows skipped." in table


def test_list_says_licence_and_layout_of_everything():
    listed = json.loads(run("list", "--json").stdout)
    assert {row["key"] for row in listed} == {*DATA_SETS, *FORMS}
    assert "CC-BY-4.0" in run("list").output


def test_rows_of_another_trainer_are_refused_one_by_one(tmp_path):
    write_picture(tmp_path / "a.png")
    rows = [
        {
            "query": "<image>Given this image, please answer the question: Where?",
            "response": "liver",
            "images": ["a.png"],
        },
        {"query": "What is this?", "response": "a liver", "images": ["a.png"]},
        {"query": "<image>Given this image, please answer the question: Where?", "response": "x", "images": ["b.png"]},
    ]
    write_jsonl(tmp_path / "test_rows.jsonl", rows)
    counted = tally(FORMS["swift"], tmp_path)
    assert [(each.where, each.reason) for each in counted.problems] == [
        ("test_rows.jsonl:2", "other_instruction"),
        ("test_rows.jsonl:3", "missing_file"),
    ]
    assert counted.samples == {("test", "vqa", "en"): 1}


# --- damage ------------------------------------------------------------------------------------------------------

_JUNK = (
    b"null",
    b"-1",
    b"1e999",
    b"[]",
    b"{}",
    b'"\\ud800"',
    b"\xff\xfe",
    b"a" * 5000,
    b"\x00",
    b"../",
    b"true",
    b"NaN",
)


@pytest.mark.parametrize("name", published.PUBLISHED)
def test_no_damage_ends_the_reading_without_a_word(name, tmp_path):
    """Bytes changed, put in, taken out and cut off, anywhere in any file but the pictures."""
    key, build = published.PUBLISHED[name]
    build(tmp_path)
    rng = random.Random(name)
    files = sorted(
        path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in {".png", ".jpg", ".bmp"}
    )
    for _ in range(12):
        path = rng.choice(files)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        at = rng.randrange(min(len(damaged), 400))
        damage = rng.randrange(4)
        if damage == 0:
            damaged[at] = rng.randrange(256)
        elif damage == 1:
            damaged[at : at + rng.randrange(1, 12)] = rng.choice(_JUNK)
        elif damage == 2:
            del damaged[at : at + rng.randrange(1, 30)]
        else:
            del damaged[at:]
        path.write_bytes(damaged)
        counted = tally(DATA_SETS[key], tmp_path)
        assert counted.total or counted.problems
        path.write_bytes(whole)
