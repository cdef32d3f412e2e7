"""What each step of the path hands the next: frozen records, tuples inside, no behaviour.

Conventions used everywhere:

- pixel coordinates are continuous (column, row) = (x, y) with (0, 0) at the outer corner of the top left pixel, as in
  SCOORD (PS3.3 C.18.6.1.2): the centre of the first pixel is (0.5, 0.5);
- volume coordinates are continuous (x, y, z) with (0, 0, 0) at the outer corner of the first voxel of the first slice;
- patient coordinates are millimetres in the DICOM reference coordinate system (LPS);
- arrays are [row, column] or [slice, row, column];
- times are UTC and aware.

Records that the catalogue keeps are written and read as JSON by `umit_pacs.store.payload`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType

import numpy as np
from numpy.typing import NDArray

StudyUID = NewType("StudyUID", str)
SeriesUID = NewType("SeriesUID", str)
InstanceUID = NewType("InstanceUID", str)


# --- receive -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInstance:
    """One received instance, durable in the store."""

    study_instance_uid: StudyUID
    series_instance_uid: SeriesUID
    sop_instance_uid: InstanceUID
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    #: IP address the association came from.
    peer_host: str
    #: hex SHA-256 of the data set's bytes as received (without preamble and file meta information).
    sha256: str
    size_bytes: int
    #: POSIX path below the store's folder.
    relative_path: str
    received_at: datetime


# --- assemble ----------------------------------------------------------------------------------------------------


class CompletionReason(enum.StrEnum):
    """Why a study was taken as complete."""

    EXPECTED_COUNT = "expected_count"
    QUIET_PERIOD = "quiet_period"
    MAXIMUM_WAIT = "maximum_wait"
    FILES = "files"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSet:
    """The instances of one study that are analysed together."""

    #: hex SHA-256 over the sorted (SOP Instance UID, sha256) pairs, first 32 characters.
    input_set_id: str
    study_instance_uid: StudyUID
    instances: tuple[StoredInstance, ...]
    #: AE title that sent the study (of the last instance).
    calling_ae_title: str
    completed_by: CompletionReason
    #: the input set of the same study that this one supersedes.
    predecessor_id: str | None = None
    #: the Key Object Selection that asks about these images; such a set is no version of the study, and its
    #: `predecessor_id` is the version that it was asked about.
    asked_by: InstanceUID | None = None
    #: multi-frame instances of which only these frames (1-based) are looked at; of every other instance, all. They
    #: stand in the selection that asks, and are read from it whenever the set is worked on.
    chosen_frames: tuple[tuple[InstanceUID, tuple[int, ...]], ...] = ()


# --- route -------------------------------------------------------------------------------------------------------


class Task(enum.StrEnum):
    """UMIT's tasks; detection in a volume is a task of its own because its answer is."""

    REPORT = "report"
    CLASSIFICATION = "classification"
    VQA = "vqa"
    DETECTION = "detection"
    DETECTION_3D = "detection_3d"
    LANDMARK = "landmark"


class Language(enum.StrEnum):
    """Language of instruction, answer and draft."""

    ENGLISH = "en"
    CHINESE = "zh"


class Mode(enum.StrEnum):
    """What happens with the composed objects: sent, kept for release, or only recorded."""

    SEND = "send"
    HOLD = "hold"
    SHADOW = "shadow"


class Priority(enum.StrEnum):
    """Urgent studies are analysed before routine ones."""

    URGENT = "urgent"
    ROUTINE = "routine"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOrder:
    """One question to the model about one series."""

    task: Task
    language: Language
    series_instance_uid: SeriesUID
    #: finding (DETECTION*), landmark (LANDMARK) or "" : a key of the series' SR template.
    target: str = ""
    #: free question (VQA) or class question (CLASSIFICATION); "" for the others.
    question: str = ""
    #: closed answers in order (VQA, CLASSIFICATION); () for an open question.
    options: tuple[str, ...] = ()
    #: key of the SR template that the series is read with.
    template: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionReason:
    """What one condition of one rule found."""

    rule: str
    #: the condition in words, e.g. `series Modality is_one_of CR, DX`.
    condition: str
    is_met: bool
    #: what the study had, or "absent".
    found: str
    #: 0: a condition of the rule itself; n: one inside n groups (`any of`, `all of`), after its group's line.
    depth: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesExclusion:
    """A series kept out of inference, and why."""

    series_instance_uid: SeriesUID
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingDecision:
    """What the rules decided for one input set; `rule` is None when none matched."""

    input_set_id: str
    rule: str | None
    rules_version: int
    #: the matching rule as it was, as JSON text ("" when none matched).
    rule_text: str
    reasons: tuple[ConditionReason, ...]
    orders: tuple[TaskOrder, ...] = ()
    excluded: tuple[SeriesExclusion, ...] = ()
    profile: str = "universal"
    destinations: tuple[str, ...] = ()
    #: kinds of result object by destination; one that is not named here gets those of `profile`.
    kinds: dict[str, tuple[ObjectKind, ...]] = field(default_factory=dict)
    priority: Priority = Priority.ROUTINE
    mode: Mode = Mode.SEND
    language: Language = Language.ENGLISH
    #: name of the checkpoint, or "" for the configured default.
    checkpoint: str = ""
    #: what the rule asks for and this study's templates do not know, in words.
    remarks: tuple[str, ...] = ()
    #: the facts the rules were asked about, as JSON text, so that other rules can be tried after the files are gone.
    facts_text: str = ""


