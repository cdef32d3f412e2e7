"""Catalogues on both databases, and records to put into them."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests.postgres_fixtures import PostgreSQLServer
from umit_pacs.handoffs import (
    Abstention,
    CompletionReason,
    ConditionReason,
    Findings,
    FrameReference,
    InputSet,
    InstanceUID,
    Language,
    Mode,
    ModelIdentity,
    ObjectKind,
    Priority,
    Region,
    RegionKind,
    ResultObject,
    RoutingDecision,
    SeriesExclusion,
    SeriesUID,
    StoredInstance,
    StudyUID,
    Task,
    TaskOrder,
    TaskResult,
)
from umit_pacs.states import DeliveryState
from umit_pacs.store.database import Catalogue, migrate, open_catalogue
from umit_pacs.store.deliveries import DeliveryChange, change_deliveries
from umit_pacs.store.tables import Table

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STUDY = StudyUID("2.25.1000")

#: Where tests start processes of their own: a server that has the slow imports behind it forks them, without threads
#: or open connections of the test.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.store_fixtures", "umit_pacs.steps.assemble"])

BACKENDS = [
    "sqlite",
    # One cluster per run is enough: all its tests go to one process.
    pytest.param("postgresql", marks=[pytest.mark.peer, pytest.mark.xdist_group("postgresql")]),
]


def after(seconds: float) -> datetime:
    """A time so many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def stored_instance(
    number: int,
    *,
    study: str = STUDY,
    series: int = 1,
    received_at: datetime = NOON,
    sop_class_uid: str = CTImageStorage,
    calling_ae_title: str = "CT1",
    content: str = "",
) -> StoredInstance:
    """An instance whose UIDs and digest follow from its numbers."""
    uid = f"{study}.{series}.{number}"
    return StoredInstance(
        study_instance_uid=StudyUID(study),
        series_instance_uid=SeriesUID(f"{study}.{series}"),
        sop_instance_uid=InstanceUID(uid),
        sop_class_uid=sop_class_uid,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        calling_ae_title=calling_ae_title,
        called_ae_title="UMIT",
        peer_host="127.0.0.1",
        sha256=hashlib.sha256((content or uid).encode()).hexdigest(),
        size_bytes=1000,
        relative_path=f"instances/{study}/{uid}.dcm",
        received_at=received_at,
    )


def input_set_of(name: str, *instances: StoredInstance, predecessor_id: str | None = None) -> InputSet:
    """An input set called `name` of these instances."""
    return InputSet(
        input_set_id=name,
        study_instance_uid=instances[0].study_instance_uid,
        instances=instances,
        calling_ae_title=instances[-1].calling_ae_title,
        completed_by=CompletionReason.QUIET_PERIOD,
        predecessor_id=predecessor_id,
    )


def result_object(number: int, *, series: int = 9, kind: ObjectKind = ObjectKind.TEXT_REPORT) -> ResultObject:
    """A result object whose UIDs and digest follow from its numbers."""
    uid = f"2.25.7.{series}.{number}"
    return ResultObject(
        sop_instance_uid=InstanceUID(uid),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.22",
        series_instance_uid=SeriesUID(f"2.25.7.{series}"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        kind=kind,
        relative_path=f"results/{uid}.dcm",
        sha256=hashlib.sha256(uid.encode()).hexdigest(),
        size_bytes=2000,
    )


def change_delivery(catalogue: Catalogue, delivery_id: int, after: DeliveryState, **noted: object) -> None:
    """Bring one delivery to `after`; noted: the other fields of a DeliveryChange."""
    change_deliveries(catalogue, [DeliveryChange(delivery_id=delivery_id, after=after, **noted)])


ORDER = TaskOrder(
    task=Task.VQA,
    language=Language.CHINESE,
    series_instance_uid=SeriesUID("2.25.1000.1"),
    question="有没有气胸？",
    options=("有", "没有"),
)
FRAME = FrameReference(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    sop_instance_uid=InstanceUID("2.25.1000.1.1"),
    series_instance_uid=SeriesUID("2.25.1000.1"),
    frame_number=None,
    rows=512,
    columns=400,
)


def example_decision(rule: str = "chest") -> RoutingDecision:
    """A decision about input set `a`."""
    return RoutingDecision(
        input_set_id="a",
        rule=rule,
        rules_version=3,
        rule_text='{"name": "chest"}',
        reasons=(ConditionReason(rule="chest", condition="series Modality equals CT", is_met=True, found="CT"),),
        orders=(ORDER,),
        excluded=(SeriesExclusion(series_instance_uid=SeriesUID("2.25.1000.2"), reason="localizer"),),
        destinations=("pacs",),
        priority=Priority.URGENT,
        mode=Mode.HOLD,
        language=Language.CHINESE,
    )


def example_findings(text: str = "没有") -> Findings:
    """Answers about input set `a`: one with a region, one abstention."""
    region = Region(
        kind=RegionKind.BOX,
        label="nodule",
        frames=(FRAME,),
        points_xy_px=((1.5, 2.25), (30.0, 1 / 3)),
        confidence=0.1 + 0.2,
    )
    return Findings(
        input_set_id="a",
        model=ModelIdentity(
            name="umit-demo",
            version="1",
            sha256="ab",
            quantisation="int8",
            device="cpu",
            licence="Apache-2.0",
            intended_use="none",
        ),
        results=(
            TaskResult(
                order=ORDER, instruction="问", answer_text=text, option_index=1, regions=(region,), frames=(FRAME,)
            ),
            TaskResult(
                order=ORDER, instruction="问", answer_text="?", abstention=Abstention(reason="unreadable_answer")
            ),
        ),
        timings_s={"prepare_s": 0.25, "answered_s": 1.5},
    )


@pytest.fixture(params=BACKENDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables, on each database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalogue.sqlite'}"
    server: PostgreSQLServer = request.getfixturevalue("postgresql_server")
    return server.url(server.new_database())


@pytest.fixture(scope="session")
def migrated_database(postgresql_server: PostgreSQLServer) -> str:
    """The name of a migrated PostgreSQL database that the tests share, one after the other."""
    name = postgresql_server.new_database()
    migrate(postgresql_server.url(name))
    return name


@pytest.fixture(params=BACKENDS)
def catalogue_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated catalogue without content, on each database in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'catalogue.sqlite'}"
        migrate(url)
        return url
    server: PostgreSQLServer = request.getfixturevalue("postgresql_server")
    database = request.getfixturevalue("migrated_database")
    with server.connect(database) as connection:
        connection.execute(f"TRUNCATE {', '.join(Table.metadata.tables)} RESTART IDENTITY")
    return server.url(database)


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[Catalogue]:
    """An open catalogue without content."""
    opened = open_catalogue(catalogue_url)
    yield opened
    opened.close()
