"""Samples in the two JSONL layouts of ms-swift, which UMIT's published data and today's trainers use.

Layout 2 (ms-swift 2.x): {"query": "<image>...", "response": "...", "images": [...], "objects": "<JSON text>"}
Layout 3 (ms-swift 3.x and later): {"messages": [{"role": "user", "content": "<image>..."}, {"role": "assistant", ...}],
"images": [...], "objects": {"ref": [...], "bbox": [[x1, y1, x2, y2], ...], "bbox_type": "real", "image_id": [...]}}

Coordinates in the text are left alone by ms-swift, as UMIT writes them. `as_objects` writes a 2D detection with the
placeholders <ref-object> and <bbox> instead; the trainer then scales the boxes, which are pixels of the picture, to
what its model writes. Reading takes both. A row says nothing about patients, splits and spacing: those come back empty,
and boxes come back to the pixel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from umit_pacs.errors import SampleInvalid
from umit_pacs.handoffs import Abstention, Language, Task
from umit_pacs.umit_model import answers, instructions
from umit_pacs.umit_model.coordinate_frames import Box, CoordinateFrame
from umit_pacs.umit_model.samples import Sample, SampleTruth, complete

Layout = Literal["swift2", "swift3"]

_IMAGE, _REFERENCE, _BOX = "<image>", "<ref-object>", "<bbox>"
_KEYS = {
    "swift2": frozenset({"query", "response", "images", "objects", "history", "system"}),
    "swift3": frozenset({"messages", "images", "objects"}),
}
#: from a picture's path to its (width, height)
SizeOf = Callable[[str], tuple[int, int]]


# --- writing -----------------------------------------------------------------------------------------------------


def to_swift(sample: Sample, layout: Layout, *, as_objects: bool = False) -> dict[str, Any]:
    """The sample as one row. A volume must be given as the pictures of its slices: the layouts know no arrays.

    Raises SampleInvalid when it is not.
    """
    paths = sample.paths
    if any(path.endswith(".npy") for path in paths):
        raise SampleInvalid(f"{sample.id}: a volume goes into this layout as the pictures of its slices")
    query, response, objects = sample.instruction, sample.answer, None
    if as_objects and sample.task is Task.DETECTION and sample.truth.boxes.get(sample.target):
        query, response, objects = _with_objects(sample)
    query = _IMAGE * len(paths) + query
    if layout == "swift2":
        row: dict[str, Any] = {"query": query, "response": response, "images": list(paths)}
        return row | ({"objects": json.dumps(objects, ensure_ascii=False)} if objects else {})
    messages = [{"role": "user", "content": query}, {"role": "assistant", "content": response}]
    row = {"messages": messages, "images": list(paths)}
    return row | ({"objects": _columns(objects)} if objects else {})


def _with_objects(sample: Sample) -> tuple[str, str, list[dict[str, Any]]]:
    """Query and response with placeholders, and the objects of layout 2."""
    marks = re.compile(r"<\|object_ref_start\|>\s*(.*?)<\|object_ref_end\|>", re.DOTALL)
    found = marks.search(sample.instruction)
    assert found, "the instruction of a detection names its target between marks"
    query = marks.sub(_REFERENCE, sample.instruction)
    boxes = sorted(sample.truth.boxes[sample.target], key=lambda box: (box[0][1], box[0][0]))
    objects = [
        {"caption": found[1], "bbox": [round(value) for value in (*low, *high)], "bbox_type": "real", "image": 0}
        for low, high in boxes
    ]
    return query, _BOX * len(boxes), objects


def _columns(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The objects of layout 2 as layout 3 has them; the one reference stands once, as it does in the query."""
    return {
        "ref": [objects[0]["caption"]],
        "bbox": [entry["bbox"] for entry in objects],
        "bbox_type": "real",
        "image_id": [entry["image"] for entry in objects],
    }


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class SwiftReading:
    """What rows of one file leave unsaid."""

    size_of: SizeOf
    #: frame of 2D boxes, of points and of boxes in volumes where they stand in the text.
    box_frame: str = "norm1000"
    point_frame: str = "absolute:600x800"
    volume_frame: str = "voxel:32x256x256"
    #: a row with at least this many pictures shows the slices of a volume.
    volume_from: int = 8
    #: modality where the instruction does not say it.
    modality: str = ""
    data_set: str = ""

    def frame(self, task: Task) -> str:
        """The frame of a task's coordinates, "" for those without."""
        frames = {
            Task.DETECTION: self.box_frame,
            Task.DETECTION_3D: self.volume_frame,
            Task.LANDMARK: self.point_frame,
        }
        return frames.get(task, "")


