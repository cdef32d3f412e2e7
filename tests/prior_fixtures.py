"""Two studies of one patient, a year apart, and the facts that they give."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import generate_uid

from tests.phantoms import Study, write_cr_image
from tests.receive_fixtures import receiver_settings
from tests.result_fixtures import input_set_of
from umit_pacs.dicom_network.addresses import PeerAddress
from umit_pacs.handoffs import InputSet, RoutingDecision, SeriesUID
from umit_pacs.prior_studies import Patient, PriorBy, PriorSearch, StudyMatch
from umit_pacs.routing.comparable import NewStudy
from umit_pacs.routing.facts import SeriesFacts
from umit_pacs.routing.rules_text import parse_rules
from umit_pacs.settings import PriorSettings, Settings
from umit_pacs.states import InputSetState
from umit_pacs.steps.fetch_prior import PriorFetcher, begin_search, fetch_prior
from umit_pacs.steps.route import read_facts, route
from umit_pacs.store.database import Catalogue, migrate, open_catalogue, utc_now
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import record_instances
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.priors import prior_search
from umit_pacs.store.results import record_decision
from umit_pacs.store.studies import change_state, create_input_set
from umit_pacs.vocabulary import TemplateLibrary, load_templates

PATIENT = Patient(patient_id="PAT-0001", issuer="", birth_date="19600214")


def new_study(**changes: Any) -> NewStudy:
    """A chest radiograph of 2 March 2026, 10:15."""
    told = NewStudy(
        study_instance_uid="2.25.1",
        patient=PATIENT,
        study_date="20260302",
        study_time="101500",
        series=(series_facts("2.25.11"),),
    )
    return replace(told, **changes)


def series_facts(uid: str, **values: Any) -> SeriesFacts:
    """A frontal chest radiograph."""
    view = values.pop("ViewPosition", "PA")
    known = {"Modality": "CR", "BodyPartExamined": "CHEST", "number_of_slices": 1.0, "is_volume": False} | values
    images = ({"ViewPosition": (view,)},) if view else ()
    return SeriesFacts(
        series_instance_uid=SeriesUID(uid), values={key: (value,) for key, value in known.items()}, images=images
    )


def match(uid: str, date: str, time: str = "", **changes: Any) -> StudyMatch:
    """What an archive says of one study."""
    return replace(
        StudyMatch(peer="pacs", study_instance_uid=uid, patient=PATIENT, study_date=date, study_time=time), **changes
    )


def study_of(date: str, **changes: Any) -> Study:
    """A study of the patient on this day."""
    return Study(date=date, study_instance_uid=generate_uid(), **changes)


def write_radiograph(folder: Path, study: Study, *, seed: int = 1, **more: Any) -> Path:
    """A grainy chest radiograph without meaning."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(500, 3500, size=(64, 64))
    return write_cr_image(folder, pixels, study=study, **more)


RULES = """
[[rules]]
name = "chest"
when = [{ field = "Modality", op = "is_one_of", value = ["CR", "DX", "CT"] }]
action = { findings = ["all"], mode = "shadow" }
"""


@dataclass
class PriorNode:
    """A node without processes that has a routed study and looks for an earlier one."""

    folder: Path
    catalogue: Catalogue
    files: PayloadFiles
    settings: Settings
    input_set: InputSet
    decision: RoutingDecision
    templates: TemplateLibrary = field(default_factory=load_templates)

    @property
    def fetcher(self) -> PriorFetcher:
        return PriorFetcher(
            catalogue=self.catalogue,
            files=self.files,
            settings=self.settings,
            templates=self.templates,
            read_facts=lambda input_set: read_facts(input_set, self.files),
        )

    def knows(self, peer: PeerAddress, priors_by: PriorBy, name: str = "pacs") -> None:
        """Make a running program a peer that is asked for earlier studies."""
        added = Peer(name=name, ae_title=peer.ae_title, host=peer.host, port=peer.port, priors_by=priors_by)
        add_peer(self.catalogue, added)

    def search(self, **priors: Any) -> PriorSearch:
        """Begin a search and bring it to its end."""
        self.begin(**priors)
        fetch_prior(self.fetcher, self.input_set, self.decision)
        return self.found()

    def begin(self, **priors: Any) -> bool:
        self.settings = self.settings.model_copy(update={"priors": PriorSettings(**priors)})
        return begin_search(self.catalogue, self.settings, self.input_set, self.decision, utc_now())

    def found(self) -> PriorSearch:
        search = prior_search(self.catalogue, self.input_set.input_set_id)
        assert search is not None
        return search

    def kept_files(self) -> list[Path]:
        return sorted(self.files.priors_folder.rglob("*.dcm"))


def routed_node(folder: Path, study: Study | None = None, **image: Any) -> PriorNode:
    """A node that has received and routed one chest radiograph."""
    settings = receiver_settings(folder)
    migrate(settings.catalogue_url)
    catalogue, files = open_catalogue(settings.catalogue_url), PayloadFiles(folder)
    write_radiograph(folder / "instances", study or study_of("20260302"), **image)
    input_set = input_set_of(folder / "instances", folder)
    record_instances(catalogue, input_set.instances)
    assert create_input_set(catalogue, input_set)
    decision = record_decision(catalogue, route(input_set, parse_rules(RULES), 1, files))
    change_state(catalogue, input_set.input_set_id, InputSetState.ROUTED)
    return PriorNode(
        folder=folder, catalogue=catalogue, files=files, settings=settings, input_set=input_set, decision=decision
    )
