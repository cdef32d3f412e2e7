"""What `bench infer` asks: everything that the checkpoint knows, about one radiograph and one CT."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from umit_pacs.cli.sample_studies import write_chest_ct, write_radiograph
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import (
    FrameReference,
    InstanceUID,
    Language,
    PreparedImage,
    PreparedSeries,
    PreparedVolume,
    SeriesUID,
    Task,
    TaskOrder,
)
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.requirements import ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_images, prepare_volume
from umit_pacs.settings import Settings
from umit_pacs.umit_model.checkpoint import Manifest
from umit_pacs.vocabulary import SRTemplate

QUESTIONS = {
    Language.ENGLISH: (
        ("Is there a nodule or mass?", "Is there a pleural effusion?", "Is there a consolidation?"),
        ("yes", "no"),
    ),
    Language.CHINESE: (("有结节或肿块吗?", "有胸腔积液吗?", "有实变吗?"), ("有", "没有")),
}
SERIES = SeriesUID("1")


def task_set(template: SRTemplate, modality: str, language: Language, manifest: Manifest) -> list[TaskOrder]:
    """Report, classification, three closed questions, every finding and every landmark, as far as trained for."""

    def order(task: Task, *, target: str = "", question: str = "", options: tuple[str, ...] = ()) -> TaskOrder:
        return TaskOrder(
            task=task,
            language=language,
            series_instance_uid=SERIES,
            target=target,
            question=question,
            options=options,
            template=template.key,
        )

    questions, options = QUESTIONS[language]
    orders = [order(Task.REPORT)]
    orders += [order(Task.CLASSIFICATION)] if template.classification else []
    orders += [order(Task.VQA, question=question, options=options) for question in questions]
    orders += [order(task, target=key) for task in (Task.DETECTION, Task.DETECTION_3D) for key in template.findings]
    orders += [order(Task.LANDMARK, target=key) for key in template.landmarks]
    return [order for order in orders if manifest.profile(order.task, modality) is not None]


def prepared_radiograph(requirements: ImageRequirements, settings: Settings) -> PreparedSeries:
    """The demo's real radiograph, prepared as the checkpoint asks."""
    with tempfile.TemporaryDirectory(prefix="umit-pacs-bench-") as name, DecodingProcess(settings.model) as decoder:
        series = open_series(sorted(write_radiograph(Path(name)).folder.glob("*.dcm")))
        images: tuple[PreparedImage, ...] = prepare_images(series, requirements, decoder)
    return PreparedSeries(series_instance_uid=SERIES, images=images)


def prepared_ct(requirements: ImageRequirements, settings: Settings) -> PreparedSeries:
    """The demo's real CT; a drawn volume where the package that carries it is not installed."""
    try:
        with tempfile.TemporaryDirectory(prefix="umit-pacs-bench-") as name, DecodingProcess(settings.model) as decoder:
            series = open_series(sorted(write_chest_ct(Path(name)).folder.glob("*.dcm")))
            volume = prepare_volume(series, requirements, decoder)
    except InvalidConfiguration:
        volume = _drawn_volume(requirements)
    return PreparedSeries(series_instance_uid=SERIES, volume=volume)


def _drawn_volume(requirements: ImageRequirements) -> PreparedVolume:
    """A bright ball in noise."""
    shape = (requirements.slices or 32, requirements.height, requirements.width)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, count) for count in shape), indexing="ij"))
    values = 160.0 * ((grid**2).sum(axis=0) < 0.5) + np.random.default_rng(0).normal(40, 8, shape)
    source = FrameReference(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=InstanceUID("1.1"),
        series_instance_uid=SERIES,
        frame_number=None,
        rows=shape[1],
        columns=shape[2],
    )
    return PreparedVolume(
        voxels=np.clip(values, 0, 255).astype(np.uint8),
        sources=(source,) * shape[0],
        to_source=np.eye(4),
        source_to_patient_mm=np.eye(4),
        modality="CT",
        grey_recipe="drawn",
    )
