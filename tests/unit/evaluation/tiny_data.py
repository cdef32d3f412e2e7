"""Samples about noise whose answers by the tiny checkpoint are known, since it knows them by heart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny_checkpoint import IMAGE_PX, SLICES, VQA_OPTIONS, VQA_QUESTION
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, SampleTruth, complete, write_samples
from umit_pacs.vocabulary import load_templates

#: stored pixels are twice the prepared ones
EDGE_PX = 2 * IMAGE_PX
SPACING_MM = (0.5, 0.5)
#: what the checkpoint says of every image: (219, 304), (475, 683) and (531, 268) in thousandths, in stored pixels
SAID_BOX = ((0.219 * EDGE_PX, 0.304 * EDGE_PX), (0.475 * EDGE_PX, 0.683 * EDGE_PX))
SAID_POINT = (0.531 * EDGE_PX, 0.268 * EDGE_PX)
#: and of every volume: voxels 14..37, 25..48, 0..1 of the prepared size, in stored voxels
SAID_BOX_3D = ((28.0, 50.0, 0.0), (76.0, 98.0, 4.0))
#: option 1 of every closed question: abnormal, no
SAID_OPTION = 1


def radiograph_samples(study: str, truth: SampleTruth, *, right_option: int = SAID_OPTION) -> Iterator[Sample]:
    """Every task about one radiograph in both languages; the reference report is the checkpoint's own."""
    template = load_templates().by_key("chest_radiograph")
    blank = {
        "study": study,
        "images": (f"{study}.png",),
        "modality": "DX",
        "template": template.key,
        "split": "test",
        "extent": (EDGE_PX, EDGE_PX),
        "spacing_mm": SPACING_MM,
    }
    closed = replace(truth, right_option=right_option)
    for language in Language:

        def sample(task: Task, *, language: Language = language, **fields: object) -> Sample:
            name = "-".join([study, task.value, language.value, str(fields.get("target", ""))])
            return complete(Sample(**(blank | {"id": name, "task": task, "language": language} | fields)))

        said = [template.sentence("nodule", "present", "left", language)]
        said += [template.sentence("pleural_effusion", "absent", "none", language)]
        yield sample(Task.REPORT, truth=truth, answer=" ".join(said))
        yield sample(Task.CLASSIFICATION, truth=closed, options=tuple(template.classification.classes))
        yield sample(Task.VQA, truth=closed, question=VQA_QUESTION[language], options=VQA_OPTIONS[language])
        for finding in truth.boxes:
            yield sample(Task.DETECTION, truth=truth, target=finding, frame="norm1000")
        for landmark in truth.landmarks:
            yield sample(Task.LANDMARK, truth=truth, target=landmark, frame="norm1000")


def ct_samples(study: str, box: tuple[tuple[float, ...], tuple[float, ...]]) -> Iterator[Sample]:
    """Boxes of nodules in a stack of noise."""
    for language in Language:
        yield complete(
            Sample(
                id=f"{study}-{language}",
                study=study,
                volume=(f"{study}.npy",),
                modality="CT",
                template="chest_ct",
                split="test",
                task=Task.DETECTION_3D,
                language=language,
                target="nodule",
                frame=f"voxel:{SLICES}x{IMAGE_PX}x{IMAGE_PX}",
                extent=(EDGE_PX, EDGE_PX, 2 * SLICES),
                truth=SampleTruth(boxes={"nodule": (box,)}),
            )
        )


def write_tiny_data(folder: Path) -> Path:
    """Two radiographs and a CT; of the first radiograph everything is answered rightly, of the second hardly anything.

    Returns the JSONL file.
    """
    right = SampleTruth(
        findings={"nodule": "present", "pleural_effusion": "absent"},
        sides={"nodule": "left"},
        boxes={"nodule": (SAID_BOX,), "pleural_effusion": ()},
        landmarks={"carina": SAID_POINT},
    )
    wrong = SampleTruth(
        findings={"nodule": "present", "pleural_effusion": "present"},
        sides={"nodule": "right", "pleural_effusion": "right"},
        boxes={"nodule": (((100.0, 10.0), (110.0, 20.0)),), "pleural_effusion": (((60.0, 80.0), (90.0, 110.0)),)},
        landmarks={"carina": (SAID_POINT[0] + 12.0, SAID_POINT[1]), "left_apex": None},
    )
    samples = [*radiograph_samples("a", right), *radiograph_samples("b", wrong, right_option=0)]
    samples += ct_samples("c", SAID_BOX_3D)
    rng = np.random.default_rng(5)
    for study in "ab":
        Image.fromarray(rng.integers(0, 256, (EDGE_PX, EDGE_PX), dtype=np.uint8)).save(folder / f"{study}.png")
    np.save(folder / "c.npy", rng.integers(-1000, 400, (2 * SLICES, EDGE_PX, EDGE_PX)).astype(np.int16))
    write_samples(folder / "test.jsonl", samples)
    return folder / "test.jsonl"
