"""Step 6: findings become DICOM objects that say what they are, checked before they may leave."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from umit_pacs.errors import NoUsableFrames, StudyUnusable, UndecodablePixels
from umit_pacs.faults import Guarding
from umit_pacs.handoffs import (
    Composed,
    Findings,
    FrameReference,
    InputSet,
    InstanceUID,
    ObjectKind,
    ResultObject,
    RoutingDecision,
    SeriesUID,
    StoppedObject,
    StoredInstance,
)
from umit_pacs.lesion_masks import RegionMasks
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.region_masks import masks_of_regions
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.reporting_systems.reports import REPORTS, keep_report
from umit_pacs.result_objects.check import check_object
from umit_pacs.result_objects.comparison import told_of
from umit_pacs.result_objects.composers import COMPOSERS
from umit_pacs.result_objects.composition import Composition
from umit_pacs.result_objects.draft import Draft
from umit_pacs.result_objects.encode import encode, result_object
from umit_pacs.result_objects.pages import Page
from umit_pacs.result_objects.profiles import kinds_to_compose
from umit_pacs.result_objects.provenance import Provenance
from umit_pacs.result_objects.sources import SourceStudy, describe_series, header_text
from umit_pacs.result_objects.uids import UIDs
from umit_pacs.result_objects.write_draft import write_draft
from umit_pacs.settings import ComposeSettings, ModelSettings
from umit_pacs.store.files import PayloadFiles
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary, load_templates

logger = logging.getLogger(__name__)

#: What stops one object: its check, or a value that no object may hold.
_UNFIT = (StudyUnusable, ValueError, TypeError, AttributeError)
_WINDOW = re.compile(r"window (-?[\d.]+)/([\d.]+)")
_PERCENTILES = re.compile(r"percentiles ([\d.]+)-([\d.]+)")


def compose(
    input_set: InputSet,
    decision: RoutingDecision,
    findings: Findings,
    predecessor: tuple[ResultObject, ...],
    files: PayloadFiles,
    settings: ComposeSettings,
    model_settings: ModelSettings | None = None,
    guarding: Guarding | None = None,
) -> Composed:
    """Write the objects that the decision's destinations get durably; the same arguments give the same bytes.

    predecessor: results of the input set that this one supersedes. model_settings: bounds for decoding key images.
    guarding: what the guard found in the answers, and the earlier study that it was given; what it leaves out is in no
    object.
    An object that fails its check is stopped with its reason, and the others go on. Raises InvalidConfiguration for an
    unknown profile or a missing font.
    """
    kinds = kinds_to_compose(decision, settings.profiles)
    run = _Run.of(input_set, decision, findings, predecessor, files, settings, model_settings, guarding)
    with DecodingProcess(model_settings or ModelSettings()) as decoder:
        work = run.composition(decoder)
        outcomes = [outcome for kind in kinds for outcome in _compose_kind(kind, work, run)]
    return Composed(
        objects=tuple(outcome for outcome in outcomes if isinstance(outcome, ResultObject)),
        stopped=tuple(outcome for outcome in outcomes if isinstance(outcome, StoppedObject)),
    )


def draft_of(
    input_set: InputSet,
    decision: RoutingDecision,
    findings: Findings,
    files: PayloadFiles,
    settings: ComposeSettings,
    predecessor: tuple[ResultObject, ...] = (),
) -> Draft:
    """The draft that the objects tell, without writing any."""
    return _Run.of(input_set, decision, findings, predecessor, files, settings).draft


def pages_of(
    input_set: InputSet,
    decision: RoutingDecision,
    findings: Findings,
    files: PayloadFiles,
    settings: ComposeSettings,
    model_settings: ModelSettings | None = None,
) -> tuple[Page, ...]:
    """The pages of the secondary capture as pictures, without writing any object."""
    run = _Run.of(input_set, decision, findings, (), files, settings, model_settings)
    with DecodingProcess(model_settings or ModelSettings()) as decoder:
        return run.composition(decoder).pages()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One input set on its way to objects."""

    input_set: InputSet
    findings: Findings
    files: PayloadFiles
    settings: ComposeSettings
    templates: TemplateLibrary
    draft: Draft
    made: Provenance
    masks: RegionMasks
    instances: dict[InstanceUID, StoredInstance] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        input_set: InputSet,
        decision: RoutingDecision,
        findings: Findings,
        predecessor: tuple[ResultObject, ...],
        files: PayloadFiles,
        settings: ComposeSettings,
        model_settings: ModelSettings | None = None,
        guarding: Guarding | None = None,
    ) -> _Run:
        templates = load_templates(settings.templates_folder)
        source = _source_study(input_set, findings, files)
        is_segmented = ObjectKind.SEGMENTATION in kinds_to_compose(decision, settings.profiles)
        masks = _masks(input_set, findings, files, model_settings) if is_segmented else {}
        draft = write_draft(
            decision, findings, source, templates, supersedes=bool(predecessor), guarding=guarding, masks=masks
        )
        made = Provenance(
            source=source,
            model=findings.model,
            uids=UIDs.of(
                settings.uid_root, decision, findings, draft.templates, told_of(guarding.prior if guarding else None)
            ),
            words=templates.in_language(decision.language),
            institution_name=settings.institution_name,
            device_serial_number=settings.device_serial_number,
            predecessor=predecessor,
            templates=draft.templates,
        )
        return cls(
            input_set=input_set,
            findings=findings,
            files=files,
            settings=settings,
            templates=templates,
            draft=draft,
            made=made,
            masks=masks,
            instances={instance.sop_instance_uid: instance for instance in input_set.instances},
        )

    def composition(self, decoder: DecodingProcess) -> Composition:
        """What composers see of the run; they have `decoder` draw the frames."""

        def frame_source(frame: FrameReference, width: int, height: int) -> NDArray[np.uint8]:
            return _render_frame(frame, width, height, decoder, self)

        def values_of(frame: FrameReference) -> NDArray[np.float32]:
            return decoder.values([self.to_decode(frame)], (0, frame.rows, 0, frame.columns))[0]

        return Composition(
            draft=self.draft,
            made=self.made,
            settings=self.settings,
            frame_source=frame_source,
            header_of=self.header_of,
            window_of=self.window_of,
            values_of=values_of,
            masks=self.masks,
        )

    def header_of(self, frame: FrameReference) -> Dataset:
        """Raises NoUsableFrames when the frame is not of this input set, StudyUnusable when it cannot be read."""
        return read_header(self.to_decode(frame).path)

    def to_decode(self, frame: FrameReference) -> FrameToDecode:
        """Where the frame lies. Raises NoUsableFrames when it is not of this input set."""
        instance = self.instances.get(frame.sop_instance_uid)
        if instance is None:
            raise NoUsableFrames("the frame is not of this input set")
        return FrameToDecode(path=self.files.path(instance.relative_path), frame_index=(frame.frame_number or 1) - 1)

    def window_of(self, frame: FrameReference) -> tuple[float, float] | None:
        """The window that the model saw a CT frame through: its values are those that a viewer has as well."""
        if self.made.source.series_of(frame.series_instance_uid).modality != "CT":
            return None
        recipes = (result.grey_recipe for result in self.findings.results if frame in result.frames)
        window = _WINDOW.fullmatch(next(recipes, "").split(";")[0])
        return (float(window[1]), float(window[2])) if window else None