# --- prepare -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameReference:
    """One source frame, as result objects refer to it."""

    sop_class_uid: str
    sop_instance_uid: InstanceUID
    series_instance_uid: SeriesUID
    #: 1-based frame number of a multi-frame instance; None for a single-frame one.
    frame_number: int | None
    rows: int
    columns: int
    frame_of_reference_uid: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedImage:
    """One display-grey image for the model, and the way back to its source frame."""

    #: (H, W) uint8, 0 = black; MONOCHROME1 already inverted.
    pixels: NDArray[np.uint8]
    source: FrameReference
    #: (3, 3) float64: homogeneous (x, y, 1) of this image -> (x, y, 1) of the source frame.
    to_source: NDArray[np.float64]
    #: (4, 4) float64: source (x, y, 0, 1) -> patient mm; None for projection images without geometry.
    source_to_patient_mm: NDArray[np.float64] | None
    #: (between rows, between columns) of the source; None when the header has none that may be used.
    spacing_row_col_mm: tuple[float, float] | None
    modality: str
    #: what was done to the grey values, e.g. "window 40/400", "percentiles 1-99".
    grey_recipe: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedVolume:
    """A stack of display-grey slices for the model, and the way back to source frames and patient."""

    #: (D, H, W) uint8; slices ordered along the stack normal, feet to head for axial stacks.
    voxels: NDArray[np.uint8]
    #: source frames in the same spatial order, before resampling to D slices.
    sources: tuple[FrameReference, ...]
    #: (4, 4) float64: (x, y, z, 1) of this volume -> (x, y, z, 1) of the stack of `sources`.
    to_source: NDArray[np.float64]
    #: (4, 4) float64: (x, y, z, 1) of the stack of `sources` -> patient mm.
    source_to_patient_mm: NDArray[np.float64]
    modality: str
    grey_recipe: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSeries:
    """The model's view of one series: one or more images, or one volume."""

    series_instance_uid: SeriesUID
    images: tuple[PreparedImage, ...] = ()
    volume: PreparedVolume | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The model's view of an input set: the series that could be prepared, and why the others could not."""

    series: dict[SeriesUID, PreparedSeries]
    excluded: tuple[SeriesExclusion, ...] = ()


# --- infer -------------------------------------------------------------------------------------------------------


