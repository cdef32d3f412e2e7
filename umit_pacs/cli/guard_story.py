"""What the consistency guard found, in words for `umit-pacs why`; the words that were at fault are nowhere kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from umit_pacs.faults import Fault, FaultOutcome, Guarding

_DONE = {
    FaultOutcome.WITHHELD: "the draft is held back",
    FaultOutcome.REMOVED: "left out of the draft",
    FaultOutcome.REPAIRED: "put right by a rule",
}
#: why a draft is held back, by the fault's reason.
WITHHELD = {
    "identity_of_another": "the answer may hold another patient's data",
    "instruction_in_answer": "the answer holds an instruction to a machine",
    "identity_on_image": "the patient's own data stand in an image",
    "other_identity_on_image": "data that may be another patient's stand in an image",
    "instruction_on_image": "an instruction or running text stands in an image",
}
ADVICE = "Look at the images and the draft; `umit-pacs release {study}` sends what the guard has left of it."


def guard_text(found: Guarding) -> str:
    """What came of the checks, in one sentence."""
    searched = f"{found.images_read} searched for writing"
    if found.why_not_read:
        searched += f", then not any more: {found.why_not_read.replace('_', ' ')}"
    if not found.faults:
        return f"The guard found nothing wrong with the answers; images: {searched}."
    counts = Counter(fault.outcome for fault in found.faults)
    listed = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _DONE if counts[outcome])
    return f"The guard found faults: {listed}; images: {searched}."


def guard_details(found: Guarding) -> Iterator[str]:
    """One line for each fault: where, what is wrong, and what was done."""
    for fault in found.faults:
        about = f" ({', '.join(fault.subjects).replace('_', ' ')})" if fault.subjects else ""
        check, reason = fault.check.replace("_", " "), fault.reason.replace("_", " ")
        yield f"{_place(fault)}{about}: {check}, {reason}; {_DONE[fault.outcome]}"


def _place(fault: Fault) -> str:
    if fault.sop_instance_uid is not None:
        frame = f" frame {fault.frame_number}" if fault.frame_number is not None else ""
        at = f" at {', '.join(map(str, fault.box_px))} px" if fault.box_px else ""
        return f"image …{fault.sop_instance_uid[-16:]}{frame}{at}"
    sentence = f" sentence {fault.sentence_index + 1}" if fault.sentence_index is not None else ""
    return f"answer {(fault.result_index or 0) + 1}{sentence}"
