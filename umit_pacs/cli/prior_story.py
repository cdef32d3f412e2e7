"""What became of the search for an earlier study, in words for `umit-pacs why`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from umit_pacs.prior_studies import PriorReading, PriorSearch, PriorState

_NOW = {
    PriorState.WANTED: "is still being looked for",
    PriorState.FETCHED: "is here and waits to be read",
    PriorState.READING: "is being read",
    PriorState.READ: "was read by the same model and is compared",
}
_REASONS = {
    "none_found": "none was found that may be compared",
    "no_comparable_series": "what was found shows something else",
    "other_patient": "what was found may be another patient's",
    "other_date": "archive and images name different dates",
    "no_patient_id": "the images name no Patient ID",
    "patient_id_is_a_pattern": "the Patient ID holds *, ? or \\, which C-FIND takes for a pattern",
    "no_study_date": "the images name no Study Date",
    "too_late": "its images did not come within priors.time_limit_s",
    "too_big": "it has more than priors.maximum_bytes",
    "not_all_came": "not all of its images came",
    "reading_broke_off": "the process that read it ended over it",
    "study_ended": "the study had come to an end before",
    "another_checkpoint": "another checkpoint is in use by now",
}


def prior_events(search: PriorSearch) -> Iterator[tuple[datetime, str, tuple[str, ...]]]:
    """When something happened, what, and the details."""
    limit_s = (search.until - search.wanted_at).total_seconds()
    yield search.wanted_at, f"An earlier study is looked for, for at most {limit_s:g} s.", ()
    which = "An earlier study"
    if search.study_date is not None:
        which = f"The earlier study of {search.study_date} (…{search.study_instance_uid[-16:]}, at {search.peer})"
    if search.study is not None and search.state is not PriorState.NONE:
        megabytes = search.study.size_bytes / 1e6
        came = (
            "were here before" if search.study.fetched_by == "here" else f"came by C-{search.study.fetched_by.upper()}"
        )
        which += f", of which {len(search.study.instances)} images ({megabytes:.1f} MB) {came},"
    if search.state is PriorState.NONE:
        because = _REASONS.get(search.reason, search.reason.replace("_", " "))
        detail = f" ({search.detail.rstrip('.')})" if search.detail else ""
        yield search.changed_at, f"{which} is not compared: {because}{detail}.", ()
    else:
        details = tuple(_answers(search.reading)) if search.reading is not None else ()
        yield search.changed_at, f"{which} {_NOW[search.state]}.", details


def _answers(reading: PriorReading) -> Iterator[str]:
    for series in reading.series:
        uids = f"…{series.series_instance_uid[-8:]}, compared with …{series.compared_with[-8:]}"
        for finding in series.findings:
            side = "" if finding.side == "none" else f", {finding.side}"
            reason = f" ({finding.reason.replace('_', ' ')})" if finding.reason else ""
            what = finding.presence.replace("_", " ")
            yield f"earlier series {uids}: {finding.finding.replace('_', ' ')} {what}{side}{reason}"
