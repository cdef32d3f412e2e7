"""The guard between infer and compose: what is wrong with the answers, and what stands written in the images."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pydicom.dataset import Dataset

from umit_pacs.errors import StudyUnusable, UndecodablePixels, WritingUnread
from umit_pacs.faults import Fault, FaultOutcome, GuardCheck, Guarding
from umit_pacs.handoffs import Findings, FrameReference, InputSet, InstanceUID, RoutingDecision, SeriesUID
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.writing import WrittenLine, read_writing
from umit_pacs.prior_studies import PriorReading
from umit_pacs.result_objects.guard.guard import check_answers, person_of
from umit_pacs.result_objects.guard.image_writing import IDENTITY, judge_writing
from umit_pacs.result_objects.guard.material import Prior
from umit_pacs.result_objects.sources import SourceStudy, describe_series
from umit_pacs.settings import GuardSettings, ModelSettings
from umit_pacs.store.files import PayloadFiles
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary

#: of a series with more, as every volume is, the first and the middle one are searched
_IMAGES_PER_SERIES = 3
_IMAGES_PER_STUDY = 8
#: the longer edge of an image is brought to at most, and at least, so many pixels: letters are then neither too many
#: nor too small
_LONGEST_EDGE_PX, _SHORTEST_EDGE_PX = 1600, 1000


def guard(
    input_set: InputSet,
    decision: RoutingDecision,
    findings: Findings,
    files: PayloadFiles,
    templates: TemplateLibrary,
    settings: GuardSettings,
    model_settings: ModelSettings,
    earlier: PriorReading | None = None,
) -> Guarding:
    """Check the answers and search the images that were shown to the model; nothing is changed here.

    earlier: the earlier study that the model has read; without one nothing may be compared.
    """
    source = _source(input_set, findings, files)
    if source is None:
        return Guarding(faults=())
    priors = () if earlier is None else (Prior(study_date=earlier.study_date, reading=earlier),)
    faults = check_answers(findings, source, templates, decision.language, priors)
    if not settings.read_images:
        return Guarding(faults=faults, why_not_read="reading_switched_off")
    search = _ImageSearch(input_set, source, findings, files, templates, settings, model_settings)
    return search.added_to(faults)


class _ImageSearch:
    """The images of one study, searched for writing within one time limit."""

    def __init__(
        self,
        input_set: InputSet,
        source: SourceStudy,
        findings: Findings,
        files: PayloadFiles,
        templates: TemplateLibrary,
        settings: GuardSettings,
        model_settings: ModelSettings,
    ) -> None:
        self._paths = {one.sop_instance_uid: files.path(one.relative_path) for one in input_set.instances}
        self._source, self._findings, self._templates = source, findings, templates
        self._settings, self._model_settings = settings, model_settings
        self._until = time.monotonic() + settings.read_timeout_s
        self._images_read = 0

    def added_to(self, faults: tuple[Fault, ...]) -> Guarding:
        """`faults` and those of the images; when reading fails, why, and what was found until then."""
        found: list[Fault] = []
        why_not = ""
        try:
            with DecodingProcess(self._model_settings) as decoder:
                for frame, template in _chosen(self._findings, self._source, self._templates):
                    found += self._faults(frame, template, decoder)
        except (WritingUnread, UndecodablePixels) as exc:
            why_not = exc.reason if isinstance(exc, WritingUnread) else "reading_failed"
        ordered = sorted((*found, *faults), key=lambda fault: list(FaultOutcome)[::-1].index(fault.outcome))
        return Guarding(faults=tuple(ordered), images_read=self._images_read, why_not_read=why_not)

    def _faults(self, frame: FrameReference, template: SRTemplate, decoder: DecodingProcess) -> Iterator[Fault]:
        lines, scale = self._lines(frame, decoder)
        self._images_read += 1
        texts, sure_texts = [line.text for line in lines], [line.sure_text for line in lines]
        for reading in judge_writing(texts, sure_texts, person_of(self._source).identity, template):
            is_own = reading.reason == IDENTITY
            yield Fault(
                check=GuardCheck.IMAGE_WRITING,
                reason=reading.reason,
                outcome=(
                    FaultOutcome.REMOVED if is_own and not self._settings.hold_identity else FaultOutcome.WITHHELD
                ),
                sop_instance_uid=frame.sop_instance_uid,
                frame_number=frame.frame_number,
                box_px=_box_around([lines[index] for index in reading.lines], scale),
            )

    def _lines(self, frame: FrameReference, decoder: DecodingProcess) -> tuple[tuple[WrittenLine, ...], float]:
        """The writing, and how many pixels of the picture that was read make one of the source."""
        longer = max(frame.rows, frame.columns)
        scale = min(max(longer, _SHORTEST_EDGE_PX), _LONGEST_EDGE_PX) / longer
        wanted = ImageRequirements(
            kind=ImageKind.IMAGE,
            width=max(round(frame.columns * scale), 1),
            height=max(round(frame.rows * scale), 1),
            keep_aspect=False,
            # Without a window in the header everything is shown: writing is the brightest of all.
            grey=GreyRecipe(kind=GreyKind.HEADER, percentile_low=0.0, percentile_high=100.0),
        )
        source = FrameToDecode(path=self._paths[frame.sop_instance_uid], frame_index=(frame.frame_number or 1) - 1)
        pixels = decoder.render([source], wanted, is_one_stack=False).pixels[0]
        return read_writing(pixels, timeout_s=self._until - time.monotonic()), scale


def _chosen(
    findings: Findings, source: SourceStudy, templates: TemplateLibrary
) -> list[tuple[FrameReference, SRTemplate]]:
    """The frames to search, a few of each series that was shown to the model, with the template of the series."""
    shown: dict[SeriesUID, dict[FrameReference, None]] = {}
    for result in findings.results:
        for frame in result.frames:
            shown.setdefault(frame.series_instance_uid, {})[frame] = None
    chosen = []
    for uid, frames in shown.items():
        series, several = source.series_of(uid), list(frames)
        template = templates.for_series(series.modality, series.body_part)
        if len(several) > _IMAGES_PER_SERIES:
            several = [several[0], several[len(several) // 2]]
        chosen += [(frame, template) for frame in several]
    return chosen[:_IMAGES_PER_STUDY]


def _box_around(lines: list[WrittenLine], scale: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of several lines in source pixels."""
    lefts, tops, rights, bottoms = zip(*(line.box_px for line in lines), strict=True)
    left, top, right, bottom = (round(edge / scale) for edge in (min(lefts), min(tops), max(rights), max(bottoms)))
    return left, top, right, bottom


def _source(input_set: InputSet, findings: Findings, files: PayloadFiles) -> SourceStudy | None:
    """One header of each series, of an image that the model saw where there is one; None when none can be read."""
    seen = {frame.sop_instance_uid for result in findings.results for frame in result.frames}
    headers: dict[SeriesUID, Dataset] = {}
    for instance in sorted(input_set.instances, key=lambda one: one.sop_instance_uid not in seen):
        if instance.series_instance_uid not in headers:
            try:
                headers[instance.series_instance_uid] = read_header(files.path(instance.relative_path))
            except StudyUnusable:
                continue
    if not headers:
        return None
    numbers: dict[InstanceUID, str] = {}
    return SourceStudy(
        study_instance_uid=input_set.study_instance_uid,
        header=next(iter(headers.values())),
        series={uid: describe_series(uid, header) for uid, header in headers.items()},
        image_numbers=numbers,
        image_count=len(input_set.instances),
        composed_at=max(instance.received_at for instance in input_set.instances),
    )
