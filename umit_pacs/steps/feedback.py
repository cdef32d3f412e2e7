"""feedback: what radiologists made of drafts, from assessments, final reports and reviews.

Each is set against the exact draft that it is about: the version, its checkpoint and its rule. Of a report's text only
the comparison is kept. A draft that a person rejects is retracted; one that a final report contradicts is not, because
the report itself stands beside it then. What cannot be used is recorded with its reason, and its file stays.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pydicom
from pydicom.dataset import Dataset

from umit_pacs.errors import StudyUnusable, UmitPacsError
from umit_pacs.finding_phrases import Stated
from umit_pacs.handoffs import (
    Findings,
    InputSet,
    Language,
    ObjectKind,
    RoutingDecision,
    SeriesUID,
    StoredInstance,
    Task,
)
from umit_pacs.hl7_network.messages import FinalReport
from umit_pacs.pixels.headers import read_header
from umit_pacs.result_objects.reading import ReadSeries, read_findings
from umit_pacs.result_objects.received_report import Judgement, ReceivedReport, ReportUnreadable, read_received_report
from umit_pacs.result_objects.sources import SourceStudy, describe_series, header_text
from umit_pacs.result_objects.statements import OVERALL
from umit_pacs.states import RejectionReason
from umit_pacs.store import results
from umit_pacs.store.database import Catalogue
from umit_pacs.store.feedback import (
    Feedback,
    drafted_version,
    input_set_of_result,
    newest_drafts,
    record_feedback,
    unread_reports,
)
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.guardings import guarded
from umit_pacs.store.studies import input_set as stored_input_set
from umit_pacs.store.withdrawals import retract_study
from umit_pacs.umit_model.report_reading import read_report
from umit_pacs.verdicts import (
    Comment,
    FeedbackSource,
    FindingFeedback,
    FindingVerdict,
    Verdict,
    compared,
    verdict_of,
)
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary, load_phrases

log = logging.getLogger(__name__)

_CHINESE = re.compile(r"[一-鿿]")
_WORD = re.compile(r"[一-鿿]|\w+")
#: words of a report beyond these are not compared; no report has as many.
_MOST_WORDS = 2000
#: a report that is signed after so many newer drafts is matched by its Study Instance UID only.
_MOST_DRAFTS_LOOKED_AT = 500
#: a radiologist's rejection, in the words that go to every destination.
REJECTED_BY_A_PERSON = "the radiologist rejected the draft"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackReader:
    """What the step works with."""

    catalogue: Catalogue
    files: PayloadFiles
    templates: TemplateLibrary


def read_reports(reader: FeedbackReader) -> int:
    """Look at every structured report that came since; returns how many told something of a draft."""
    told = 0
    for instance in unread_reports(reader.catalogue):
        given = replace(_of_instance(reader, instance), received_at=instance.received_at)
        told += _record(reader, given)
    return told


def take_final_message(reader: FeedbackReader, report: FinalReport) -> Feedback:
    """Set a final report that came as an HL7 message against its study's draft; what was recorded.

    The same message again is recorded once.
    """
    digest = hashlib.sha256(f"{report.control_id}\0{report.study_instance_uid}\0{report.text}".encode()).hexdigest()
    empty = Feedback(document=f"hl7:{digest[:48]}", source=FeedbackSource.FINAL_MESSAGE)
    study_uid = report.study_instance_uid or _study_with(reader, report.accession_numbers)
    given = _final_report(reader, empty, study_uid, report.text)
    _record(reader, given)
    return given


def _study_with(reader: FeedbackReader, accession_numbers: Sequence[str]) -> str:
    """The drafted study whose images carry one of these accession numbers; "" for none or several.

    The catalogue knows no accession numbers, so the headers of the newest drafts are looked at.
    """
    wanted = set(accession_numbers)
    found: set[str] = set()
    for version in newest_drafts(reader.catalogue, _MOST_DRAFTS_LOOKED_AT) if wanted else ():
        try:
            header = read_header(reader.files.path(version.instances[0].relative_path))
        except (StudyUnusable, FileNotFoundError):
            continue
        if header_text(header, "AccessionNumber") in wanted:
            found.add(version.study_instance_uid)
    return found.pop() if len(found) == 1 else ""


def take_review(
    reader: FeedbackReader, document: str, study_uid: str, verdict: Verdict, findings: Mapping[str, FindingFeedback]
) -> Feedback:
    """Record what a person says of a study's draft on this node. Raises UmitPacsError when there is no such draft."""
    version = drafted_version(reader.catalogue, study_uid)
    if version is None:
        raise UmitPacsError("there is no draft of the study")
    draft = _Draft(reader, version)
    if unknown := sorted(set(findings) - draft.known_findings):
        raise UmitPacsError(f"no such finding: {', '.join(unknown)}; known: {', '.join(sorted(draft.known_findings))}")
    told = tuple(replace(item, drafted=draft.stated.get(key)) for key, item in findings.items())
    if not told and verdict is not Verdict.EDITED:
        same = FindingVerdict.ACCEPTED if verdict is Verdict.ACCEPTED else FindingVerdict.REJECTED
        told = tuple(
            FindingFeedback(finding=key, verdict=same, drafted=stated)
            for key, stated in draft.stated.items()
            if stated.is_positive or same is FindingVerdict.ACCEPTED
        )
    empty = Feedback(document=document, source=FeedbackSource.REVIEW)
    given = replace(draft.identified(empty), verdict=verdict, findings=told)
    _record(reader, given)
    return given


