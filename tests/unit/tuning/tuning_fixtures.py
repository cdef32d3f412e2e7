"""A random tiny Qwen2-VL, a handful of tiny pictures, and questions of every task about them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny_checkpoint import IMAGE_PX, SLICES, write_tiny_checkpoint
from training.tuning.config import TuneConfig
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, SampleTruth, complete, write_samples

SIZE = (80, 60)
PICTURES = 6
PROFILE = f"""
version = "1"
maximum_pixels = {IMAGE_PX * IMAGE_PX}
licence = "none"
data_licence = "none"
intended_use = "tests"

[looks.radiograph]
modalities = ["DX"]
pixels = {{ kind = "image", width = {IMAGE_PX}, height = {IMAGE_PX}, grey = {{ kind = "header" }} }}

[looks.volume]
modalities = ["CT"]
pixels = {{ kind = "volume", width = {IMAGE_PX}, height = {IMAGE_PX}, slices = {SLICES}, grey = {{ kind = "window" }} }}
"""
LOOK_OF = {Task.DETECTION_3D: "volume"}
FOLDER_OF = {task: task.value for task in Task}


def profile_text(*, base: str = "", adapters: bool = False) -> str:
    """The profile of the tiny checkpoint; `adapters`: each task in a folder of its own."""
    tasks = ""
    for task in Task:
        folder = FOLDER_OF[task] if adapters else ""
        frame = f"voxel:{SLICES}x{IMAGE_PX}x{IMAGE_PX}" if task is Task.DETECTION_3D else ""
        tasks += f'\n[[tasks]]\ntask = "{task}"\nlooks = ["{LOOK_OF.get(task, "radiograph")}"]\n'
        tasks += f'folder = "{folder}"\nframe = "{frame}"\nmaximum_images = 2\nmaximum_new_tokens = 24\n'
    return f'name = "tuned"\nbase = "{base}"\n{PROFILE}{tasks}'


@cache
def random_base(folder: Path) -> Path:
    """A base with random weights, made once per test process."""
    write_tiny_checkpoint(folder / "random", steps=0)
    return folder / "random/base"


def write_data(folder: Path) -> Path:
    """Pictures, a volume, and `samples.jsonl` with questions of every task in both splits."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    for number in range(PICTURES):
        values = rng.integers(0, 256, (SIZE[1], SIZE[0]), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"images/{number}.png")
    np.save(folder / "images/volume.npy", rng.integers(-200, 300, (5, 40, 48), dtype=np.int16))
    samples = [sample for number in range(PICTURES) for sample in _questions(number)]
    write_samples(folder / "samples.jsonl", samples)
    return folder / "samples.jsonl"


def _questions(number: int) -> list[Sample]:
    box = ((8.0 + number, 6.0), (40.0, 30.0 + number))
    truth = SampleTruth(
        right_option=number % 2,
        findings={"pleural_effusion": "present" if number % 2 else "absent", "nodule": "present"},
        sides={"pleural_effusion": "left"} if number % 2 else {},
        boxes={"nodule": (box,)},
        landmarks={"carina": (30.0 + number, 20.0)},
    )
    language = (Language.ENGLISH, Language.CHINESE)[number % 2]
    split = "validation" if number == PICTURES - 1 else "train"
    known = {"language": language, "split": split, "group": f"patient {number}", "modality": "DX"}
    one = known | {"images": (f"images/{number}.png",), "truth": truth}
    placed = one | {"frame": "norm1000", "extent": SIZE, "template": "chest_radiograph"}
    two = known | {"images": (f"images/{number}.png", f"images/{(number + 1) % PICTURES}.png")}
    volume = known | {"volume": ("images/volume.npy",), "modality": "CT", "extent": (48, 40, 5)}
    tumour = SampleTruth(boxes={"Tumor": (((4.0, 5.0, 1.0), (20.0, 30.0, 3.0)),)})
    volume |= {"frame": f"voxel:{SLICES}x{IMAGE_PX}x{IMAGE_PX}", "truth": tumour}
    found = [
        Sample(id=f"report-{number}", task=Task.REPORT, answer="The heart size is normal. " * (1 + number), **one),
        Sample(id=f"class-{number}", task=Task.CLASSIFICATION, question="Normal?", options=("yes", "no"), **one),
        Sample(id=f"vqa-{number}", task=Task.VQA, question="Is there a mass?", options=("yes", "no"), **one),
        Sample(id=f"box-{number}", task=Task.DETECTION, target="nodule", **placed),
        Sample(id=f"point-{number}", task=Task.LANDMARK, target="carina", **placed),
        Sample(id=f"box3d-{number}", task=Task.DETECTION_3D, target="Tumor", **volume),
        Sample(
            id=f"caption-{number}",
            task=Task.VQA,
            question="What does this image show?",
            answer="A chest.",
            tags={"kind": "caption"},
            **one | {"truth": SampleTruth()},
        ),
        Sample(
            id=f"compare-{number}",
            task=Task.VQA,
            question="How do these two images compare?",
            answer="Similarities: both show a chest; Differences: the first is darker.",
            tags={"kind": "comparison"},
            **two,
        ),
    ]
    return [complete(sample) for sample in found]


def tune_config(folder: Path, base: Path, **changes) -> TuneConfig:
    """A short run of stage 2 in float32 on `folder / samples.jsonl`; `changes` replace whole tables."""
    if not (folder / "profile.toml").exists():
        (folder / "profile.toml").write_text(profile_text(), encoding="utf-8")
    content = {
        "stage": "stage2",
        "base": base,
        "run": folder / "run",
        "result": folder / "result",
        "profile": str(folder / "profile.toml"),
        "seed": 3,
        "data": {"files": [{"path": folder / "samples.jsonl"}]},
        "rates": {"merger": 1e-3, "language": 1e-3, "warm_up_share": 0.25},
        "batch": {"samples_per_step": 4, "tokens_per_row": 256, "steps": 3},
        "machine": {"device": "cpu", "bfloat16": False, "weights": "float32", "recomputes": False},
        "saving": {"state_every_steps": 2, "validate_every_steps": 2},
    }
    return TuneConfig.model_validate(content | changes)
