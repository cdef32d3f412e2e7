from __future__ import annotations

from dataclasses import replace

from tests.store_fixtures import NOON, STUDY, after, stored_instance
from umit_pacs.store.instances import (
    Quarantined,
    count_recorded,
    digests_of,
    instances_by_use,
    instances_of_study,
    quarantined_of_study,
    record_instances,
    record_quarantined,
    set_use,
    studies_waiting,
)
from umit_pacs.store.tables import InstanceUse


def test_what_is_recorded_comes_back_as_it_was(catalogue):
    instances = [stored_instance(number, received_at=after(number)) for number in (3, 1, 2)]
    recorded = record_instances(catalogue, instances)
    assert recorded.new == tuple(instance.sop_instance_uid for instance in instances)
    assert instances_of_study(catalogue, STUDY) == (instances[1], instances[2], instances[0])


def test_recording_twice_changes_nothing(catalogue):
    instance = stored_instance(1)
    record_instances(catalogue, [instance])
    again = record_instances(catalogue, [replace(instance, received_at=after(5), calling_ae_title="OTHER")])
    assert (again.new, again.same, again.different) == ((), (instance.sop_instance_uid,), ())
    assert instances_of_study(catalogue, STUDY) == (instance,)


def test_the_first_of_two_contents_under_one_uid_stays(catalogue):
    first = stored_instance(1)
    record_instances(catalogue, [first])
    recorded = record_instances(catalogue, [stored_instance(1, content="other"), stored_instance(2)])
    assert recorded.different == (first.sop_instance_uid,)
    assert recorded.new == (stored_instance(2).sop_instance_uid,)
    assert digests_of(catalogue, [first.sop_instance_uid]) == {first.sop_instance_uid: first.sha256}


def test_one_uid_twice_in_one_batch_is_recorded_once(catalogue):
    recorded = record_instances(catalogue, [stored_instance(1), stored_instance(1)])
    assert len(recorded.new) == 1
    assert count_recorded(catalogue) == 1


def test_nothing_to_record_is_no_transaction(catalogue):
    recorded = record_instances(catalogue, [])
    assert (recorded.new, recorded.same, recorded.different) == ((), (), ())


def test_more_instances_than_one_statement_takes(catalogue):
    instances = [stored_instance(number) for number in range(2500)]
    assert len(record_instances(catalogue, instances).new) == 2500
    assert len(record_instances(catalogue, instances).same) == 2500


def test_waiting_studies_come_with_their_times_the_longest_waiting_first(catalogue):
    record_instances(
        catalogue,
        [
            stored_instance(1, study="2.25.2", received_at=after(10)),
            stored_instance(1, received_at=after(3)),
            stored_instance(2, received_at=after(20)),
        ],
    )
    first, second = studies_waiting(catalogue)
    assert (first.study_instance_uid, first.waiting) == (STUDY, 2)
    assert (first.first_received_at, first.last_received_at) == (after(3), after(20))
    assert second.study_instance_uid == "2.25.2"


def test_an_instance_whose_use_is_known_does_not_wait(catalogue):
    record_instances(catalogue, [stored_instance(1), stored_instance(2)])
    set_use(catalogue, [stored_instance(1).sop_instance_uid], InstanceUse.OWN_RESULT)
    (waiting,) = studies_waiting(catalogue)
    assert waiting.waiting == 1
    assert instances_by_use(catalogue, STUDY) == {
        None: (stored_instance(2),),
        InstanceUse.OWN_RESULT: (stored_instance(1),),
    }


def test_what_was_kept_aside_is_recorded_once_whatever_it_claims_to_be(catalogue):
    quarantined = Quarantined(
        reason="other_bytes_under_known_uid",
        relative_path="quarantine/1.dcm",
        calling_ae_title="CT1",
        peer_host="127.0.0.1",
        sha256="00" * 32,
        size_bytes=5,
        received_at=NOON,
        study_instance_uid="../../" + "9" * 500,
    )
    record_quarantined(catalogue, quarantined)
    record_quarantined(catalogue, quarantined)
    assert quarantined_of_study(catalogue, quarantined.study_instance_uid) == (quarantined,)
    assert quarantined_of_study(catalogue, STUDY) == ()