def _record(reader: FeedbackReader, given: Feedback) -> bool:
    """Keep it once; a draft that a person rejects is retracted. Whether it told something new of a draft."""
    is_new = record_feedback(reader.catalogue, given)
    fields = {"source": given.source.value, "verdict": given.verdict and given.verdict.value, "reason": given.reason}
    if is_new:
        log.info("feedback_recorded", extra={"input_set_id": given.input_set_id, **fields})
    is_persons = given.source in {FeedbackSource.ASSESSMENT, FeedbackSource.REVIEW}
    if is_new and is_persons and given.verdict is Verdict.REJECTED and _is_newest(reader, given):
        retract_study(reader.catalogue, given.study_instance_uid, RejectionReason.PATIENT_SAFETY, REJECTED_BY_A_PERSON)
    return is_new and given.verdict is not None


def _is_newest(reader: FeedbackReader, given: Feedback) -> bool:
    """A verdict on an earlier version says nothing against the one that has taken its place."""
    newest = drafted_version(reader.catalogue, given.study_instance_uid)
    return newest is not None and newest.input_set_id == given.input_set_id


# --- documents ---------------------------------------------------------------------------------------------------


def _of_instance(reader: FeedbackReader, instance: StoredInstance) -> Feedback:
    """What a received structured report tells of a draft, or why it tells nothing."""
    empty = Feedback(
        document=instance.sop_instance_uid,
        source=FeedbackSource.FINAL_REPORT,
        study_instance_uid=instance.study_instance_uid,
    )
    try:
        report = read_received_report(reader.files.path(instance.relative_path))
    except ReportUnreadable as exc:
        return replace(empty, reason="unreadable", detail=exc.detail)
    if report.judgements:
        return _assessment(reader, replace(empty, source=FeedbackSource.ASSESSMENT), report)
    if not (report.is_verified and report.is_complete):
        return replace(empty, reason="not_verified", detail="it is no complete and verified report")
    return _final_report(reader, empty, instance.study_instance_uid, report.text)


def _assessment(reader: FeedbackReader, empty: Feedback, report: ReceivedReport) -> Feedback:
    about = input_set_of_result(reader.catalogue, report.references)
    if about is None:
        return replace(empty, reason="unknown_result", detail="it assesses nothing that was made here")
    draft = _Draft(reader, stored_input_set(reader.catalogue, about))
    findings = tuple(draft.judged(judgement) for judgement in report.judgements if not judgement.is_overall)
    overall = next((judgement.verdict for judgement in report.judgements if judgement.is_overall), None)
    return replace(draft.identified(empty), verdict=_overall(overall, findings), findings=findings)