class RegionKind(enum.StrEnum):
    BOX = "box"
    POINT = "point"
    BOX_3D = "box_3d"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A number that the node took of a region's outline; the model gave none of it."""

    #: key of the SR template's measurement, whose unit it has.
    key: str
    value: float
    #: how the voxels that it is taken of were found.
    algorithm: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmeasured:
    """A measurement of the SR template that could not be taken of a region, and why."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A place in the source, found by the model."""

    kind: RegionKind
    #: finding or landmark key of the SR template.
    label: str
    #: the frame (BOX, POINT), or the source frames the box spans in order (BOX_3D).
    frames: tuple[FrameReference, ...]
    #: source pixel coordinates: BOX and BOX_3D two corners (x, y) top left, bottom right; POINT one.
    points_xy_px: tuple[tuple[float, float], ...]
    #: patient mm: BOX_3D the two opposite corners of the box in the stack; others (and no geometry) empty.
    corners_mm: tuple[tuple[float, float, float], ...] = ()
    confidence: float | None = None
    #: what the finding's term lists as measurements: taken, or not and why.
    measurements: tuple[Measurement, ...] = ()
    unmeasured: tuple[Unmeasured, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Abstention:
    """No answer, and why: the answer could not be read, or the input is outside what the model knows."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportStatement:
    """One sentence of a report that is the template's own, read back."""

    #: finding key of the SR template.
    finding: str
    #: present, absent or uncertain.
    presence: str
    #: left, right, both or none.
    side: str
    #: as it stands in the report.
    sentence: str
    #: calibrated probability in 0..1, None where it is not known.
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """The model's answer to one order. Exactly one of `abstention` and an answer is given."""

    order: TaskOrder
    #: the instruction and the answer verbatim; the answer is what the tokens decoded to.
    instruction: str
    answer_text: str
    abstention: Abstention | None = None
    #: report text or open answer.
    text: str = ""
    #: index into order.options.
    option_index: int | None = None
    regions: tuple[Region, ...] = ()
    #: calibrated probability in 0..1 that the answer holds, None where the task has none; of an uncertain DETECTION
    #: without regions that nothing is there.
    confidence: float | None = None
    #: frames that the model was shown for this order.
    frames: tuple[FrameReference, ...] = ()
    #: how their grey values were made, as in PreparedImage.grey_recipe; "" when unknown.
    grey_recipe: str = ""
    #: DETECTION*: present, absent or uncertain by the checkpoint's thresholds; "" for the others.
    presence: str = ""
    #: REPORT: the template's own sentences in `text`; what is not among them is free text.
    statements: tuple[ReportStatement, ...] = ()
    #: what was mended when the answer was read: corners_swapped, clipped, cut_off, kept_to_grammar,
    #: place_outside_dropped, unlikely_place_dropped.
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """Which checkpoint answered, for provenance in every object."""

    name: str
    version: str
    #: hex SHA-256 over the manifest's file hashes.
    sha256: str
    #: none, int8 or nf4.
    quantisation: str
    #: cpu, or the accelerator's name.
    device: str
    licence: str
    intended_use: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateIdentity:
    """Which wording of an SR template, or of the phrases, was used."""

    key: str
    #: as the template gives it; "" for the phrases, which have none.
    version: str
    #: hex SHA-256 that changes with every word, code and order of it.
    sha256: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.key, self.version, f"sha256={self.sha256[:12]}") if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """All answers of one input set."""

    input_set_id: str
    model: ModelIdentity
    results: tuple[TaskResult, ...]
    excluded: tuple[SeriesExclusion, ...] = ()
    #: seconds by name: prepare_s; answered_s from asking the model to its answers, waiting for other studies included.
    timings_s: dict[str, float] = field(default_factory=dict)
    #: the SR templates that the orders were asked with.
    templates: tuple[TemplateIdentity, ...] = ()


# --- compose -----------------------------------------------------------------------------------------------------


class ObjectKind(enum.StrEnum):
    """The kinds of result object; a series holds one kind."""

    TEXT_REPORT = "text_report"
    MEASUREMENT_REPORT = "measurement_report"
    SECONDARY_CAPTURE = "secondary_capture"
    #: the text report for destinations that take no Enhanced SR.
    BASIC_TEXT_REPORT = "basic_text_report"
    #: answers without a region.
    QUALITATIVE_REPORT = "qualitative_report"
    SEGMENTATION = "segmentation"
    PRESENTATION_STATE = "presentation_state"
    KEY_OBJECTS = "key_objects"
    #: the draft as PDF.
    DOCUMENT = "document"
    #: takes back what was sent (IHE IOCM).
    REJECTION_NOTE = "rejection_note"
    #: says in words that what was sent does not stand any more.
    NOTICE = "notice"
    #: the draft for reporting systems, as HL7 v2 message and as FHIR transaction, and what takes each back; no DICOM.
    HL7_REPORT = "hl7_report"
    FHIR_REPORT = "fhir_report"
    HL7_WITHDRAWAL = "hl7_withdrawal"
    FHIR_WITHDRAWAL = "fhir_withdrawal"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultObject:
    """One composed object, stored; its bytes never change. What is no DICOM has "" for class and transfer syntax."""

    sop_instance_uid: InstanceUID
    sop_class_uid: str
    series_instance_uid: SeriesUID
    transfer_syntax_uid: str
    kind: ObjectKind
    #: POSIX path below the store's folder.
    relative_path: str
    #: hex SHA-256 of the whole file.
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppedObject:
    """A result object that failed its check, so that it never leaves."""

    kind: ObjectKind
    #: 1-based position in its series; 0: the whole kind, which could not be composed.
    number: int
    #: everything that is wrong with it; no patient data.
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """What became of one draft."""

    objects: tuple[ResultObject, ...]
    stopped: tuple[StoppedObject, ...] = ()
