"""One question about one image or volume with its true answer: a line of a JSONL file, and the same as a record.

A file of samples is UTF-8 text, one JSON object per line with the fields of `Sample`; a field with its default value
is left out. Pixels lie beside the file: paths are POSIX, relative to its folder, and never lead out of it. Lines of
one `study` show the same pixels and state the same truth, so a study is one record of truth with many questions.

Instruction and answer stand in the line as they are trained and asked. They are the node's own: `complete` writes them
with `umit_pacs.umit_model.instructions` and `answers`, and `verify` proves of a line read from anywhere that the node
would ask it so and would read its answer back to its truth. `docs/training-data.md` shows examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from umit_pacs.errors import SampleInvalid
from umit_pacs.handoffs import Abstention, Language, SeriesUID, Task, TaskOrder
from umit_pacs.umit_model import answers
from umit_pacs.umit_model.coordinate_frames import Box, CoordinateFrame, Point
from umit_pacs.umit_model.instructions import complete_order, instruction, option_texts
from umit_pacs.vocabulary import Presence, Side, SRTemplate, load_templates

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

#: what a series of files is called where an order needs a name
SERIES = SeriesUID("1.2.3")
#: tasks whose answer is written in a coordinate frame
_BOX_TASKS = frozenset({Task.DETECTION, Task.DETECTION_3D})
_PLACE_TASKS = _BOX_TASKS | {Task.LANDMARK}
#: by how much a place may leave the picture and still be rounding.
_OVERSHOOT_PX = 0.5
#: JSONL is read line by line; nothing that is a sample is longer
_LONGEST_LINE_BYTES = 16 * 1024**2


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleTruth:
    """What is known to be true of the pixels, beside the words of an answer.

    Coordinates are continuous pixels (x, y) or voxels (x, y, z) of the stored file, (0, 0[, 0]) at the outer corner of
    the first one, as in `umit_pacs.handoffs`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    #: index into the sample's options.
    right_option: int | None = None
    #: finding key -> whether it is there.
    findings: dict[str, Presence] = field(default_factory=dict)
    #: finding key -> side of the patient, for findings that are there and have one.
    sides: dict[str, Side] = field(default_factory=dict)
    #: finding key or name -> its boxes, low corner first; () where it was looked for and is not there.
    boxes: dict[str, tuple[Box, ...]] = field(default_factory=dict)
    #: landmark key or name -> its place; None where it is not in the image.
    landmarks: dict[str, Point | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question about some pixels, with its answer."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    #: unique in its file.
    id: str
    #: samples with the same study show the same pixels; "" where nothing is known, then each stands alone.
    study: str = ""
    #: what may not be divided between splits: the patient, or the image where patients are not known.
    group: str = ""
    #: key of the data set in `training.data_sets`, or any word for another source.
    data_set: str = ""
    split: Split = "train"
    #: paths of single images (8-bit pictures). Either these or `volume`.
    images: tuple[str, ...] = ()
    #: path of one `.npy` file [slice, row, column], or paths of the slices' pictures, feet to head for axial stacks.
    volume: tuple[str, ...] = ()
    #: the pixels are bytes as a model is to be shown them: no grey mapping is applied to them again.
    is_display_grey: bool = False
    #: DICOM Modality (CR, DX, CT, MR, PT, US, ...); "" when unknown.
    modality: str = ""
    #: key of the SR template whose words and classes the question uses.
    template: str = "general"
    task: Task
    language: Language
    #: finding or landmark (DETECTION*, LANDMARK): a key of the template, or a name as it is asked for.
    target: str = ""
    #: as in `TaskOrder`.
    question: str = ""
    options: tuple[str, ...] = ()
    instruction: str = ""
    answer: str = ""
    #: frame of the answer's coordinates, a word of `coordinate_frames` on the whole stored picture; "" without any.
    frame: str = ""
    #: (width, height[, depth]) of the stored pixels; needed where there are coordinates.
    extent: tuple[int, ...] = ()
    #: millimetres per stored pixel along x, y[, z]; () when unknown.
    spacing_mm: tuple[float, ...] = ()
    truth: SampleTruth = field(default_factory=SampleTruth)
    #: what figures may be broken down by, e.g. {"content_type": "Modality", "body_part": "Abdomen"}.
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problem := _problem(self):
            raise ValueError(problem)

    @property
    def order(self) -> TaskOrder:
        """The question as rules and engine know it."""
        return TaskOrder(
            task=self.task,
            language=self.language,
            series_instance_uid=SERIES,
            target=self.target,
            question=self.question,
            options=self.options,
            template=self.template,
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that lies beside the file for this sample."""
        return self.images + self.volume


def _problem(sample: Sample) -> str:
    if bool(sample.images) == bool(sample.volume):
        return "either images or a volume"
    for path in sample.paths:
        if not path or "\\" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            return f"{path!r} is no path beside the file"
    axes = 3 if sample.volume else 2
    if sample.extent and (len(sample.extent) != axes or min(sample.extent) < 1):
        return f"extent {sample.extent} of {axes} axes"
    if (sample.task in _PLACE_TASKS) != bool(sample.frame):
        return f"{sample.task} and coordinate frame {sample.frame!r}"
    if sample.frame and not sample.extent:
        return "coordinates without the extent that they are in"
    if sample.task is Task.DETECTION_3D and axes == 2:
        return "boxes in a volume without a volume"
    if sample.frame and CoordinateFrame.parse(sample.frame).kind == "resized":
        return "the frame `resized` depends on the model's image processor"
    if place := _place_outside(sample):
        return place
    right = sample.truth.right_option
    if sample.options and (right is None or not 0 <= right < len(sample.options)):
        return f"right option {right} of {len(sample.options)}"
    return ""


def _place_outside(sample: Sample) -> str:
    """Which box or landmark is not in the picture; "" when all are, or nothing is known of its size."""
    if not sample.extent:
        return ""

    def is_inside(point: Point) -> bool:
        return len(point) == len(sample.extent) and all(
            -_OVERSHOOT_PX <= value <= size + _OVERSHOOT_PX for value, size in zip(point, sample.extent, strict=True)
        )

    for name, boxes in sample.truth.boxes.items():
        for low, high in boxes:
            if not (is_inside(low) and is_inside(high) and all(a < b for a, b in zip(low, high, strict=True))):
                return f"box {low}, {high} of {name!r} outside {sample.extent} or without extent"
    for name, point in sample.truth.landmarks.items():
        if point is not None and not is_inside(point):
            return f"landmark {name!r} at {point} outside {sample.extent}"
    return ""


# --- the node's words --------------------------------------------------------------------------------------------


def complete(sample: Sample) -> Sample:
    """The sample with the node's instruction and, unless its answer is free text, with the answer that its truth gives.

    Raises ValueError when its truth does not say, or the order cannot be asked.
    """
    template = _template(sample)
    order = complete_order(sample.order, template)
    completed = replace(sample, question=order.question, options=order.options)
    text = instruction(order, template, modality=sample.modality)
    return replace(completed, instruction=text, answer=_true_answer(completed, template))


def _template(sample: Sample) -> SRTemplate:
    try:
        return load_templates().by_key(sample.template)
    except KeyError as exc:
        raise ValueError(f"no SR template {sample.template!r}") from exc


def _true_answer(sample: Sample, template: SRTemplate) -> str:
    truth = sample.truth
    if sample.options:
        assert truth.right_option is not None, "a sample with options has the right one"
        texts = option_texts(sample.order, template)
        return answers.closed_answer(truth.right_option, texts, sample.task, sample.language)
    if sample.task in _BOX_TASKS:
        return answers.boxes_answer(true_boxes(sample), sample.language)
    if sample.task is Task.LANDMARK:
        point = true_point(sample)
        return answers.point_answer(None if point is None else (point[0], point[1]), sample.language)
    if not sample.answer.strip():
        raise ValueError("free text without an answer")
    return sample.answer


def true_boxes(sample: Sample) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The boxes of the sample's target in its frame, from top to bottom and left to right (slices first in a volume).

    Raises ValueError when the truth does not say where the target is.
    """
    if sample.target not in sample.truth.boxes:
        raise ValueError(f"no truth about {sample.target!r}")
    frame = CoordinateFrame.parse(sample.frame)
    written = {frame.box_from_pixels(box, sample.extent) for box in sample.truth.boxes[sample.target]}
    return sorted(written, key=lambda box: (tuple(reversed(box[0])), box[1]))


def true_point(sample: Sample) -> tuple[int, ...] | None:
    """The landmark asked for in the sample's frame; None: not in the image. Raises ValueError as `true_boxes`."""
    if sample.target not in sample.truth.landmarks:
        raise ValueError(f"no truth about {sample.target!r}")
    point = sample.truth.landmarks[sample.target]
    return None if point is None else CoordinateFrame.parse(sample.frame).point_from_pixels(point, sample.extent)


def prepared(sample: Sample, to_source: NDArray[np.float64], extent: tuple[int, ...], *, frame: str = "") -> Sample:
    """The same question about prepared pixels: truth moved there, the answer written in `frame` ("": as it was).

    to_source, extent: as `umit_pacs.pixels` gives them, (3, 3) or (4, 4) from the prepared pixels to the stored ones,
    and (width, height[, depth]) of the former. Where pictures are padded this changes numbers; train on it.
    """
    matrix = np.linalg.inv(to_source)

    def move(point: Point) -> Point:
        return tuple(float(value) for value in (matrix @ [*point, 1.0])[:-1])

    truth = replace(
        sample.truth,
        boxes={name: tuple((move(low), move(high)) for low, high in all_) for name, all_ in sample.truth.boxes.items()},
        landmarks={name: None if point is None else move(point) for name, point in sample.truth.landmarks.items()},
    )
    moved = replace(sample, truth=truth, extent=extent, frame=frame if sample.frame and frame else sample.frame)
    return complete(moved) if sample.frame else moved


def verify(sample: Sample) -> None:
    """Prove that the node asks this instruction and reads this answer back to this truth.

    Raises SampleInvalid that says which of the two it is.
    """
    try:
        template = _template(sample)
        asked = instruction(sample.order, template, modality=sample.modality)
        wrong = _unread(sample, template)
    except ValueError as exc:
        raise SampleInvalid(f"{sample.id}: {exc}") from exc
    if asked != sample.instruction:
        raise SampleInvalid(f"{sample.id}: the node would ask {asked!r}", reason="other_instruction")
    if wrong:
        raise SampleInvalid(f"{sample.id}: {wrong}", reason="answer_not_read_back")


def _unread(sample: Sample, template: SRTemplate) -> str:
    """Why the node's parser does not lead from the answer to the truth; "" when it does."""
    read: object
    if sample.options:
        read = answers.read_closed(sample.answer, option_texts(sample.order, template), sample.task)
        is_true = isinstance(read, answers.ReadOption) and read.index == sample.truth.right_option
    elif sample.task in _BOX_TASKS:
        frame = CoordinateFrame.parse(sample.frame)
        read = answers.read_boxes(sample.answer, frame.largest(len(sample.extent)), includes_last=frame.includes_last)
        is_true = (
            isinstance(read, answers.ReadBoxes) and not read.repairs and set(read.boxes) == set(true_boxes(sample))
        )
    elif sample.task is Task.LANDMARK:
        read = answers.read_point(sample.answer, CoordinateFrame.parse(sample.frame).largest(2))
        is_true = isinstance(read, answers.ReadPoint) and not read.repairs and read.point == true_point(sample)
    else:
        read = answers.read_free_text(sample.answer)
        is_true = isinstance(read, str)
    if isinstance(read, Abstention):
        return f"the answer reads as {read.reason}"
    return "" if is_true else "the answer reads as something else than the truth"


# --- files -------------------------------------------------------------------------------------------------------

_LINE = TypeAdapter(Sample)


def to_line(sample: Sample) -> str:
    """The sample as one line of JSON, without the line break."""
    return _LINE.dump_json(sample, exclude_defaults=True).decode()


def from_line(line: str | bytes) -> Sample:
    """The sample of one line. Raises SampleInvalid that names the field and what is wrong with it."""
    try:
        return _LINE.validate_json(line)
    except ValidationError as exc:
        raise SampleInvalid(_first_error(exc)) from exc


def _first_error(exc: ValidationError) -> str:
    lines = [f"{'.'.join(map(str, error['loc'])) or 'line'}: {error['msg']}" for error in exc.errors()]
    return "; ".join(lines[:3])


def write_samples(path: Path, samples: Iterable[Sample]) -> int:
    """Write a file of samples; returns how many there were."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(to_line(sample) + "\n")
            count += 1
    return count


def read_samples(path: Path, *, proven: bool = True) -> Iterator[Sample]:
    """The samples of a file in its order, each verified (`proven` False: only well formed).

    Raises SampleInvalid that names file and line; also when an id stands there twice.
    """
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _read_line(line, seen, proven=proven)
            except SampleInvalid as exc:
                raise SampleInvalid(f"{path.name}:{number}: {exc.detail}", reason=exc.reason) from exc


def _read_line(line: bytes, seen: set[str], *, proven: bool) -> Sample:
    if len(line) > _LONGEST_LINE_BYTES:
        raise SampleInvalid(f"longer than {_LONGEST_LINE_BYTES // 1024**2} MB")
    sample = from_line(line)
    if sample.id in seen:
        raise SampleInvalid(f"the id {sample.id!r} stands in a line before this one too")
    seen.add(sample.id)
    if proven:
        verify(sample)
    return sample
