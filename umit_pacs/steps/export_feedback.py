"""export_feedback: what radiologists confirmed or corrected, as samples that `python -m training` reads.

A sample states what the feedback says to be true and nothing else: a report in the template's own sentences, and for
each finding that was accepted with its boxes, or rejected, the question where it is. Words of a person's report are
never part of it. Pixels are one grey image, or one volume of the bytes that the model was shown, at the source's size.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umit_pacs.errors import StudyUnusable
from umit_pacs.finding_phrases import Stated
from umit_pacs.handoffs import (
    Findings,
    FrameReference,
    InputSet,
    PreparedVolume,
    Region,
    RegionKind,
    RoutingDecision,
    Task,
    TaskResult,
)
from umit_pacs.pixels.coordinates import box_in_volume
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.series import SLICED_MODALITIES, open_series, prepare_volume, require_within_budget
from umit_pacs.settings import ModelSettings
from umit_pacs.store import results
from umit_pacs.store.database import Catalogue
from umit_pacs.store.feedback import Feedback, all_feedback
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.studies import input_set
from umit_pacs.umit_model.coordinate_frames import Box
from umit_pacs.umit_model.samples import Sample, SampleTruth, complete, write_samples
from umit_pacs.verdicts import FindingFeedback, FindingVerdict
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary

#: the coordinate frame that boxes are written in.
_FRAME = "norm1000"
DATA_SET = "feedback"
_NUMBER = r"-?\d[\d.]*(?:e[+-]?\d+)?"

#: of one finding, in continuous pixels or voxels of what is written.
Boxes = tuple[Box, ...]


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
    #: what the answers were given about: one frame, or the slices of one stack in its order.
    frames: tuple[FrameReference, ...]
    #: how the slices of a stack were shown, as the answers say.
    grey_recipe: str
    #: the stored files of the frames' series.
    paths: tuple[Path, ...]
    #: DICOM Modality of the frames.
    modality: str

    @property
    def is_volume(self) -> bool:
        return len(self.frames) > 1

    @property
    def detection(self) -> Task:
        return Task.DETECTION_3D if self.is_volume else Task.DETECTION

    @property
    def extent(self) -> tuple[int, ...]:
        """(width, height[, depth]) of the pixels."""
        first = self.frames[0]
        return (first.columns, first.rows, *([len(self.frames)] if self.is_volume else []))

    @property
    def pixels(self) -> str:
        """Path of the pixels beside the file."""
        name = self.version.input_set_id
        return f"volumes/{name}.npy" if self.is_volume else f"images/{name}.png"


def export_feedback(catalogue: Catalogue, files: PayloadFiles, templates: TemplateLibrary, folder: Path) -> Exported:
    """Write `samples.jsonl` and its pictures and volumes into `folder`."""
    for name in ("images", "volumes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    left_out: Counter[str] = Counter()
    samples: list[Sample] = []
    newest = {given.input_set_id: given for given in all_feedback(catalogue) if given.verdict is not None}
    with DecodingProcess(ModelSettings()) as decoder:
        for given in newest.values():
            try:
                material = _material(catalogue, files, given, templates)
                of_material = _volume_samples if material.is_volume else _image_samples
                written = of_material(material, decoder, folder)
            except _LeftOut as exc:
                left_out[str(exc)] += 1
            except (StudyUnusable, FileNotFoundError):
                left_out["pixels_not_readable"] += 1
            else:
                samples += written
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
    keys = {result.order.template for result in found.results if result.order.template}
    if len(keys) != 1:
        raise _LeftOut("not_one_template")
    version = input_set(catalogue, given.input_set_id)
    frames, grey_recipe = _shown(found)
    of_series = [one for one in version.instances if one.series_instance_uid == frames[0].series_instance_uid]
    used = {frame.sop_instance_uid for frame in frames}
    paths = tuple(files.path(one.relative_path) for one in of_series if len(frames) > 1 or one.sop_instance_uid in used)
    modality = str(read_header(paths[0]).get("Modality") or "")
    if len(frames) > 1 and modality not in SLICED_MODALITIES:
        raise _LeftOut("not_one_image")
    return _Material(
        given=given,
        version=version,
        decision=decision,
        findings=found,
        template=templates.by_key(keys.pop()),
        frames=frames,
        grey_recipe=grey_recipe,
        paths=paths,
        modality=modality,
    )


def _shown(found: Findings) -> tuple[tuple[FrameReference, ...], str]:
    """The one stack that answers were given about, else the one frame; and how it was shown. Raises _LeftOut.

    Of a study whose stack was asked about, single slices that were asked about too make no samples.
    """
    shown = {result.frames: result.grey_recipe for result in found.results if result.frames}
    stacks = [frames for frames in shown if len(frames) > 1]
    if len(stacks) > 1:
        raise _LeftOut("not_one_volume")
    singles = list(shown)
    if not stacks and len(singles) != 1:
        raise _LeftOut("not_one_image")
    frames = (stacks or singles)[0]
    return frames, shown[frames]


# --- pixels ------------------------------------------------------------------------------------------------------


def _image_samples(material: _Material, decoder: DecodingProcess, folder: Path) -> list[Sample]:
    Image.fromarray(_image(material, decoder)).save(folder / material.pixels)
    return list(_samples(material, _boxes_in_image))


def _volume_samples(material: _Material, decoder: DecodingProcess, folder: Path) -> list[Sample]:
    volume = _volume(material, decoder)
    np.save(folder / material.pixels, volume.voxels, allow_pickle=False)
    return list(_samples(material, lambda results: _boxes_in_volume(results, volume)))


def _volume(material: _Material, decoder: DecodingProcess) -> PreparedVolume:
    """The stack at its own size, in the grey that the model was shown. Raises StudyUnusable or _LeftOut."""
    series = open_series(material.paths)
    require_within_budget(series, ModelSettings())
    first = material.frames[0]
    wanted = ImageRequirements(
        kind=ImageKind.VOLUME,
        width=first.columns,
        height=first.rows,
        slices=len(material.frames),
        keep_aspect=False,
        grey=_recipe(material.grey_recipe),
    )
    if len(series.geometry.frames) != len(material.frames):
        raise _LeftOut("other_slices")
    volume = prepare_volume(series, wanted, decoder)
    if volume.sources != material.frames:
        raise _LeftOut("other_slices")
    return volume


def _recipe(words: str) -> GreyRecipe:
    """The recipe that `umit_pacs.pixels.grey` describes so; the header's for anything else."""
    described = words.partition(";")[0].strip()
    if found := re.fullmatch(rf"window ({_NUMBER})/({_NUMBER})", described):
        return GreyRecipe(kind=GreyKind.WINDOW, window_center=float(found[1]), window_width=float(found[2]))
    if found := re.fullmatch(rf"percentiles ({_NUMBER})-({_NUMBER})", described):
        return GreyRecipe(kind=GreyKind.PERCENTILES, percentile_low=float(found[1]), percentile_high=float(found[2]))
    if found := re.fullmatch(rf"SUV 0-({_NUMBER})", described):
        return GreyRecipe(kind=GreyKind.SUV, suv_maximum=float(found[1]))
    return GreyRecipe(kind=GreyKind.HEADER)


