"""Find the newest comparable earlier study at the peers that are asked for them, and fetch its images.

Nothing waits for this longer than `priors.time_limit_s`, and nothing that goes wrong here stops a study: the search
ends in the catalogue with a study or with the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TypedDict

from pydicom.dataset import Dataset

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.query import classes_of_series, series_of_study, studies_of_patient
from umit_pacs.dicom_network.retrieve import RetrievedObject, RetrieveLimits, Wanted, retrieve_by_get, retrieve_by_move
from umit_pacs.dicom_network.services import StoreRequest
from umit_pacs.dicom_network.statuses import Refusal, Status
from umit_pacs.dicom_network.supported_classes import image_classes_of
from umit_pacs.errors import PeerRefused, RetryLater, StoreFull, StudyUnusable, UmitPacsError
from umit_pacs.handoffs import InputSet, RoutingDecision, StoredInstance, StudyUID
from umit_pacs.pixels.attributes import text
from umit_pacs.pixels.headers import read_header
from umit_pacs.prior_files import TOO_BIG, IncomingPrior, forget_prior, images_of, prior_bytes, prior_instances
from umit_pacs.prior_studies import Patient, PriorBy, PriorState, PriorStudy, SeriesMatch, StudyMatch
from umit_pacs.routing.comparable import (
    NewStudy,
    compared_series,
    earlier_studies,
    series_to_compare,
    series_to_fetch,
    study_day,
)
from umit_pacs.routing.facts import SeriesFacts, StudyFacts, facts_from_text
from umit_pacs.routing.rules import Rule
from umit_pacs.settings import Settings
from umit_pacs.store.database import Catalogue, utc_now
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import instances_of_study
from umit_pacs.store.peers import Peer, peers
from umit_pacs.store.priors import (
    choose_prior,
    end_search,
    prior_search,
    prior_studies_in_use,
    record_fetched,
    unchoose_prior,
    want_prior,
)
from umit_pacs.store.results import own_uids
from umit_pacs.vocabulary import TemplateLibrary

#: earlier studies that are tried, the newest first: of some only the images tell that they cannot be compared.
_MOST_TRIED = 3
_MOST_OBJECTS = 5000
#: reason of a search that ended because nothing waits any longer.
TOO_LATE = "too_late"


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorFetcher:
    """What a process fetches earlier studies with."""

    catalogue: Catalogue
    files: PayloadFiles
    settings: Settings
    templates: TemplateLibrary
    #: what rules know of an input set.
    read_facts: Callable[[InputSet], StudyFacts]
    clock: Callable[[], datetime] = utc_now


class _NotComparable(Exception):
    """This study, or what came of it, cannot be compared with; `args` is a stable word."""


def begin_search(
    catalogue: Catalogue, settings: Settings, input_set: InputSet, decision: RoutingDecision, now: datetime
) -> bool:
    """Want an earlier study where a peer is asked for them and the answers can be compared; whether one is wanted."""
    if input_set.asked_by is not None or not _peers_to_ask(catalogue, input_set):
        return False
    if not decision.facts_text or not Rule.model_validate_json(decision.rule_text).action.compare:
        return False
    if not compared_series(facts_from_text(decision.facts_text), decision.orders):
        return False
    until = now + timedelta(seconds=settings.priors.time_limit_s)
    return want_prior(catalogue, input_set.input_set_id, until, now=now)


def fetch_prior(fetcher: PriorFetcher, input_set: InputSet, decision: RoutingDecision) -> None:
    """WANTED -> FETCHED, or NONE with the reason; in another state nothing happens."""
    search = prior_search(fetcher.catalogue, input_set.input_set_id)
    if search is None or search.state is not PriorState.WANTED:
        return
    run = _Search(fetcher, input_set, decision, search.until)
    try:
        found = run.found()
    except UmitPacsError as exc:
        end_fetching(fetcher, input_set.input_set_id, _reason(exc), exc.detail)
        return
    if found is None:
        end_fetching(fetcher, input_set.input_set_id, *run.why_none)
    elif not record_fetched(fetcher.catalogue, input_set.input_set_id, found):
        forget_unused(fetcher.catalogue, fetcher.files, found.study_instance_uid)


def end_fetching(fetcher: PriorFetcher, input_set_id: str, reason: str, detail: str = "") -> None:
    """WANTED -> NONE, and nothing is kept of what came; an earlier study that was chosen stays named."""
    search = prior_search(fetcher.catalogue, input_set_id)
    end_search(fetcher.catalogue, input_set_id, PriorState.WANTED, reason, detail)
    if search is not None and search.study_instance_uid:
        forget_unused(fetcher.catalogue, fetcher.files, search.study_instance_uid)


def forget_unused(catalogue: Catalogue, files: PayloadFiles, study_instance_uid: str) -> None:
    """Delete the images of an earlier study unless a search needs them."""
    if study_instance_uid not in prior_studies_in_use(catalogue):
        forget_prior(files, study_instance_uid)


def _peers_to_ask(catalogue: Catalogue, input_set: InputSet) -> list[Peer]:
    """Who sent the study first."""
    asked = [peer for peer in peers(catalogue) if peer.priors_by is not PriorBy.NO]
    return sorted(asked, key=lambda peer: peer.ae_title != input_set.calling_ae_title)


class _Asking(TypedDict):
    """How peers are asked."""

    calling_ae_title: str
    timeouts: NetworkTimeouts


class _Search:
    """The search for the earlier study of one input set."""

    def __init__(self, fetcher: PriorFetcher, input_set: InputSet, decision: RoutingDecision, until: datetime) -> None:
        self._fetcher, self._input_set, self._until = fetcher, input_set, until
        facts = facts_from_text(decision.facts_text)
        self._new = _new_study(input_set, fetcher.files, compared_series(facts, decision.orders))
        self._peers = {peer.name: peer for peer in _peers_to_ask(fetcher.catalogue, input_set)}
        #: reason and detail; what went wrong last counts.
        self.why_none = ("none_found", "")

    def found(self) -> PriorStudy | None:
        """The study whose images are here now; None for `why_none`.

        Only of a study that cannot be compared the next older one is tried: one that could be, and cannot be had, would
        make an older one look like the last. Raises UmitPacsError.
        """
        if reason := self._new.why_not_searched:
            self.why_none = (reason, "")
            return None
        for match in self._candidates():
            if self._left_s() <= 0:
                self.why_none = (TOO_LATE, "")
                break
            try:
                return self._fetched(match)
            except _NotComparable as exc:
                self.why_none = (str(exc.args[0]), "")
                unchoose_prior(self._fetcher.catalogue, self._input_set.input_set_id)
                forget_unused(self._fetcher.catalogue, self._fetcher.files, match.study_instance_uid)
        return None

    def _left_s(self) -> float:
        return (self._until - self._fetcher.clock()).total_seconds()

    def _candidates(self) -> Iterator[StudyMatch]:
        """What all peers offer, the newest first; a peer that does not answer is remembered."""
        found: list[StudyMatch] = []
        newest = study_day(self._new.study_date) or date.min
        oldest_days = self._fetcher.settings.priors.oldest_days
        days = (newest - timedelta(days=oldest_days), newest)
        for name, peer in self._peers.items():
            try:
                patient_id = self._new.patient.patient_id
                found += studies_of_patient(name, _address(peer), patient_id, days, **self._asking())
            except RetryLater as exc:
                self.why_none = (_reason(exc), exc.detail)
        candidates = earlier_studies(found, self._new, oldest_days=oldest_days, modalities=self._modalities())
        if not candidates.studies and candidates.passed_over:
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(candidates.passed_over.items()))
            reason = "other_patient" if "other_patient" in candidates.passed_over else "none_found"
            self.why_none = (reason, f"passed over: {counted.replace('_', ' ')}")
        yield from candidates.studies[:_MOST_TRIED]

    def _modalities(self) -> set[str]:
        """Those that are read with the templates of the new study's series."""
        modalities = {series.text("Modality").upper() for series in self._new.series}
        for series in self._new.series:
            modality, body_part = series.text("Modality").upper(), series.text("BodyPartExamined").upper()
            modalities.update(self._fetcher.templates.for_series(modality, body_part).modalities)
        return modalities

    def _asking(self) -> _Asking:
        """How peers are asked: no wait goes beyond the time limit by much."""
        settings, left_s = self._fetcher.settings, max(self._left_s(), 0.5)
        timeouts = NetworkTimeouts(
            connect_s=min(settings.deliver.connect_timeout_s, left_s),
            response_s=min(settings.deliver.response_timeout_s, left_s),
        )
        return _Asking(calling_ae_title=settings.listener.ae_title, timeouts=timeouts)

    def _fetched(self, match: StudyMatch) -> PriorStudy:
        """The images of this study, fetched and judged. Raises _NotComparable, RetryLater or StudyUnusable."""
        fetcher, peer = self._fetcher, self._peers[match.peer]
        offered = series_of_study(_address(peer), match.study_instance_uid, **self._asking())
        ours = own_uids(fetcher.catalogue, [series.series_instance_uid for series in offered])
        others = [series for series in offered if series.series_instance_uid not in ours]
        series = series_to_fetch(others, self._new.series, fetcher.templates)
        made = study_day(match.study_date)
        if not series or made is None:
            raise _NotComparable("no_comparable_series")
        if not choose_prior(
            fetcher.catalogue, self._input_set.input_set_id, match.study_instance_uid, made, match.peer
        ):
            raise _NotComparable(TOO_LATE)
        instances, fetched_by = self._instances_here(match.study_instance_uid, series), "here"
        if not instances:
            instances, fetched_by = self._retrieved(peer, match.study_instance_uid, series), peer.priors_by.value
        study = PriorStudy(
            study_instance_uid=StudyUID(match.study_instance_uid),
            study_date=made,
            peer=match.peer,
            fetched_by=fetched_by,
            instances=instances,
        )
        self._require_comparable(study)
        return study

    def _instances_here(self, study_uid: str, series: tuple[SeriesMatch, ...]) -> tuple[StoredInstance, ...]:
        """What was received of these series as a study, if that is all of them and the files are still there."""
        files = self._fetcher.files
        wanted = {one.series_instance_uid for one in series}
        here = [
            one for one in instances_of_study(self._fetcher.catalogue, study_uid) if one.series_instance_uid in wanted
        ]
        counts = {uid: sum(one.series_instance_uid == uid for one in here) for uid in wanted}
        is_all = all(one.instances is not None and counts[one.series_instance_uid] >= one.instances for one in series)
        has_files = all(files.path(one.relative_path).is_file() for one in here)
        return tuple(here) if here and is_all and has_files else ()

    def _retrieved(self, peer: Peer, study_uid: str, series: tuple[SeriesMatch, ...]) -> tuple[StoredInstance, ...]:
        """The images of these series, durable in the folder of earlier studies. Raises RetryLater or StoreFull."""
        fetcher = self._fetcher
        priors = fetcher.settings.priors
        if fetcher.files.free_bytes() < fetcher.settings.store.minimum_free_bytes:
            raise StoreFull
        uids = tuple(one.series_instance_uid for one in series)
        for one in series:
            uid = one.series_instance_uid
            wanted = Wanted(study_instance_uid=study_uid, series_instance_uids=(uid,))
            limits = RetrieveLimits(
                objects=_MOST_OBJECTS, size_bytes=priors.maximum_bytes, time_s=max(self._left_s(), 0.1)
            )
            if peer.priors_by is PriorBy.MOVE:
                ended = retrieve_by_move(
                    _address(peer), wanted, destination_ae_title=priors.ae_title, limits=limits, **self._asking()
                )
            else:
                classes = classes_of_series(_address(peer), study_uid, uid, **self._asking())
                ended = retrieve_by_get(
                    _address(peer),
                    wanted,
                    self._keep,
                    sop_classes=classes or image_classes_of(one.modality),
                    limits=limits,
                    **self._asking(),
                )
            if prior_bytes(fetcher.files, study_uid) > priors.maximum_bytes:
                raise PeerRefused(f"it has more than {priors.maximum_bytes} bytes", reason=TOO_BIG)
            if ended.failed:
                raise PeerRefused(f"{ended.failed} of its images did not come", reason="not_all_came")
        instances = tuple(one for one in prior_instances(fetcher.files, study_uid) if one.series_instance_uid in uids)
        if not instances:
            raise PeerRefused("none of its images came", reason="not_all_came")
        return instances

    def _keep(self, came: RetrievedObject) -> None:
        """One object of a C-GET, made durable. Raises PeerRefused with the reason that it was refused for."""
        fetcher, meta = self._fetcher, came.meta
        request = StoreRequest(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            calling_ae_title=meta.sending_ae_title,
            called_ae_title=fetcher.settings.priors.ae_title,
            peer_host=meta.sending_host,
        )
        incoming = IncomingPrior(
            request,
            fetcher.files,
            lambda uid: uid in prior_studies_in_use(fetcher.catalogue, wanted_only=True),
            maximum_bytes=fetcher.settings.priors.maximum_bytes,
        )
        try:
            incoming.write(came.data_set)
            answer = incoming.finish()
        except Refusal as exc:
            incoming.abandon()
            raise PeerRefused("an image of it was not taken", reason=exc.reason) from exc
        except BaseException:
            incoming.abandon()
            raise
        if answer.status is not Status.SUCCESS:
            raise PeerRefused("an image of it was not taken", reason=answer.reason)

    def _require_comparable(self, study: PriorStudy) -> None:
        """Raise _NotComparable unless headers and geometry of what came bear out what the archive said."""
        headers = _headers(study.instances, self._fetcher.files)
        if not headers or any(self._new.patient.is_other(_patient(header)) for header in headers):
            raise _NotComparable("other_patient")
        if any(str(header.get("StudyDate") or "").strip() != f"{study.study_date:%Y%m%d}" for header in headers):
            raise _NotComparable("other_date")
        facts = self._fetcher.read_facts(images_of(study))
        if not series_to_compare(facts, self._new.series, self._fetcher.templates):
            raise _NotComparable("no_comparable_series")


