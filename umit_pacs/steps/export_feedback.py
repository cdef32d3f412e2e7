"""export_feedback: what radiologists confirmed or corrected, as samples that `python -m training` reads.

A sample states what the feedback says to be true and nothing else: a report in the template's own sentences, and for
each finding that was accepted with its boxes, or rejected, the question where it is. Words of a person's report are
never part of it. Pictures are single grey images; a volume is left out, as its truth would be that of every slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umit_pacs.errors import StudyUnusable
from umit_pacs.finding_phrases import Stated
from umit_pacs.handoffs import Findings, FrameReference, InputSet, RoutingDecision, Task, TaskResult
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.settings import ModelSettings
from umit_pacs.store import results
from umit_pacs.store.database import Catalogue
from umit_pacs.store.feedback import Feedback, all_feedback
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.studies import input_set
from umit_pacs.umit_model.samples import Sample, SampleTruth, complete, write_samples
from umit_pacs.verdicts import FindingFeedback, FindingVerdict
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary

#: the coordinate frame that boxes are written in.
_FRAME = "norm1000"
DATA_SET = "feedback"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written, and why the rest was not."""

    samples: int
    studies: int
    left_out: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Material:
    """One feedback with the draft that it is about."""

    given: Feedback
    version: InputSet
    decision: RoutingDecision
    findings: Findings
    template: SRTemplate
    frame: FrameReference
    #: the stored file that the frame is in.
    path: Path
    #: DICOM Modality of the frame.
    modality: str
    #: path of the picture beside the file.
    picture: str


def export_feedback(catalogue: Catalogue, files: PayloadFiles, templates: TemplateLibrary, folder: Path) -> Exported:
    """Write `samples.jsonl` and its pictures into `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    left_out: Counter[str] = Counter()
    samples: list[Sample] = []
    newest = {given.input_set_id: given for given in all_feedback(catalogue) if given.verdict is not None}
    with DecodingProcess(ModelSettings()) as decoder:
        for given in newest.values():
            try:
                material = _material(catalogue, files, given, templates)
                pixels = _pixels(material, decoder)
            except _LeftOut as exc:
                left_out[str(exc)] += 1
            except (StudyUnusable, FileNotFoundError):
                left_out["pixels_not_readable"] += 1
            else:
                Image.fromarray(pixels).save(folder / material.picture)
                samples += _samples(material)
    write_samples(folder / "samples.jsonl", samples)
    return Exported(samples=len(samples), studies=len({item.study for item in samples}), left_out=dict(left_out))


class _LeftOut(Exception):
    """Why a draft makes no sample."""


def _material(catalogue: Catalogue, files: PayloadFiles, given: Feedback, templates: TemplateLibrary) -> _Material:
    assert given.input_set_id is not None, "a verdict is about a version"
    found = results.findings(catalogue, given.input_set_id)
    decision = results.decision(catalogue, given.input_set_id)
    assert found is not None, "a version that feedback is about has findings"
    assert decision is not None, "what has findings has a decision"
    frames = {frame for result in found.results for frame in result.frames}
    keys = {result.order.template for result in found.results if result.order.template}
    if len(frames) != 1:
        raise _LeftOut("not_one_image")
    if len(keys) != 1:
        raise _LeftOut("not_one_template")
    version, frame = input_set(catalogue, given.input_set_id), frames.pop()
    path = next(
        files.path(one.relative_path) for one in version.instances if one.sop_instance_uid == frame.sop_instance_uid
    )
    return _Material(
        given=given,
        version=version,
        decision=decision,
        findings=found,
        template=templates.by_key(keys.pop()),
        frame=frame,
        path=path,
        modality=str(read_header(path).get("Modality") or ""),
        picture=f"images/{given.input_set_id}.png",
    )


def _pixels(material: _Material, decoder: DecodingProcess) -> NDArray[np.uint8]:
    """(H, W) display grey of the whole frame, as its header says."""
    frame = material.frame
    wanted = ImageRequirements(
        kind=ImageKind.IMAGE,
        width=frame.columns,
        height=frame.rows,
        keep_aspect=False,
        grey=GreyRecipe(kind=GreyKind.HEADER),
    )
    one = FrameToDecode(path=material.path, frame_index=(frame.frame_number or 1) - 1)
    return decoder.render([one], wanted, is_one_stack=False).pixels[0]


# --- samples -----------------------------------------------------------------------------------------------------


def _samples(material: _Material) -> Iterator[Sample]:
    truth = {item.finding: stated for item in material.given.findings if (stated := _true(item)) is not None}
    known = {key: stated for key, stated in truth.items() if key in material.template.findings}
    if known:
        yield complete(_sample(material, Task.REPORT, answer=_report(known, material), truth=_truth(known)))
    for item in material.given.findings:
        if item.finding in material.template.findings and (boxes := _boxes(item, material)) is not None:
            truth_of_boxes = SampleTruth(boxes={item.finding: boxes})
            yield complete(_sample(material, Task.DETECTION, target=item.finding, frame=_FRAME, truth=truth_of_boxes))


def _sample(material: _Material, task: Task, **more: object) -> Sample:
    target = str(more.get("target", ""))
    return Sample(
        id=f"{material.version.input_set_id}-{task}{'-' + target if target else ''}",
        study=material.version.input_set_id,
        group=material.version.input_set_id,
        data_set=DATA_SET,
        images=(material.picture,),
        modality=material.modality,
        template=material.template.key,
        task=task,
        language=material.decision.language,
        extent=(material.frame.columns, material.frame.rows),
        **more,  # type: ignore[arg-type]
    )


def _true(item: FindingFeedback) -> Stated | None:
    """What the feedback says to be true of a finding; None where it leaves that open."""
    if item.final is not None:
        return item.final
    if item.verdict is FindingVerdict.ACCEPTED:
        return item.drafted
    return Stated(presence="absent") if item.verdict is FindingVerdict.REJECTED else None


def _truth(known: dict[str, Stated]) -> SampleTruth:
    return SampleTruth(
        findings={key: stated.presence for key, stated in known.items()},
        sides={key: stated.side for key, stated in known.items() if stated.is_positive and stated.side != "none"},
    )


def _report(known: dict[str, Stated], material: _Material) -> str:
    """The truth in the template's sentences, in the template's order."""
    sentences = [
        material.template.sentence(key, known[key].presence, known[key].side, material.decision.language)
        for key in material.template.findings
        if key in known
    ]
    return " ".join(sentences)


def _boxes(
    item: FindingFeedback, material: _Material
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] | None:
    """The boxes that were accepted, () for what is not there; None where nobody knows where it is."""
    truth = _true(item)
    if truth is not None and truth.presence == "absent":
        return ()
    if item.verdict is not FindingVerdict.ACCEPTED:
        return None
    found: list[TaskResult] = [
        result
        for result in material.findings.results
        if result.order.task is Task.DETECTION and result.order.target == item.finding
    ]
    boxes = tuple(region.points_xy_px for result in found for region in result.regions)
    return tuple((box[0], box[1]) for box in boxes if len(box) == 2) or None