def _image(material: _Material, decoder: DecodingProcess) -> NDArray[np.uint8]:
    """(H, W) display grey of the whole frame, as its header says."""
    (frame,) = material.frames
    wanted = ImageRequirements(
        kind=ImageKind.IMAGE,
        width=frame.columns,
        height=frame.rows,
        keep_aspect=False,
        grey=GreyRecipe(kind=GreyKind.HEADER),
    )
    one = FrameToDecode(path=material.paths[0], frame_index=(frame.frame_number or 1) - 1)
    return decoder.render([one], wanted, is_one_stack=False).pixels[0]


# --- samples -----------------------------------------------------------------------------------------------------


def _samples(material: _Material, boxes_of: Callable[[Sequence[TaskResult]], Boxes]) -> Iterator[Sample]:
    truth = {item.finding: stated for item in material.given.findings if (stated := _true(item)) is not None}
    known = {key: stated for key, stated in truth.items() if key in material.template.findings}
    if known:
        yield complete(_sample(material, Task.REPORT, answer=_report(known, material), truth=_truth(known)))
    for item in material.given.findings:
        if item.finding in material.template.findings and ((boxes := _boxes(item, material, boxes_of)) is not None):
            truth_of_boxes = SampleTruth(boxes={item.finding: boxes})
            yield complete(
                _sample(material, material.detection, target=item.finding, frame=_FRAME, truth=truth_of_boxes)
            )


def _sample(material: _Material, task: Task, **more: object) -> Sample:
    target = str(more.get("target", ""))
    return Sample(
        id=f"{material.version.input_set_id}-{task}{'-' + target if target else ''}",
        study=material.version.input_set_id,
        group=material.version.input_set_id,
        data_set=DATA_SET,
        images=() if material.is_volume else (material.pixels,),
        volume=(material.pixels,) if material.is_volume else (),
        is_display_grey=material.is_volume,
        modality=material.modality,
        template=material.template.key,
        task=task,
        language=material.decision.language,
        extent=material.extent,
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
    item: FindingFeedback, material: _Material, boxes_of: Callable[[Sequence[TaskResult]], Boxes]
) -> Boxes | None:
    """The boxes that were accepted, () for what is not there; None where nobody knows where it is."""
    truth = _true(item)
    if truth is not None and truth.presence == "absent":
        return ()
    if item.verdict is not FindingVerdict.ACCEPTED:
        return None
    found = [
        result
        for result in material.findings.results
        if result.order.task is material.detection and result.order.target == item.finding
    ]
    return boxes_of(found) or None


def _boxes_in_image(results: Sequence[TaskResult]) -> Boxes:
    boxes = (region.points_xy_px for result in results for region in result.regions)
    return tuple((box[0], box[1]) for box in boxes if len(box) == 2)


def _boxes_in_volume(results: Sequence[TaskResult], volume: PreparedVolume) -> Boxes:
    """In continuous voxels (x, y, z) of the volume; by millimetres, or the slices that a box spans."""
    return tuple(
        _box_in_volume(region, volume)
        for result in results
        for region in result.regions
        if region.kind is RegionKind.BOX_3D and len(region.points_xy_px) == 2
    )


def _box_in_volume(region: Region, volume: PreparedVolume) -> Box:
    if region.corners_mm:
        return box_in_volume(volume, region.corners_mm)
    (x0, y0), (x1, y1) = region.points_xy_px
    slices = [volume.sources.index(frame) for frame in region.frames]
    return (x0, y0, float(min(slices))), (x1, y1, float(max(slices) + 1))