def _new_study(input_set: InputSet, files: PayloadFiles, series: tuple[SeriesFacts, ...]) -> NewStudy:
    """What the first readable header says of the study."""
    (header, *_) = _headers(input_set.instances, files, at_most=1) or [Dataset()]
    return NewStudy(
        study_instance_uid=input_set.study_instance_uid,
        patient=_patient(header),
        study_date=text(header, "StudyDate"),
        study_time=text(header, "StudyTime"),
        series=series,
    )


def _headers(instances: tuple[StoredInstance, ...], files: PayloadFiles, at_most: int = 0) -> list[Dataset]:
    """Those that can be read, in order."""
    found: list[Dataset] = []
    for instance in instances:
        try:
            found.append(read_header(files.path(instance.relative_path)))
        except (StudyUnusable, FileNotFoundError):
            continue
        if at_most and len(found) == at_most:
            break
    return found


def _patient(header: Dataset) -> Patient:
    return Patient(
        patient_id=text(header, "PatientID"),
        issuer=text(header, "IssuerOfPatientID"),
        birth_date=text(header, "PatientBirthDate"),
    )


def _address(peer: Peer) -> PeerAddress:
    return PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port)


def _reason(exc: UmitPacsError) -> str:
    """A limit by one word whoever noticed it."""
    return {"too_slow": TOO_LATE, "too_many_bytes": TOO_BIG, "too_many_objects": TOO_BIG}.get(exc.reason, exc.reason)