def _overall(said: FindingVerdict | None, findings: Sequence[FindingFeedback]) -> Verdict:
    """What is said of the whole; else what follows from its findings."""
    if said is None:
        return verdict_of(findings)
    if said is FindingVerdict.REJECTED:
        return Verdict.REJECTED
    follows = verdict_of(findings)
    return Verdict.EDITED if said is not FindingVerdict.ACCEPTED or follows is not Verdict.ACCEPTED else follows


def _final_report(reader: FeedbackReader, empty: Feedback, study_uid: str, text: str) -> Feedback:
    empty = replace(empty, study_instance_uid=study_uid)
    version = drafted_version(reader.catalogue, study_uid) if study_uid else None
    if version is None:
        return replace(empty, reason="no_draft", detail="no draft of this study was made here")
    draft = _Draft(reader, version)
    final = draft.read(text)
    findings = compared(draft.stated, final)
    if not findings:
        return replace(
            draft.identified(empty), reason="nothing_compared", detail="it speaks of no finding that the draft could"
        )
    return replace(
        draft.identified(empty),
        verdict=Verdict.ACCEPTED if verdict_of(findings) is Verdict.ACCEPTED else Verdict.EDITED,
        findings=findings,
        text_change=draft.change_to(text),
    )


# --- the draft ---------------------------------------------------------------------------------------------------


class _Draft:
    """What one version of a study's draft states."""

    def __init__(self, reader: FeedbackReader, version: InputSet) -> None:
        self._reader = reader
        self._version = version
        found = results.findings(reader.catalogue, version.input_set_id)
        decided = results.decision(reader.catalogue, version.input_set_id)
        assert found is not None, "what has results has findings"
        assert decided is not None, "what has findings has a decision"
        self._findings: Findings = found
        self._decision: RoutingDecision = decided

    @cached_property
    def _series(self) -> tuple[ReadSeries, ...]:
        looked = guarded(self._reader.catalogue, self._version.input_set_id)
        return read_findings(
            self._findings,
            _source(self._version, self._reader.files),
            self._reader.templates,
            load_phrases().in_language(self._decision.language),
            looked.faults if looked is not None else (),
        )

    @cached_property
    def stated(self) -> dict[str, Stated]:
        """What the draft states of each finding."""
        stated: dict[str, Stated] = {}
        for statement in (each for series in self._series for each in series.statements):
            if statement.finding != OVERALL:
                said = Stated(presence=statement.presence, side=statement.side)
                before = stated.get(statement.finding)
                stated[statement.finding] = said if before is None else _together(before, said)
        return stated

    @property
    def templates(self) -> tuple[SRTemplate, ...]:
        return tuple({series.template.key: series.template for series in self._series}.values())

    @property
    def known_findings(self) -> set[str]:
        return {key for template in self.templates for key in template.findings}

    def identified(self, given: Feedback) -> Feedback:
        """The feedback with the exact draft that it is about."""
        model = self._findings.model
        return replace(
            given,
            study_instance_uid=self._version.study_instance_uid,
            input_set_id=self._version.input_set_id,
            checkpoint=model.name,
            checkpoint_version=model.version,
            checkpoint_sha256=model.sha256,
            rule=self._decision.rule or "",
            rules_version=self._decision.rules_version,
        )

    def read(self, text: str) -> dict[str, Stated]:
        """What a report in English or Chinese states of the findings that the draft's templates know."""
        language = _language(text)
        read: dict[str, Stated] = {}
        for template in self.templates:
            of_template = read_report(text, template, language)
            read |= {key: stated for key, stated in of_template.items() if key in template.findings}
        return read

    def change_to(self, text: str) -> float | None:
        """Share of words that differ between the draft's report text and another; None where that cannot be said."""
        own = "\n".join(result.text for result in self._findings.results if result.order.task is Task.REPORT)
        if not own.strip() or self._decision.language is not _language(text):
            return None
        drafted, final = (_WORD.findall(one.casefold())[:_MOST_WORDS] for one in (own, text))
        return round(1.0 - difflib.SequenceMatcher(a=drafted, b=final, autojunk=False).ratio(), 4)

    def judged(self, judgement: Judgement) -> FindingFeedback:
        """One verdict of an assessment on the finding that it means; on "" where that is not known."""
        code = judgement.finding_code or self._finding_code(judgement.tracking_uid)
        found = [
            key for template in self.templates for key, term in template.findings.items() if term.code.value == code
        ]
        # Several findings may share a code; the draft's own comes first.
        key = next((key for key in found if key in self.stated), found[0] if found else "")
        is_about_side = judgement.comment is Comment.WRONG_SIDE and judgement.verdict is FindingVerdict.MODIFIED
        return FindingFeedback(
            finding=key,
            verdict=FindingVerdict.LATERALITY if is_about_side else judgement.verdict,
            drafted=self.stated.get(key),
            comment=judgement.comment,
        )

    def _finding_code(self, tracking_uid: str) -> str:
        """The code of the finding that our regions carry under this Tracking Unique Identifier."""
        for result in results.result_objects(self._reader.catalogue, self._version.input_set_id):
            if result.kind is ObjectKind.MEASUREMENT_REPORT and tracking_uid:
                ds = pydicom.dcmread(self._reader.files.path(result.relative_path))
                if code := _code_of_group(ds, tracking_uid):
                    return code
        return ""