def from_swift(row: dict[str, Any], reading: SwiftReading, *, id_: str) -> Sample:
    """The sample of one row of either layout; its truth is what the node reads in the answer.

    Raises SampleInvalid when a key is unknown, the instruction is none of the node's, or the answer cannot be read.
    """
    query, response, pictures, objects = _parts(row)
    query = re.sub(rf"^(?:\s*{_IMAGE})+", "", query).strip()
    if objects:
        query = query.replace(_REFERENCE, f"<|object_ref_start|> {objects[0][0]}<|object_ref_end|>")
    asked = read_instruction(query)
    if asked is None:
        raise SampleInvalid(f"{query[:120]!r} is none of the node's instructions", reason="other_instruction")
    is_volume = asked.is_of_volume or len(pictures) >= reading.volume_from
    frame = reading.frame(asked.task)
    size = reading.size_of(pictures[0]) if frame else ()
    extent = (*size, len(pictures)) if is_volume and frame else size
    try:
        truth = _objects_truth(objects, extent, asked.target) if objects else _truth(asked, response, frame, extent)
        return complete(
            Sample(
                id=id_,
                data_set=reading.data_set,
                images=() if is_volume else pictures,
                volume=pictures if is_volume else (),
                modality=asked.modality or reading.modality,
                template=asked.template,
                task=asked.task,
                language=asked.language,
                target=asked.target,
                question=asked.question,
                options=asked.options,
                answer=response.strip(),
                frame=frame,
                extent=extent,
                truth=truth,
            )
        )
    except ValueError as exc:
        raise SampleInvalid(str(exc)) from exc


def _parts(row: dict[str, Any]) -> tuple[str, str, tuple[str, ...], list[tuple[str, list[float], str, int]]]:
    """(query, response, images, objects) of a row of either layout; an object: caption, box, type, image."""
    layout = "swift3" if "messages" in row else "swift2"
    if unknown := sorted(set(row) - _KEYS[layout]):
        raise SampleInvalid(f"unknown keys {', '.join(unknown)}", reason="unknown_column")
    if row.get("history") or row.get("system"):
        raise SampleInvalid("a conversation of several turns")
    try:
        if layout == "swift3":
            turns = {turn["role"]: str(turn["content"]) for turn in row["messages"]}
            if len(row["messages"]) != 2 or set(turns) != {"user", "assistant"}:
                raise SampleInvalid("a conversation of several turns")
            query, response = turns["user"], turns["assistant"]
        else:
            query, response = str(row["query"]), str(row["response"])
        images = tuple(str(path) for path in row["images"])
        objects = _objects(row.get("objects"))
    except (KeyError, TypeError, IndexError, json.JSONDecodeError) as exc:
        raise SampleInvalid(f"no row of layout {layout}: {exc!r}") from exc
    if not images:
        raise SampleInvalid("a row without images")
    return query, response, images, objects


def _objects(value: Any) -> list[tuple[str, list[float], str, int]]:
    if not value:
        return []
    if isinstance(value, str):
        return [
            (entry["caption"], entry["bbox"], entry["bbox_type"], int(entry["image"])) for entry in json.loads(value)
        ]
    images = value.get("image_id") or [0] * len(value["bbox"])
    kind = value.get("bbox_type", "real")
    return [(value["ref"][0], box, kind, int(image)) for box, image in zip(value["bbox"], images, strict=True)]


def _objects_truth(
    objects: list[tuple[str, list[float], str, int]], extent: tuple[int, ...], target: str
) -> SampleTruth:
    """Boxes in pixels: `real` ones are, `norm1` are shares of width and height, `norm1000` thousandths."""
    boxes: list[Box] = []
    for _, box, kind, _ in objects:
        if kind not in ("real", "norm1", "norm1000") or len(box) != 4:
            raise SampleInvalid(f"a box {box} of type {kind!r}")
        share = {"real": None, "norm1": 1.0, "norm1000": 1000.0}[kind]
        scale = (1.0, 1.0) if share is None else (extent[0] / share, extent[1] / share)
        x1, y1, x2, y2 = (float(value) * scale[index % 2] for index, value in enumerate(box))
        boxes.append(((x1, y1), (x2, y2)))
    return SampleTruth(boxes={target: tuple(boxes)})


