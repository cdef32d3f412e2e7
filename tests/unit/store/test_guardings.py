"""What the guard found is kept as words and places, and only for the answers that it looked at."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, select

from tests.store_fixtures import example_findings, input_set_of, stored_instance
from umit_pacs.faults import Fault, FaultOutcome, GuardCheck, Guarding
from umit_pacs.handoffs import InstanceUID
from umit_pacs.store.guardings import guarded, record_guarding, why_withheld
from umit_pacs.store.instances import record_instances
from umit_pacs.store.results import record_findings
from umit_pacs.store.studies import create_input_set
from umit_pacs.store.tables import FaultRow

FOUND = Guarding(
    faults=(
        Fault(
            check=GuardCheck.SCOPE,
            reason="outside_template",
            outcome=FaultOutcome.REMOVED,
            result_index=0,
            sentence_index=2,
            subjects=("emphysema", "nodule"),
        ),
        Fault(
            check=GuardCheck.IMAGE_WRITING,
            reason="other_identity_on_image",
            outcome=FaultOutcome.WITHHELD,
            sop_instance_uid=InstanceUID("2.25.1000.1.1"),
            frame_number=3,
            box_px=(12, 30, 340, 61),
        ),
    ),
    images_read=1,
    why_not_read="reading_timeout",
)


@pytest.fixture
def input_set(catalogue):
    """An ASSEMBLED input set `a`."""
    record_instances(catalogue, [stored_instance(1)])
    create_input_set(catalogue, input_set_of("a", stored_instance(1)))


def test_faults_come_back_as_they_were_and_in_their_order(catalogue, input_set):
    assert guarded(catalogue, "a") is None
    record_findings(catalogue, example_findings())
    record_guarding(catalogue, "a", FOUND)
    assert guarded(catalogue, "a") == FOUND
    assert why_withheld(catalogue, "a") == "other_identity_on_image"


def test_guarding_again_forgets_what_was_found_before(catalogue, input_set):
    record_guarding(catalogue, "a", FOUND)
    record_guarding(catalogue, "a", Guarding(faults=()))
    assert guarded(catalogue, "a") == Guarding(faults=())
    assert why_withheld(catalogue, "a") == ""
    with catalogue.reading() as session:
        assert session.scalars(select(FaultRow)).all() == []


def test_new_answers_have_not_been_guarded_yet(catalogue, input_set):
    record_findings(catalogue, example_findings())
    record_guarding(catalogue, "a", FOUND)
    record_findings(catalogue, example_findings("另一个回答"))
    assert guarded(catalogue, "a") is None


def test_faults_belong_to_a_guarding(catalogue, input_set):
    record_guarding(catalogue, "a", FOUND)
    with catalogue.writing() as session:
        session.execute(delete(FaultRow))
    again = guarded(catalogue, "a")
    assert again is not None
    assert again.faults == ()