def _code_of_group(parent: Dataset, tracking_uid: str) -> str:
    children = list(parent.get("ContentSequence") or [])
    if any(child.get("UID") == tracking_uid for child in children):
        for child in children:
            name = (child.get("ConceptNameCodeSequence") or [Dataset()])[0]
            if name.get("CodeValue") == "121071":
                return str(child.ConceptCodeSequence[0].CodeValue)
    return next((code for child in children if (code := _code_of_group(child, tracking_uid))), "")


def _source(version: InputSet, files: PayloadFiles) -> SourceStudy:
    """What the headers say of sides; a series whose files are gone says nothing of them."""
    headers: dict[SeriesUID, Dataset] = {}
    for instance in version.instances:
        if instance.series_instance_uid not in headers:
            try:
                headers[instance.series_instance_uid] = read_header(files.path(instance.relative_path))
            except (StudyUnusable, FileNotFoundError):
                continue
    return SourceStudy(
        study_instance_uid=version.study_instance_uid,
        header=next(iter(headers.values()), Dataset()),
        series={uid: describe_series(uid, header) for uid, header in headers.items()},
        image_numbers={},
        image_count=len(version.instances),
        composed_at=max(instance.received_at for instance in version.instances),
    )


def _together(one: Stated, other: Stated) -> Stated:
    """Two statements of one draft about one finding: what is surest counts, and its side where one is known."""
    ranks = ("present", "uncertain", "absent")
    first, second = sorted((one, other), key=lambda stated: ranks.index(stated.presence))
    return first if first.side != "none" or first.presence != second.presence else second


def _language(text: str) -> Language:
    return Language.CHINESE if _CHINESE.search(text) else Language.ENGLISH


def parsed_findings(given: Iterable[str]) -> dict[str, FindingFeedback]:
    """Findings as a person types them: `nodule=rejected:not_there`. Raises UmitPacsError."""
    found = {}
    for text in given:
        key, _, said = text.partition("=")
        verdict, _, comment = said.partition(":")
        if verdict not in set(FindingVerdict) or (comment and comment not in set(Comment)):
            raise UmitPacsError(
                f"{text!r}: finding=verdict[:comment], with a verdict of {', '.join(FindingVerdict)} and a comment of "
                f"{', '.join(Comment)}"
            )
        found[key] = FindingFeedback(
            finding=key, verdict=FindingVerdict(verdict), comment=Comment(comment) if comment else None
        )
    return found
