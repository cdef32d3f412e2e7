"""retire: what does not stand any more is taken back wherever it was sent.

A later version takes back the earlier ones, and a study that a person retracts takes back everything. What was never
sent is only not sent any more. What a destination has, or may have got although its answer did not come, is named by a
rejection note (IHE IOCM) where the peer is said to understand it, else by a notice that people read.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydicom.dataset import Dataset

from umit_pacs.errors import ResultInvalid, StudyUnusable
from umit_pacs.handoffs import Language, ObjectKind, ResultObject, StudyUID
from umit_pacs.pixels.headers import read_header
from umit_pacs.reporting_systems.reports import REPORTS, keep_report, spoken_by
from umit_pacs.result_objects.check import check_object
from umit_pacs.result_objects.encode import encode, result_object
from umit_pacs.result_objects.notice import notice
from umit_pacs.result_objects.provenance import Provenance
from umit_pacs.result_objects.rejection_note import rejection_note
from umit_pacs.result_objects.sources import SourceStudy, header_text
from umit_pacs.result_objects.uids import UIDs
from umit_pacs.result_objects.withdrawal import Withdrawal
from umit_pacs.settings import ComposeSettings
from umit_pacs.states import InputSetState, PeerKind, RejectionReason, RetireBy
from umit_pacs.store import results
from umit_pacs.store.database import Catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.peers import peer
from umit_pacs.store.studies import InputSetStatus, input_set, input_set_status
from umit_pacs.store.withdrawals import PlannedNote, Standing, standing, withdraw
from umit_pacs.vocabulary import load_phrases


@dataclass(frozen=True, kw_only=True, slots=True)
class Retirer:
    """What the step works with."""

    catalogue: Catalogue
    files: PayloadFiles
    settings: ComposeSettings
    #: whether nothing of an input set is being sent at this moment.
    is_at_rest: Callable[[str], bool]
    #: raises when another process has taken the input set over.
    assert_may_act: Callable[[], None]


def retire(retirer: Retirer, input_set_id: str) -> bool:
    """Take back what this input set has to, and plan the notes about it; the same again does nothing.

    Returns False when something of it is being sent at this moment, so that it has to be tried again in a while.
    Raises ResultInvalid when a note fails its check, StudyUnusable when the files of what is taken back are gone.
    """
    found = standing(retirer.catalogue, input_set_id)
    if not found:
        return True
    if not all(retirer.is_at_rest(concerned) for concerned in {item.input_set_id for item in found}):
        return False
    notes = [_note(retirer, input_set_id, group) for group in _groups(retirer, found)]
    retirer.assert_may_act()
    return withdraw(retirer.catalogue, input_set_id, found, notes)


@dataclass(kw_only=True, slots=True)
class _Group:
    """Destinations that are told of the same objects in the same way."""

    by: RetireBy
    results: tuple[ResultObject, ...]
    #: the version that the last of them belongs to.
    input_set_id: str
    peers: list[str] = field(default_factory=list)
    delivery_ids: list[int] = field(default_factory=list)


def _groups(retirer: Retirer, found: Sequence[Standing]) -> list[_Group]:
    of_peer: dict[tuple[str, PeerKind], list[Standing]] = defaultdict(list)
    for item in found:
        if item.has_begun:
            of_peer[item.peer, spoken_by(item.result.kind)].append(item)
    groups: dict[tuple[object, ...], _Group] = {}
    for (name, _), items in of_peer.items():
        known = peer(retirer.catalogue, name)
        by = known.retire_by if known is not None else RetireBy.NOTICE
        named = tuple(item.result for item in items)
        group = groups.setdefault((by, named), _Group(by=by, results=named, input_set_id=items[-1].input_set_id))
        group.peers.append(name)
        group.delivery_ids += [item.delivery_id for item in items]
    return list(groups.values())


def _note(retirer: Retirer, input_set_id: str, group: _Group) -> PlannedNote:
    """The group's note, composed, checked and durable."""
    status = input_set_status(retirer.catalogue, input_set_id)
    if group.results[0].kind in REPORTS:
        note = _report_note(retirer, status, group)
    else:
        header = _header(retirer.files, group.results)
        withdrawal = _withdrawal(status, group.results, header)
        made = _provenance(retirer, status, group, header)
        kind = ObjectKind.REJECTION_NOTE if group.by is RetireBy.IOCM else ObjectKind.NOTICE
        ds = (rejection_note if group.by is RetireBy.IOCM else notice)(withdrawal, made)
        note = _keep(ds, kind, input_set_id, group.results, retirer.files)
    return PlannedNote(note=note, peers=tuple(group.peers), delivery_ids=tuple(group.delivery_ids))