def _compose_kind(kind: ObjectKind, work: Composition, run: _Run) -> Iterator[ResultObject | StoppedObject]:
    """The objects of one kind: kept when they pass their check, else stopped."""
    if kind in REPORTS:
        yield _compose_report(kind, work, run)
        return
    try:
        composed = COMPOSERS[kind](work)
    except _UNFIT as exc:
        yield _stopped(kind, 0, exc, run)
        return
    for number, ds in enumerate(composed, 1):
        path = _path_of(ds, kind, number, run)
        try:
            content = _content_of(ds, run.files.path(path))
            _check(content, run)
        except _UNFIT as exc:
            yield _stopped(kind, number, exc, run)
        else:
            yield _kept(ds, kind, path, content, run)


def _compose_report(kind: ObjectKind, work: Composition, run: _Run) -> ResultObject | StoppedObject:
    """The draft for reporting systems; what writes it checks it."""
    uid = work.made.uids.instance(kind, 1)

    def write() -> bytes:
        return REPORTS[kind].write(work.draft, work.made, uid)

    try:
        return keep_report(kind, uid, work.made, write, input_set_id=run.input_set.input_set_id, files=run.files)
    except _UNFIT as exc:
        return _stopped(kind, 1, exc, run)


def _content_of(ds: Dataset, path: Path) -> bytes:
    """The object's file. One that an earlier attempt wrote stays: perhaps it was sent already."""
    return path.read_bytes() if path.exists() else encode(ds)


def _check(content: bytes, run: _Run) -> None:
    sources = {*run.instances, *(result.sop_instance_uid for result in run.made.predecessor)}
    sources |= {frame.sop_instance_uid for frame in run.draft.earlier.frames} if run.draft.earlier else set()
    check_object(
        content, study_instance_uid=run.input_set.study_instance_uid, source_instances=[str(uid) for uid in sources]
    )


def _stopped(kind: ObjectKind, number: int, exc: Exception, run: _Run) -> StoppedObject:
    # What foreign code says of a value may hold the value itself, which may be the patient's.
    detail = exc.detail if isinstance(exc, StudyUnusable) else f"it cannot be composed ({type(exc).__name__})"
    fields = {"input_set_id": run.input_set.input_set_id, "kind": kind.value, "number": number, "detail": detail}
    logger.error("result_stopped", extra=fields)
    return StoppedObject(kind=kind, number=number, detail=detail)


