"""A study whose drafts are composed and returned by the pipeline's own steps, in versions, without a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.peer_programs import ForeignPeer
from tests.phantoms import Study, write_cr_image
from tests.result_fixtures import Run, chest_pixels, radiograph_results, run_of
from umit_pacs.durable_work import WorkStarter, prepare_workflow_database
from umit_pacs.handoffs import Language, ModelIdentity
from umit_pacs.interventions import run_again
from umit_pacs.pipeline import confirm_what_was_sent, send_what_is_due, write_results
from umit_pacs.settings import DeliverSettings, Settings, StoreSettings
from umit_pacs.states import END_STATES, InputSetState
from umit_pacs.steps.assemble import input_set_of
from umit_pacs.steps.reconcile import Reconciliation, reconcile
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.deliveries import Delivery, deliveries
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import record_instances
from umit_pacs.store.leases import heartbeat, hold_lease
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.results import record_decision, record_findings
from umit_pacs.store.studies import InputSetStatus, change_state, create_input_set, input_set_status, newest_input_set
from umit_pacs.vocabulary import load_templates
from umit_pacs.worker_boundary import Tools, equip


@dataclass
class VersionedStudy:
    """One radiograph study of a node without processes; steps are called, not waited for."""

    folder: Path
    tools: Tools
    study: Study = field(default_factory=Study)
    #: by name of the destination.
    destinations: list[str] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return self.study.study_instance_uid

    def add_destination(self, name: str, peer: ForeignPeer, **abilities: Any) -> None:
        address = peer.address
        found = Peer(
            name=name,
            ae_title=address.ae_title,
            host=address.host,
            port=address.port,
            receives_results=True,
            **{"answers_query": True, **abilities},
        )
        add_peer(self.tools.catalogue, found)
        self.destinations.append(name)

    def image_arrives(self, **decided: Any) -> str:
        """One more image makes a new version, which is answered by hand; its id."""
        number = len(list((self.folder / "instances").rglob("*.dcm")))
        write_cr_image(self.folder / "instances" / str(number), chest_pixels(120 + number, 100), study=self.study)
        run = self._run(**decided)
        newest = newest_input_set(self.tools.catalogue, self.uid)
        record_instances(self.tools.catalogue, run.input_set.instances)
        input_set = replace(
            input_set_of(run.input_set.instances, run.input_set.completed_by),
            predecessor_id=newest.input_set_id if newest is not None else None,
        )
        assert create_input_set(self.tools.catalogue, input_set)
        self._answered(run, input_set.input_set_id)
        return input_set.input_set_id

    def is_run_again(self, *, model: ModelIdentity | None = None, **decided: Any) -> str:
        """A person runs the study again, and it is answered by hand; its id."""
        input_set_id = run_again(self.tools.catalogue, self.uid)
        run = self._run(**decided)
        self._answered(replace(run, findings=replace(run.findings, model=model or run.findings.model)), input_set_id)
        return input_set_id

    def compose(self, input_set_id: str) -> None:
        hold_lease(self.tools.catalogue, self.tools.worker, input_set_id)
        write_results(input_set_id)

    def return_once(self, input_set_id: str) -> None:
        """One pass of the return workflow."""
        hold_lease(self.tools.catalogue, self.tools.worker, input_set_id)
        send_what_is_due(input_set_id)
        confirm_what_was_sent(input_set_id)

    def comes_back(self, input_set_id: str) -> InputSetStatus:
        """Compose, send and confirm until the version has come to its end."""
        self.compose(input_set_id)
        return self.is_returned(input_set_id)

    def is_returned(self, input_set_id: str) -> InputSetStatus:
        for _ in range(5):
            self.return_once(input_set_id)
            if self.status(input_set_id).state in END_STATES:
                break
        return self.status(input_set_id)

    def status(self, input_set_id: str) -> InputSetStatus:
        return input_set_status(self.tools.catalogue, input_set_id)

    def deliveries(self, input_set_id: str | None = None) -> tuple[Delivery, ...]:
        return deliveries(self.tools.catalogue, input_set_id=input_set_id)

    def reconciled(self) -> dict[str, Reconciliation]:
        found = reconcile(
            self.tools.catalogue,
            self.tools.settings.deliver,
            self.uid,
            calling_ae_title=self.tools.settings.listener.ae_title,
        )
        return {answer.peer: answer for answer in found}

    def _run(self, **decided: Any) -> Run:
        run = run_of(self.folder, radiograph_results, decided.pop("language", Language.ENGLISH))
        destinations = tuple(decided.pop("destinations", self.destinations))
        return replace(run, decision=replace(run.decision, destinations=destinations, **decided))

    def _answered(self, run: Run, input_set_id: str) -> None:
        catalogue = self.tools.catalogue
        record_decision(catalogue, replace(run.decision, input_set_id=input_set_id))
        change_state(catalogue, input_set_id, InputSetState.ROUTED)
        record_findings(catalogue, replace(run.findings, input_set_id=input_set_id))
        change_state(catalogue, input_set_id, InputSetState.ANALYSED)


@contextmanager
def versioned_study(folder: Path) -> Iterator[VersionedStudy]:
    """A node in `folder` that has seen nothing yet."""
    settings = Settings(
        store=StoreSettings(folder=folder),
        deliver=DeliverSettings(connect_timeout_s=5, response_timeout_s=20, first_pause_s=0.001, longest_pause_s=0.001),
    )
    migrate(settings.catalogue_url)
    prepare_workflow_database(settings.workflow_url)
    tools = Tools(
        settings=settings,
        catalogue=open_catalogue(settings.catalogue_url),
        files=PayloadFiles(folder),
        starter=WorkStarter(settings.workflow_url),
        worker="here/deliver",
        templates=load_templates(),
    )
    heartbeat(tools.catalogue, tools.worker, 600)
    equip(tools)
    try:
        yield VersionedStudy(folder=folder, tools=tools)
    finally:
        tools.starter.close()
        tools.catalogue.close()