def _report_note(retirer: Retirer, status: InputSetStatus, group: _Group) -> ResultObject:
    """What takes reports back at reporting systems; the reports themselves say whose they are."""
    report = REPORTS[group.results[0].kind]
    made = _provenance(retirer, status, group, Dataset())
    uid = made.uids.instance(report.withdrawal, 1)

    def write() -> bytes:
        reports = [retirer.files.path(result.relative_path).read_bytes() for result in group.results]
        return report.take_back(reports, _withdrawal(status, group.results, Dataset()), made, uid)

    return keep_report(report.withdrawal, uid, made, write, input_set_id=status.input_set_id, files=retirer.files)


def _withdrawal(status: InputSetStatus, named: tuple[ResultObject, ...], header: Dataset) -> Withdrawal:
    """Patient safety, quality or what the person said; what is only superseded was not wrong, so that is quality."""
    is_retracted = status.state is InputSetState.RETRACTING
    made_on = header_text(header, "ContentDate")
    return Withdrawal(
        results=named,
        reason=RejectionReason(status.reason) if is_retracted else RejectionReason.QUALITY,
        is_superseded=not is_retracted,
        detail=status.detail if is_retracted else "",
        made_on=f"{made_on[:4]}-{made_on[4:6]}-{made_on[6:8]}" if len(made_on) == 8 else "",
    )


def _header(files: PayloadFiles, named: Sequence[ResultObject]) -> Dataset:
    """Of the first object whose file can be read: it says whom and what study the note belongs to."""
    for result in named:
        try:
            return read_header(files.path(result.relative_path))
        except (StudyUnusable, FileNotFoundError):
            continue
    raise StudyUnusable("no file of what is to be taken back can be read", reason="stored_file_missing")


def _provenance(retirer: Retirer, status: InputSetStatus, group: _Group, header: Dataset) -> Provenance:
    """The device that made the drafts takes them back; its note depends on what it says alone."""
    found = results.findings(retirer.catalogue, group.input_set_id)
    decision = results.decision(retirer.catalogue, group.input_set_id)
    assert found is not None, "what has results has findings"
    model = found.model
    uids = UIDs(
        root=retirer.settings.uid_root,
        run=(status.input_set_id, group.by, status.reason, *(result.sop_instance_uid for result in group.results)),
        algorithm=(model.name, model.version, model.sha256, model.quantisation),
    )
    return Provenance(
        source=_source(header, input_set(retirer.catalogue, status.input_set_id).study_instance_uid, status.changed_at),
        model=model,
        uids=uids,
        words=load_phrases(retirer.settings.templates_folder).in_language(
            decision.language if decision is not None else Language.ENGLISH
        ),
        institution_name=retirer.settings.institution_name,
        device_serial_number=retirer.settings.device_serial_number,
        predecessor=group.results,
    )


def _source(header: Dataset, study_instance_uid: StudyUID, made_at: datetime) -> SourceStudy:
    return SourceStudy(
        study_instance_uid=study_instance_uid,
        header=header,
        series={},
        image_numbers={},
        image_count=0,
        composed_at=made_at,
    )


def _keep(
    ds: Dataset, kind: ObjectKind, input_set_id: str, named: Sequence[ResultObject], files: PayloadFiles
) -> ResultObject:
    """Check the note, then keep its file; bytes that an earlier attempt kept stay as they are."""
    uid = str(ds.SOPInstanceUID)
    try:
        content = encode(ds)
    except (ValueError, TypeError) as exc:
        raise ResultInvalid(f"the {kind} cannot be encoded ({type(exc).__name__})") from exc
    sources = [result.sop_instance_uid for result in named]
    check_object(content, study_instance_uid=str(ds.StudyInstanceUID), source_instances=sources)
    mark = hashlib.sha256(uid.encode("ascii")).hexdigest()[:12]
    relative_path = f"results/{input_set_id}/{kind}.{mark}.dcm"
    path = files.path(relative_path)
    if path.exists():
        content = path.read_bytes()
    sha256, size_bytes = files.write_durably(relative_path, [content])
    return result_object(ds, kind, relative_path=relative_path, sha256=sha256, size_bytes=size_bytes)