def _kept(ds: Dataset, kind: ObjectKind, relative_path: str, content: bytes, run: _Run) -> ResultObject:
    sha256, size_bytes = run.files.write_durably(relative_path, [content])
    return result_object(ds, kind, relative_path=relative_path, sha256=sha256, size_bytes=size_bytes)


def _path_of(ds: Dataset, kind: ObjectKind, number: int, run: _Run) -> str:
    """The place of an object; one of its own when the same images gave another object there, by other rules say."""
    path = f"results/{run.input_set.input_set_id}/{kind}-{number}.dcm"
    existing = run.files.path(path)
    if not existing.exists() or read_header(existing).get("SOPInstanceUID") == ds.SOPInstanceUID:
        return path
    mark = hashlib.sha256(str(ds.SOPInstanceUID).encode("ascii")).hexdigest()[:12]
    return f"results/{run.input_set.input_set_id}/{kind}-{number}.{mark}.dcm"


def _source_study(input_set: InputSet, findings: Findings, files: PayloadFiles) -> SourceStudy:
    """Headers of one instance of each series, and of the instances that the draft may name."""
    analysed = [frame.sop_instance_uid for result in findings.results for frame in result.frames]
    used = set(analysed) | {
        frame.sop_instance_uid for result in findings.results for region in result.regions for frame in region.frames
    }
    headers: dict[InstanceUID, Dataset] = {}
    series_read: set[SeriesUID] = set()
    # Instances that the model saw come first, so that their headers describe their series.
    for instance in sorted(input_set.instances, key=lambda one: one.sop_instance_uid not in used):
        if instance.sop_instance_uid in used or instance.series_instance_uid not in series_read:
            try:
                headers[instance.sop_instance_uid] = read_header(files.path(instance.relative_path))
            except StudyUnusable:
                continue
            series_read.add(instance.series_instance_uid)
    if not headers:
        raise NoUsableFrames("no header of the study can be read")
    by_series = {SeriesUID(header_text(header, "SeriesInstanceUID")): header for header in reversed(headers.values())}
    return SourceStudy(
        study_instance_uid=input_set.study_instance_uid,
        header=next((headers[uid] for uid in analysed if uid in headers), next(iter(headers.values()))),
        series={uid: describe_series(uid, header) for uid, header in by_series.items()},
        image_numbers={uid: header_text(header, "InstanceNumber") for uid, header in headers.items()},
        image_count=len(input_set.instances),
        composed_at=max(instance.received_at for instance in input_set.instances),
    )


def _masks(
    input_set: InputSet, findings: Findings, files: PayloadFiles, model_settings: ModelSettings | None
) -> RegionMasks:
    """What the boxes of the findings hold, in the source's voxels."""
    paths: dict[SeriesUID, list[Path]] = {}
    for instance in input_set.instances:
        paths.setdefault(instance.series_instance_uid, []).append(files.path(instance.relative_path))
    regions = [region for result in findings.results for region in result.regions]
    with DecodingProcess(model_settings or ModelSettings()) as decoder:
        return masks_of_regions(regions, paths, decoder)


def _render_frame(
    frame: FrameReference, width: int, height: int, decoder: DecodingProcess, run: _Run
) -> NDArray[np.uint8]:
    """The frame in the grey that the model saw where that is known, else in the first grey that works."""
    wanted = run.to_decode(frame)
    failure: UndecodablePixels | None = None
    for grey in _grey_recipes(frame, run):
        requirements = ImageRequirements(kind=ImageKind.IMAGE, width=width, height=height, keep_aspect=False, grey=grey)
        try:
            return decoder.render([wanted], requirements, is_one_stack=False).pixels[0]
        except UndecodablePixels as exc:
            failure = exc
    raise failure or UndecodablePixels()


def _grey_recipes(frame: FrameReference, run: _Run) -> Iterator[GreyRecipe]:
    for result in run.findings.results:
        if frame in result.frames:
            # What was done to the geometry may follow after a semicolon.
            recipe = result.grey_recipe.split(";")[0]
            if window := _WINDOW.fullmatch(recipe):
                yield _window_recipe(float(window[1]), float(window[2]))
            elif shares := _PERCENTILES.fullmatch(recipe):
                low, high = float(shares[1]), float(shares[2])
                yield GreyRecipe(kind=GreyKind.PERCENTILES, percentile_low=low, percentile_high=high)
            break
    template = _template_of(frame, run)
    if template.display_window is not None:
        yield _window_recipe(*template.display_window)
    yield GreyRecipe(kind=GreyKind.HEADER)


def _window_recipe(center: float, width: float) -> GreyRecipe:
    return GreyRecipe(kind=GreyKind.WINDOW, window_center=center, window_width=width)


def _template_of(frame: FrameReference, run: _Run) -> SRTemplate:
    for result in run.findings.results:
        if result.order.series_instance_uid == frame.series_instance_uid:
            if known := [one for one in run.templates.templates if one.key == result.order.template]:
                return known[0]
    series = run.made.source.series_of(frame.series_instance_uid)
    return run.templates.for_series(series.modality, series.body_part)
