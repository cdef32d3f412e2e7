"""HL7 v2 messages as far as a final report needs them: ORU^R01 in, ACK out (HL7 v2.5.1 chapters 2 and 7)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

#: MSH-18 (HL7 table 0211) -> Python's name; the rest is read as UTF-8.
_ENCODINGS = {"GB 18030-2000": "gb18030", "8859/1": "latin-1", "ASCII": "ascii", "UNICODE UTF-8": "utf-8"}
#: OBX-11 and OBR-25 (tables 0085 and 0123): final, and corrected after that.
_FINAL = frozenset({"F", "C"})
#: OBX-3: (110180, DCM, "Study Instance UID"), as in the Imaging Object Segment and reports after PS3.20.
_STUDY_UID_CODE = "110180"
_TEXT_TYPES = frozenset({"TX", "FT", "ST"})
_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")


class MessageRefused(Exception):
    """The message is not taken. `code` is what MSA-1 answers: AE, or AR for a kind that is never taken."""

    def __init__(self, reason: str, detail: str, *, code: str = "AE") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.code = reason, detail, code


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalReport:
    """What of an ORU^R01 matters here. The text is patient data: it is compared and not kept."""

    control_id: str
    #: "" where the message names none; then an accession number does.
    study_instance_uid: str
    #: OBR-18, OBR-2, OBR-3 and ORC-2, ORC-3 in this order: where sites put the accession number.
    accession_numbers: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message taken apart into segments and fields; field 1 of MSH is the separator, as HL7 counts."""

    segments: tuple[tuple[str, ...], ...]
    #: component, repetition, escape and subcomponent characters of MSH-2.
    characters: str

    def every(self, name: str) -> Iterator[tuple[str, ...]]:
        return (segment for segment in self.segments if segment[0] == name)

    def value(self, segment: Sequence[str], field: int, component: int = 1) -> str:
        """One component of the first repetition of a field, 1-based; "" where there is none."""
        text = segment[field] if field < len(segment) else ""
        parts = text.split(self.characters[1])[0].split(self.characters[0])
        return self.plain(parts[component - 1]) if component <= len(parts) else ""

    def lines(self, segment: Sequence[str], field: int) -> str:
        """A text field with its repetitions as lines."""
        text = segment[field] if field < len(segment) else ""
        return "\n".join(self.plain(part) for part in text.split(self.characters[1]))

    def plain(self, text: str) -> str:
        """The text without escape sequences (chapter 2.7); what formats a text beyond line breaks falls away."""
        escape = re.escape(self.characters[2])
        known = {"F": "|", "S": self.characters[0], "R": self.characters[1], "E": self.characters[2], ".br": "\n"}
        known["T"] = self.characters[3]
        return re.sub(f"{escape}([^{escape}]{{0,32}}){escape}", lambda found: known.get(found[1], ""), text)


def parse(content: bytes) -> Message:
    """Take a message apart. Raises MessageRefused when it is none."""
    if not content.startswith(b"MSH") or len(content) < 9:
        raise MessageRefused("no_header", "the message does not begin with MSH", code="AR")
    head = content.split(b"\r", 1)[0].decode("latin-1")
    separator, fields = head[3], head.split(head[3])
    characters = fields[1] if len(fields) > 1 else ""
    if len(characters) < 4 or len(set(characters[:4] + separator)) != 5:
        raise MessageRefused("no_header", "MSH-2 names no four encoding characters", code="AR")
    named = fields[17].split(characters[1])[0] if len(fields) > 17 else ""
    try:
        text = content.decode(_ENCODINGS.get(named, "utf-8"))
    except UnicodeDecodeError as exc:
        raise MessageRefused("character_set", f"it is not written in {named or 'UTF-8'}") from exc
    segments = [line.split(separator) for line in re.split(r"[\r\n]+", text) if line]
    segments[0].insert(1, separator)
    return Message(tuple(tuple(segment) for segment in segments), characters[:4])


def final_report(message: Message) -> FinalReport:
    """The final report in an ORU^R01. Raises MessageRefused with what is missing or wrong."""
    header = message.segments[0]
    kind = (message.value(header, 9, 1), message.value(header, 9, 2))
    if kind != ("ORU", "R01"):
        raise MessageRefused("message_type", f"MSH-9 is {'^'.join(kind)}, only ORU^R01 is taken", code="AR")
    if not message.value(header, 10):
        raise MessageRefused("no_control_id", "MSH-10 is empty")
    orders, observations = list(message.every("OBR")), list(message.every("OBX"))
    if not orders or not observations:
        missing = "OBR" if not orders else "OBX"
        raise MessageRefused("segment_missing", f"there is no {missing} segment")
    texts = [
        item for item in observations if message.value(item, 2) in _TEXT_TYPES and not _is_study_uid(message, item)
    ]
    statuses = {message.value(order, 25) for order in orders} | {message.value(item, 11) for item in texts}
    if not statuses & _FINAL or statuses - _FINAL - {""}:
        raise MessageRefused("not_final", "OBR-25 and OBX-11 do not say that the report is final")
    text = "\n".join(message.lines(item, 5) for item in texts).strip()
    if not text:
        raise MessageRefused("no_text", "no OBX segment of type TX, FT or ST has a text")
    return FinalReport(
        control_id=message.value(header, 10)[:64],
        study_instance_uid=_study_uid(message, observations),
        accession_numbers=tuple(dict.fromkeys(_accession_numbers(message, orders))),
        text=text,
    )


def acknowledgement(message: Message | None, code: str, reason: str = "") -> bytes:
    """The ACK of a message, without MLLP's frame; of one that could not be read where `message` is None."""
    header = message.segments[0] if message is not None else ()
    fields = [header[number] if number < len(header) else "" for number in range(12)]
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    control_id = fields[10]
    answer = ["MSH", "^~\\&", fields[5], fields[6], fields[3], fields[4], now, "", "ACK^R01^ACK", f"A{control_id}"[:20]]
    lines = ["|".join([*answer, fields[11] or "P", "2.5.1"]), "|".join(["MSA", code, control_id])]
    if reason:
        # ERR-3: 207, application internal error (table 0357); ERR-4: error; ERR-8: for people.
        lines.append(f"ERR|||207|E||||{escaped(reason)}")
    return ("\r".join(lines) + "\r").encode()


def escaped(text: str) -> str:
    """The text with escape sequences for the characters that delimit (chapter 2.7)."""
    for character, code in (("\\", "E"), ("|", "F"), ("^", "S"), ("~", "R"), ("&", "T")):
        text = text.replace(character, f"\\{code}\\")
    return text


def _is_study_uid(message: Message, observation: Sequence[str]) -> bool:
    return message.value(observation, 3) == _STUDY_UID_CODE


def _study_uid(message: Message, observations: Sequence[Sequence[str]]) -> str:
    """From an OBX that says so, else from IHE's ZDS segment (RAD TF-2 4.4)."""
    named = [message.value(item, 5) for item in observations if _is_study_uid(message, item)]
    named += [message.value(segment, 1) for segment in message.every("ZDS")]
    return next((uid for uid in named if len(uid) <= 64 and _UID.fullmatch(uid)), "")


def _accession_numbers(message: Message, orders: Sequence[Sequence[str]]) -> Iterator[str]:
    commons = list(message.every("ORC"))
    places = [*((order, field) for field in (18, 2, 3) for order in orders)]
    places += [(order, field) for field in (2, 3) for order in commons]
    return (value for segment, field in places if (value := message.value(segment, field)))
