"""Every data set's published layout in miniature, made by hand: the same files, columns and habits, no real data.

Each builder writes a folder whose every row can be used and returns how many samples that makes.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import sparse

from tests.phantoms import Study, write_dx_image


def write_picture(path: Path, *, width: int = 40, height: int = 30, seed: int = 0, colour: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3) if colour else (height, width)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([header, *rows])


# --- stage one ---------------------------------------------------------------------------------------------------


def pmc_oa(root: Path) -> int:
    rows = []
    for number in range(3):
        name = f"PMC21231{number}_Fig3_4.jpg"
        write_picture(root / "images" / name, seed=number, colour=True)
        caption = f'Axial "T2" image {number}, arrow.'
        rows.append({"image": name, "caption": caption, "pmcid": f"PMC21231{number}", "url_name": "x.jpg"})
    write_jsonl(root / "pmc_oa_beta.jsonl", rows)
    return 3


def chimed_vl_alignment(root: Path) -> int:
    rows = []
    for number, key in enumerate(("caption", "description", "context")):
        name = f"PMC825387{number}_Fig6_46.jpg"
        write_picture(root / "images" / name, seed=number)
        rows.append({"image": name, key: f"胸部CT示左肺下叶肿块{number}。"})
    write_picture(root / "images/PMC8253999_Fig1_1.jpg")
    turns = [{"from": "human", "value": "<image>\n请描述这张图像。"}, {"from": "gpt", "value": "腹部超声图像。"}]
    rows.append({"id": "3", "image": "PMC8253999_Fig1_1.jpg", "conversations": turns})
    write_jsonl(root / "ChiMed-VL-Alignment.jsonl", rows)
    return 4


def chimed_vl_instruction(root: Path) -> int:
    write_picture(root / "images/PMC1_Fig1.jpg")
    turns = [
        {"from": "human", "value": "<image>\n图中是什么器官?"},
        {"from": "gpt", "value": "肝脏"},
        {"from": "human", "value": "有肿块吗?"},
        {"from": "gpt", "value": "有"},
    ]
    rows = [
        {"id": 1, "image": "PMC1_Fig1.jpg", "conversations": turns},
        {"image": "PMC1_Fig1.jpg", "question": "病变在左肺还是右肺?", "answer": "右肺"},
    ]
    write_json(root / "ChiMed-VL-Instruction.json", rows)
    return 3


# --- questions ---------------------------------------------------------------------------------------------------


def vqa_rad(root: Path) -> int:
    def row(qid: int, phrase_type: str, image: str, question: str, answer: Any, answer_type: str, linked: str) -> Any:
        return {
            "qid": qid,
            "phrase_type": phrase_type,
            "qid_linked_id": linked,
            "image_case_url": "https://medpix",
            "image_name": image,
            "image_organ": "HEAD" if qid < 4 else "CHEST",
            "evaluation": "not evaluated",
            "question": question,
            "question_rephrase": "NULL",
            "question_relation": "NULL",
            "question_frame": "NULL",
            "question_type": "PRES",
            "answer": answer,
            "answer_type": answer_type,
        }

    for number in (1, 2, 3):
        write_picture(root / f"VQA_RAD Image Folder/synpic{number}.jpg", seed=number)
    rows = [
        row(1, "freeform", "synpic1.jpg", "Are regions of the brain infarcted?", "Yes", "CLOSED ", "a"),
        row(2, "para", "synpic1.jpg", "Is the brain infarcted?", "yes", "CLOSED", "a"),
        row(3, "freeform", "synpic2.jpg", "How many lesions are there?", 3, "OPEN", "b"),
        row(4, "test_freeform", "synpic3.jpg", "Is the mass on the left or right side?", "Left", "CLOSED", "c"),
        row(5, "test_para", "synpic3.jpg", "What is this?", "Chest  X-ray", "OPEN", "NULL"),
    ]
    write_json(root / "VQA_RAD Dataset Public.json", rows)
    return 5


def slake(root: Path) -> int:
    def row(qid: int, image: int, language: str, question: str, answer: str, answer_type: str) -> Any:
        return {
            "img_id": image,
            "img_name": f"xmlab{image}/source.jpg",
            "question": question,
            "answer": answer,
            "q_lang": language,
            "location": "Abdomen",
            "modality": "MRI",
            "answer_type": answer_type,
            "base_type": "vqa",
            "content_type": "Modality",
            "triple": ["vhead", "_", "_"],
            "qid": qid,
        }

    for image in (1, 2, 3):
        write_picture(root / f"imgs/xmlab{image}/source.jpg", width=64, height=48, seed=image)
        write_picture(root / f"imgs/xmlab{image}/mask.png", width=64, height=48)
        boxes = [
            {"Liver": [4, 8, 20, 16]},
            {"Muscle": [1, 1, 2, 2]},
            {"Kidney": [40.0, 30.0, 10.0, 10.0]},
            {"Kidney": [1, 30, 10, 18]},
        ]
        write_json(root / f"imgs/xmlab{image}/detection.json", boxes)
    english = row(0, 1, "en", "What modality is used to take this image?", "MRI", "OPEN")
    write_json(root / "train.json", [english, row(1, 1, "zh", "图像中是否包含肝脏?", "不包含", "CLOSED")])
    write_json(root / "validate.json", [row(2, 2, "en", "Does the picture contain liver?", "Yes", "CLOSED")])
    write_json(root / "test.json", [row(3, 3, "zh", "肺或者心脏哪个更大?", "心脏", "CLOSED")])
    (root / "mask.txt").write_text("Liver:1\n", encoding="utf-8")
    return 4 + 3 * 5  # every name in English, two of the three in Chinese


PATH_VQA_ROWS = [
    {"question": "Is this ulcer?", "answer": "no"},
    {"question": 'What have "lost" their nuclei?', "answer": "neutrophils"},
]


def path_vqa(root: Path) -> int:
    for short in ("train", "val", "test"):
        write_picture(root / f"images/{short}/{short}_0261.jpg", colour=True)
        folder = root / "qas" / short
        folder.mkdir(parents=True)
        rows = [{"image": f"{short}_0261"} | row for row in PATH_VQA_ROWS]
        (folder / f"{short}_qa.pkl").write_bytes(pickle.dumps(rows))
    return 6


def write_m3d_volume(path: Path, *, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).random((1, 4, 8, 8), dtype=np.float32))


M3D_VQA_HEADER = ["Image Path", "Text", "Question Type", "Question"]
M3D_VQA_HEADER += ["Choice A", "Choice B", "Choice C", "Choice D", "Answer", "Answer Choice"]


def m3d_vqa(root: Path) -> int:
    relative = "M3D_Cap/ct_quizze/000005/Coronal_C__non-contrast.npy"
    write_m3d_volume(root / relative)
    row = [relative, "Findings.", 1, "What is the plane, if any?", "Axial", "Coronal", "Sagittal", "Oblique"]
    for name in ("train", "val", "test"):
        write_csv(root / f"M3D_VQA_{name}.csv", M3D_VQA_HEADER, [[*row, "Coronal", "B"]])
    header = ["Image Path", "Text", "Question Type", "Question", "Answer"]
    write_csv(root / "M3D_VQA_yn_train.csv", header, [[relative, "Findings.", 4, "Is there a mass?", "Yes"]])
    return 4


# --- reports -----------------------------------------------------------------------------------------------------


def m3d_cap(root: Path) -> int:
    listed: dict[str, list[dict[str, str]]] = {}
    for number, key in enumerate(("train", "validation", "test")):
        case = f"ct_case/{number:06}"
        write_m3d_volume(root / case / "Axial.npy", seed=number)
        (root / case / "text.txt").write_text("A mass in the\nleft lower lobe.", encoding="utf-8")
        listed[key] = [{"image": f"{case}/Axial.npy", "text": f"{case}/text.txt"}]
    write_json(root / "M3D_Cap.json", listed)
    return 3


def m3d_cap_raw(root: Path) -> int:
    for number, text in enumerate(
        ("study_findings: a mass\nin the liver.", "study_findings:\ndiscussion: hernia here.")
    ):
        case = root / f"ct_quizze/{number:06}"
        for slice_ in range(11):
            write_picture(case / f"Axial_bone/{slice_}.png", width=16, height=12, seed=slice_)
        (case / "text.txt").write_text(text, encoding="utf-8")
    return 2


def iu_xray(root: Path) -> int:
    listed: dict[str, list[Any]] = {}
    for number, key in enumerate(("train", "val", "test")):
        study = f"CXR238{number}_IM-0942"
        paths = [f"{study}/{view}.png" for view in (0, 1)]
        for view, path in enumerate(paths):
            write_picture(root / "images" / path, width=40 - view, seed=view)
        report = "The heart size is normal. No pneumothorax."
        listed[key] = [{"id": study, "report": report, "image_path": paths, "split": key}]
    write_json(root / "annotation.json", listed)
    return 3


def peir_gross(root: Path) -> int:
    names = [f"{number:08}.jpg" for number in range(4)]
    captions = {name: f'KIDNEY: "infarct" {number}\'s view' for number, name in enumerate(names)}
    for name in names:
        write_picture(root / "peir_gross_images" / name, colour=True)
    for table, of_table in (("peir_gross", names), ("train_images", names[:3]), ("test_images", names[3:])):
        lines = [f"{name}\t{captions[name]}\n" for name in of_table]
        (root / f"{table}.tsv").write_text("".join(lines), encoding="utf-8")
    write_json(root / "peir_gross_captions.json", captions)
    return 4


# --- classes, boxes, landmarks -----------------------------------------------------------------------------------


def medmnist(root: Path) -> int:
    rng = np.random.default_rng(7)
    channels = {"path": 3, "derma": 3, "oct": 1, "pneumonia": 1, "breast": 1, "blood": 3, "organc": 1}
    for name, count in channels.items():
        arrays = {}
        for split in ("train", "val", "test"):
            shape = (2, 28, 28) if count == 1 else (2, 28, 28, 3)
            arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
            arrays[f"{split}_labels"] = np.array([[0], [1]], np.uint8)
        np.savez_compressed(root / f"{name}mnist.npz", **arrays)
    return 7 * 3 * 2


RSNA_HEADER = ["patientId", "x", "y", "width", "height", "Target"]


def write_rsna(root: Path, labels: Sequence[Sequence[Any]], ages: dict[str, str] | None = None) -> None:
    """Radiographs of 64x64 pixels; the age is a bare number, as there."""
    patients = dict.fromkeys(str(row[0]) for row in labels)
    for number, patient in enumerate(patients):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64))
        age = (ages or {}).get(patient, "51")
        # The bare number is what is published; pydicom would rather not write it.
        written = write_dx_image(
            root,
            pixels,
            study=Study(patient_id=patient, patient_age="051Y"),
            bits_stored=8,
            window=(128, 256),
            change=lambda ds, age=age: ds.__setitem__("PatientAge", _raw_age(ds, age)),
        )
        target = root / "stage_2_train_images" / f"{patient}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        written.rename(target)
    write_csv(root / "stage_2_train_labels.csv", RSNA_HEADER, labels)
    classes = [(row[0], "Lung Opacity" if row[5] else "Normal") for row in labels]
    write_csv(root / "stage_2_detailed_class_info.csv", ["patientId", "class"], classes)


def _raw_age(ds: Any, age: str) -> Any:
    from pydicom.dataelem import DataElement
    from pydicom.valuerep import VR

    return DataElement(ds["PatientAge"].tag, VR.AS, age, already_converted=True)


def rsna_pneumonia(root: Path) -> int:
    labels = [
        ("0004cfab", "", "", "", "", 0),
        ("00436515", 16.0, 10.0, 13.0, 30.0, 1),
        ("00436515", 35.0, 10.0, 16.0, 28.0, 1),
    ]
    write_rsna(root, labels)
    return 2


def write_m3d_seg_info(root: Path) -> None:
    write_json(root / "dataset_info.json", {"0000": ["liver"], "0004": ["kidney", "kidney tumor", "kidney cyst"]})


def m3d_seg(root: Path) -> int:
    """One raw case of 10 x 12 x 6 with two of three classes, one in train and one in test."""
    write_m3d_seg_info(root)
    for case in ("1", "2"):
        folder = root / f"0004/{case}"
        folder.mkdir(parents=True)
        image = np.arange(10 * 12 * 6, dtype=np.float32).reshape(1, 10, 12, 6)
        np.save(folder / "image.npy", image)
        masks = np.zeros((3, 10, 12, 6), bool)
        masks[0, 2:5, 3:9, 1:4] = True
        masks[1, 7, 11, 5] = True
        sparse.save_npz(folder / "mask_(3, 10, 12, 6).npz", sparse.csr_matrix(masks.reshape(3, -1)))
    pairs = [{"image": f"0004/{n}/image.npy", "label": f"0004/{n}/mask_(3, 10, 12, 6).npz"} for n in ("1", "2")]
    write_json(root / "0004/0004.json", {"train": pairs[:1], "test": pairs[1:]})
    return 4


def m3d_seg_processed(root: Path) -> int:
    """The same in the form that M3D trains on, with the paths of another machine."""
    (root / "dataset_info.py").write_text("\ndataset_info = {'0000': ['liver'], '0004': ['kidney', 'tumor']}\n")
    folder = root / "0004/1"
    (folder / "masks").mkdir(parents=True)
    np.save(folder / "image.npy", np.random.default_rng(0).random((1, 6, 12, 10), dtype=np.float32))
    mask = np.zeros((1, 6, 12, 10), bool)
    mask[0, 1:4, 3:9, 2:5] = True
    np.save(folder / "masks/mask_1.npy", mask)
    pair = {"image": "PATH/data/M3D_Seg_npy/0004/1/image.npy", "label": "PATH/data/M3D_Seg_npy/0004/1/masks/mask_1.npy"}
    write_json(root / "0004/0004.json", {"train": [], "test": [pair]})
    return 1


def isbi_cephalometry(root: Path) -> int:
    for folder, number in (("TrainingData", 1), ("Test1Data", 151), ("Test2Data", 301)):
        write_picture(root / f"RawImage/{folder}/{number:03}.bmp", width=194, height=240, seed=number)
        for observer, shift in (("400_junior", 0), ("400_senior", 2)):
            path = root / f"AnnotationsByMD/{observer}/{number:03}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{10 * index + shift},{8 * index + shift}" for index in range(1, 19)] + ["190,238"]
            path.write_text("\n".join([*lines, *"11213112"]) + "\n", encoding="utf-8")
    return 3 * 19


PUBLISHED: dict[str, tuple[str, Callable[[Path], int]]] = {
    "pmc_oa": ("pmc_oa", pmc_oa),
    "chimed_vl_alignment": ("chimed_vl_alignment", chimed_vl_alignment),
    "chimed_vl_instruction": ("chimed_vl_instruction", chimed_vl_instruction),
    "vqa_rad": ("vqa_rad", vqa_rad),
    "slake": ("slake", slake),
    "path_vqa": ("path_vqa", path_vqa),
    "m3d_vqa": ("m3d_vqa", m3d_vqa),
    "m3d_cap": ("m3d_cap", m3d_cap),
    "m3d_cap raw": ("m3d_cap", m3d_cap_raw),
    "iu_xray": ("iu_xray", iu_xray),
    "peir_gross": ("peir_gross", peir_gross),
    "medmnist": ("medmnist", medmnist),
    "rsna_pneumonia": ("rsna_pneumonia", rsna_pneumonia),
    "m3d_seg": ("m3d_seg", m3d_seg),
    "m3d_seg processed": ("m3d_seg", m3d_seg_processed),
    "isbi_cephalometry": ("isbi_cephalometry", isbi_cephalometry),
}
