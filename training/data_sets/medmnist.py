"""MedMNIST: the seven 2D subsets that UMIT classifies, in UMIT's questions and class names.

Layout: `<flag>.npz` (28 px) or `<flag>_{64,128,224}.npz` with `{train,val,test}_{images,labels}`; the largest size of
each subset is read. Pictures are drawn from the archive one after another: at 224 px one subset is larger than memory.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from training.data_sets.reading import DataSet, Found, Problem, Row
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.stored_pictures import ARRAY_ERRORS
from umit_pacs.umit_model.samples import Sample, SampleTruth, Split, complete

_SIZES = ("_224", "_128", "_64", "")
_SPLITS: tuple[tuple[str, Split], ...] = (("train", "train"), ("val", "validation"), ("test", "test"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """One subset as UMIT asks it: class names in the order of the labels."""

    flag: str
    modality: str
    question: str
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.flag.removesuffix("mnist")


_TISSUE = "Which type of tissue does this image represent?"
SUBSETS = (
    Subset(
        flag="pathmnist",
        modality="SM",
        question=_TISSUE,
        classes=(
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
    ),
    Subset(
        flag="dermamnist",
        modality="XC",
        question="Which disease does this dermatoscopic image represent?",
        classes=(
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
    ),
    Subset(
        flag="octmnist",
        modality="OPT",
        question=_TISSUE,
        classes=("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
    Subset(
        flag="pneumoniamnist",
        modality="DX",
        question="Does this chest X-ray image show a normal lung?",
        classes=("normal", "pneumonia"),
    ),
    Subset(
        flag="breastmnist",
        modality="US",
        question="Does this breast ultrasound image show normal?",
        classes=("malignant", "normal"),
    ),
    Subset(
        flag="bloodmnist",
        modality="GM",
        question="What type of blood cell is shown in this image?",
        classes=(
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
    ),
    Subset(
        flag="organcmnist",
        modality="CT",
        question="Which organ is shown in this CT image?",
        classes=(
            "bladder",
            "femur-left",
            "femur-right",
            "heart",
            "kidney-left",
            "kidney-right",
            "liver",
            "lung-left",
            "lung-right",
            "pancreas",
            "spleen",
        ),
    ),
)


def read(root: Path) -> Iterator[Found]:
    for subset in SUBSETS:
        path = next((path for size in _SIZES if (path := root / f"{subset.flag}{size}.npz").is_file()), None)
        if path is None:
            yield Problem(where=f"{subset.flag}.npz", reason="missing_file", detail="not in the folder in any size")
            continue
        for key, split in _SPLITS:
            try:
                yield from _rows(subset, path, key, split)
            except (*ARRAY_ERRORS, KeyError, zipfile.BadZipFile, zlib.error) as exc:
                yield Problem(where=f"{path.name}:{key}", reason="unreadable_array", detail=str(exc))


def _rows(subset: Subset, path: Path, key: str, split: Split) -> Iterator[Found]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        labels = archive[f"{key}_labels"]
    if labels.ndim != 2 or labels.shape[1] != 1:
        raise ValueError(f"{key}_labels of shape {labels.shape}")
    count = 0
    for index, picture in enumerate(pictures(path, f"{key}_images")):
        count += 1
        where = f"{path.name}:{key}:{index}"
        label = int(labels[index, 0]) if index < len(labels) else -1
        if not 0 <= label < len(subset.classes):
            yield Problem(where=where, reason="unknown_class", detail=f"label {label} of {len(subset.classes)}")
        else:
            yield _row(subset, split, where, f"{subset.name}/{key}_{index}", picture, label)
    if count != len(labels):
        yield Problem(where=f"{path.name}:{key}", reason="wrong_number_of_cells", detail=f"{len(labels)} labels")


def _row(subset: Subset, split: Split, where: str, name: str, picture: NDArray[np.uint8], label: int) -> Row:
    sample = Sample(
        id=f"medmnist-{name}",
        study=name,
        group=name,
        data_set=DATA_SET.key,
        split=split,
        images=(f"images/{name}.png",),
        modality=subset.modality,
        task=Task.CLASSIFICATION,
        language=Language.ENGLISH,
        question=subset.question,
        options=subset.classes,
        extent=(picture.shape[1], picture.shape[0]),
        truth=SampleTruth(right_option=label),
        tags={"subset": subset.flag},
    )
    return Row(where=where, sample=complete(sample), pixels=(lambda: picture,))


def pictures(path: Path, name: str) -> Iterator[NDArray[np.uint8]]:
    """The pictures of one array of an `.npz` archive, (H, W) or (H, W, 3), read one after another.

    Raises ValueError when it is no stack of 8-bit pictures.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        version = npy_format.read_magic(file)
        read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        if dtype != np.uint8 or is_fortran or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise ValueError(f"{name}: {dtype} of shape {shape} is no stack of pictures")
        size_bytes = int(np.prod(shape[1:]))
        for _ in range(shape[0]):
            content = file.read(size_bytes)
            if len(content) != size_bytes:
                raise ValueError(f"{name} ends early")
            yield np.frombuffer(content, np.uint8).reshape(shape[1:])


DATA_SET = DataSet(
    key="medmnist",
    title="MedMNIST (path, derma, oct, pneumonia, breast, blood, organC)",
    source="https://medmnist.com",
    licence="CC-BY-4.0; DermaMNIST CC-BY-NC-4.0",
    tasks=(Task.CLASSIFICATION,),
    languages=("en",),
    modalities=("SM", "XC", "OPT", "DX", "US", "GM", "CT"),
    split_rule="the publisher's",
    layout="<flag>.npz or <flag>_{64,128,224}.npz for each of the seven",
    read=read,
)