def _truth(asked: ReadInstruction, response: str, frame: str, extent: tuple[int, ...]) -> SampleTruth:
    """What the node reads in the response. Raises SampleInvalid when it cannot."""
    read: object
    if asked.options:
        read = answers.read_closed(response, asked.options, asked.task)
        if isinstance(read, answers.ReadOption):
            return SampleTruth(right_option=read.index)
    elif asked.task is Task.LANDMARK:
        parsed = CoordinateFrame.parse(frame)
        read = answers.read_point(response, parsed.largest(2))
        if isinstance(read, answers.ReadPoint):
            point = None if read.point is None else parsed.point_to_pixels(read.point, extent)
            return SampleTruth(landmarks={asked.target: point})
    elif frame:
        parsed = CoordinateFrame.parse(frame)
        read = answers.read_boxes(response, parsed.largest(len(extent)), includes_last=parsed.includes_last)
        if isinstance(read, answers.ReadBoxes):
            return SampleTruth(boxes={asked.target: tuple(parsed.box_to_pixels(box, extent) for box in read.boxes)})
    else:
        return SampleTruth()
    assert isinstance(read, Abstention)
    raise SampleInvalid(f"the answer {response[:80]!r} reads as {read.reason}", reason="answer_not_read_back")


# --- instructions read back --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadInstruction:
    """What one of the node's instructions asks."""

    task: Task
    language: Language
    target: str = ""
    question: str = ""
    options: tuple[str, ...] = ()
    modality: str = ""
    template: str = "general"
    is_of_volume: bool = False


def read_instruction(text: str) -> ReadInstruction | None:
    """The order behind an instruction; None when no template of `instructions` fits it whole."""
    for pattern, known in _PATTERNS:
        if found := pattern.fullmatch(text):
            named = found.groupdict()
            options = _option_list(named["options"], known) if "options" in named else ()
            if options is None:
                continue
            return replace(
                known,
                target=(named.get("target") or "").strip(),
                question=named.get("question") or "",
                options=options,
            )
    return None


def _option_list(text: str, known: ReadInstruction) -> tuple[str, ...] | None:
    """The options of `1:yes\\n2:no`, counted as the task counts; None when they are not."""
    first = instructions.FIRST_OPTION[known.task]
    options: list[str] = []
    for number, line in enumerate(text.split("\n"), first):
        found = re.fullmatch(rf"\s*{number}\s*[:：]\s*(.*?)\s*", line)
        if found is None:
            return None
        options.append(found[1])
    return tuple(options)


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[a-z]+\})", template)
    fields = [rf"(?P<{part[1:-1]}>.+?)" if part.startswith("{") else re.escape(part) for part in parts]
    return re.compile("".join(fields), re.DOTALL)


def _patterns() -> list[tuple[re.Pattern[str], ReadInstruction]]:
    """Each template with what it asks; closed ones before open ones, which would fit them too."""
    english = Language.ENGLISH
    report = ReadInstruction(task=Task.REPORT, language=english)
    vqa = ReadInstruction(task=Task.VQA, language=english)
    asked = (
        (instructions.REPORT_CHEST_RADIOGRAPH, replace(report, modality="DX", template="chest_radiograph")),
        (instructions.REPORT_VOLUME, replace(report, modality="CT", is_of_volume=True)),
        (instructions.REPORT_IMAGE, report),
        (instructions.VQA_CLOSED, vqa),
        (instructions.CLASSIFICATION, replace(vqa, task=Task.CLASSIFICATION)),
        (instructions.VQA_OPEN, vqa),
        (instructions.DETECTION, replace(vqa, task=Task.DETECTION)),
        (instructions.DETECTION_3D, replace(vqa, task=Task.DETECTION_3D, modality="CT", is_of_volume=True)),
        (instructions.LANDMARK, replace(vqa, task=Task.LANDMARK)),
    )
    return [
        (_pattern(text), replace(known, language=language))
        for texts, known in asked
        for language, text in texts.items()
    ]


_PATTERNS = _patterns()
