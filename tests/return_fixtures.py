"""A study whose results are composed and wait to be returned, and the two steps that return them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.peer_programs import ForeignPeer
from tests.receive_fixtures import AE_TITLE, ct_slice, write_part10
from tests.store_fixtures import input_set_of, stored_instance
from umit_pacs.handoffs import InstanceUID, ObjectKind, ResultObject, SeriesUID
from umit_pacs.settings import DeliverSettings
from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.steps.confirm import Confirmer, confirm
from umit_pacs.steps.deliver import deliver
from umit_pacs.store.database import Catalogue, migrate, open_catalogue, utc_now
from umit_pacs.store.deliveries import Delivery, deliveries, plan_deliveries
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import record_instances
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.results import record_result_objects
from umit_pacs.store.studies import change_state, create_input_set


@dataclass
class Returning:
    """Results on their way, and a clock that the test moves."""

    catalogue: Catalogue
    files: PayloadFiles
    settings: DeliverSettings
    passed: timedelta = timedelta(0)
    transactions: list[str] = field(default_factory=list)

    def now(self) -> datetime:
        return utc_now() + self.passed

    def add_destination(self, name: str, peer: ForeignPeer, **abilities: bool) -> None:
        """Make a running program a peer of the node."""
        address = peer.address
        add_peer(
            self.catalogue,
            Peer(name=name, ae_title=address.ae_title, host=address.host, port=address.port, **abilities),
        )

    def add_study(
        self, name: str, destination: str, *, sop_classes: tuple[str, ...] = (CTImageStorage,) * 2
    ) -> list[Path]:
        """An input set called `name` with composed objects that are planned for one destination."""
        study = generate_uid()
        instance = stored_instance(1, study=study)
        record_instances(self.catalogue, [instance])
        assert create_input_set(self.catalogue, input_set_of(name, instance))
        for state in (InputSetState.ROUTED, InputSetState.ANALYSED):
            change_state(self.catalogue, name, state)
        results = [self._result(study, sop_class) for sop_class in sop_classes]
        record_result_objects(self.catalogue, name, results)
        plan_deliveries(self.catalogue, name, [destination])
        change_state(self.catalogue, name, InputSetState.COMPOSED)
        return [self.files.path(result.relative_path) for result in results]

    def deliver(self, input_set_id: str, assert_may_act=lambda: None) -> None:
        deliver(
            self.catalogue,
            self.files,
            self.settings,
            input_set_id,
            calling_ae_title=AE_TITLE,
            assert_may_act=assert_may_act,
            now=self.now(),
        )

    def confirm(self, input_set_id: str, assert_may_act=lambda: None) -> None:
        confirmer = Confirmer(
            catalogue=self.catalogue,
            settings=self.settings,
            calling_ae_title=AE_TITLE,
            assert_may_act=assert_may_act,
            new_transaction_uid=self._new_transaction_uid,
            clock=self.now,
        )
        confirm(confirmer, input_set_id)

    def all(self, input_set_id: str) -> tuple[Delivery, ...]:
        return deliveries(self.catalogue, input_set_id=input_set_id)

    def states(self, input_set_id: str) -> set[DeliveryState]:
        return {item.state for item in self.all(input_set_id)}

    def remarks(self, input_set_id: str) -> set[str]:
        return {item.last_status for item in self.all(input_set_id)}

    def wait_out_pause(self, input_set_id: str) -> None:
        """Move the clock to the next attempt."""
        times = [item.next_attempt_at for item in self.all(input_set_id) if item.next_attempt_at is not None]
        self.passed += max(timedelta(0), max(times) - self.now()) + timedelta(milliseconds=1)

    def _new_transaction_uid(self) -> str:
        self.transactions.append(generate_uid(prefix=None))
        return self.transactions[-1]

    def _result(self, study: str, sop_class: str) -> ResultObject:
        image = ct_slice(StudyInstanceUID=study, SOPClassUID=sop_class)
        relative_path = f"results/{image.SOPInstanceUID}.dcm"
        path = self.files.path(relative_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_part10(image, path)
        content = path.read_bytes()
        return ResultObject(
            sop_instance_uid=InstanceUID(str(image.SOPInstanceUID)),
            sop_class_uid=sop_class,
            series_instance_uid=SeriesUID(str(image.SeriesInstanceUID)),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            kind=ObjectKind.SECONDARY_CAPTURE,
            relative_path=relative_path,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        )


def returning_in(folder: Path, **settings: float) -> Returning:
    """An empty catalogue and store below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder / 'catalogue.sqlite'}"
    migrate(url)
    return Returning(
        catalogue=open_catalogue(url),
        files=PayloadFiles(folder),
        settings=DeliverSettings(**{"connect_timeout_s": 5, "response_timeout_s": 20, **settings}),
    )
