"""Results reach Orthanc and DCMTK, are confirmed or sent again, and wait for a peer that is away."""

from datetime import timedelta

import pytest
from pydicom.uid import CTImageStorage

from tests.peer_programs import free_port, running_dcmqrscp, running_orthanc, running_storescp, wait_until
from tests.receive_fixtures import loopback_peer, running_receiver
from tests.return_fixtures import returning_in
from umit_pacs.dicom_network.addresses import PeerAddress
from umit_pacs.dicom_network.part10 import read_file_meta
from umit_pacs.errors import LeaseLost
from umit_pacs.states import DeliveryRemark, DeliveryState
from umit_pacs.store.deliveries import commitments_of
from umit_pacs.store.peers import Peer, add_peer, remove_peer
from umit_pacs.store.returns import input_sets_to_return

pytestmark = pytest.mark.peer


LONGEST_PAUSE_S = 4 * 3600.0


@pytest.fixture
def returning(tmp_path):
    returning = returning_in(tmp_path / "node", longest_pause_s=LONGEST_PAUSE_S)
    yield returning
    returning.catalogue.close()


def data_set(path):
    _, offset = read_file_meta(path)
    return path.read_bytes()[offset:]


# --- deliver -----------------------------------------------------------------------------------------------------


def test_the_stored_bytes_arrive_and_arrive_the_same_when_sent_twice(tmp_path, returning):
    with running_storescp(tmp_path / "peer") as peer:
        returning.add_destination("pacs", peer)
        sent = returning.add_study("a", "pacs")
        returning.deliver("a")
        assert returning.states("a") == {DeliveryState.SENT}
        first = {path.name: data_set(path) for path in peer.received_files()}
        returning.deliver("a")  # nothing is due any more
        assert len(peer.received_files()) == len(first) == 2
    assert sorted(first.values()) == sorted(data_set(path) for path in sent)


def test_a_peer_away_for_two_days_costs_nothing_but_time(tmp_path, returning):
    with running_storescp(tmp_path / "peer") as peer:
        returning.add_destination("pacs", peer)
        returning.add_study("a", "pacs")
        peer.stop()
        pauses = []
        while returning.passed < timedelta(days=2):
            before = returning.now()
            returning.deliver("a")
            assert returning.states("a") == {DeliveryState.PENDING}
            assert input_sets_to_return(returning.catalogue, returning.now()) == ()
            returning.wait_out_pause("a")
            pauses.append((returning.now() - before).total_seconds())
            assert input_sets_to_return(returning.catalogue, returning.now()) == ("a",)
        assert pauses[0] < 10
        assert pauses[:8] == sorted(pauses[:8])
        assert max(pauses) < LONGEST_PAUSE_S + 60
        peer.start()
        returning.deliver("a")
        assert returning.states("a") == {DeliveryState.SENT}
        assert len(peer.received_files()) == 2


def test_a_peer_that_never_comes_back_ends_in_a_dead_letter(returning):
    add_peer(returning.catalogue, Peer(name="gone", ae_title="GONE", host="127.0.0.1", port=free_port()))
    returning.add_study("a", "gone")
    while returning.states("a") == {DeliveryState.PENDING}:
        assert returning.passed < timedelta(days=9)
        returning.deliver("a")
        if returning.states("a") == {DeliveryState.PENDING}:
            returning.wait_out_pause("a")
    assert returning.states("a") == {DeliveryState.DEAD}
    assert returning.remarks("a") == {DeliveryRemark.GAVE_UP}
    assert returning.passed > timedelta(days=6)


def test_one_study_tries_a_peer_that_is_away_for_all(tmp_path, returning):
    with running_storescp(tmp_path / "peer") as peer:
        returning.add_destination("pacs", peer)
        returning.add_study("a", "pacs")
        returning.add_study("b", "pacs")
        peer.stop()
        returning.deliver("a")
        peer.start()
        returning.deliver("b")  # does not even look: the peer was away a moment ago
        assert peer.received_files() == []
        assert returning.remarks("b") == {DeliveryRemark.PEER_AWAY}
        returning.wait_out_pause("b")
        returning.deliver("b")
        assert returning.states("b") == {DeliveryState.SENT}


def test_a_refused_object_is_a_dead_letter_at_once_and_keeps_no_other(tmp_path, returning):
    with running_storescp(tmp_path / "peer", options=("+xa",)) as peer:
        returning.add_destination("pacs", peer)
        returning.add_study("a", "pacs", sop_classes=(CTImageStorage, "1.2.826.0.1.3680043.9.9999.1"))
        returning.deliver("a")
        assert len(peer.received_files()) == 1
    sent, refused = returning.all("a")
    assert sent.state is DeliveryState.SENT
    assert refused.state is DeliveryState.DEAD
    assert refused.detail


def test_a_changed_file_does_not_leave(tmp_path, returning):
    with running_storescp(tmp_path / "peer") as peer:
        returning.add_destination("pacs", peer)
        first, _ = returning.add_study("a", "pacs")
        first.write_bytes(first.read_bytes() + b"\0\0")
        returning.deliver("a")
        assert returning.states("a") == {DeliveryState.SENT, DeliveryState.DEAD}
        assert len(peer.received_files()) == 1


def test_a_peer_that_was_removed_is_named_in_the_dead_letter(tmp_path, returning):
    add_peer(returning.catalogue, loopback_peer("PACS", receives_results=True))
    returning.add_study("a", "pacs")
    remove_peer(returning.catalogue, "pacs")
    returning.deliver("a")
    assert returning.states("a") == {DeliveryState.DEAD}
    assert "no peer pacs" in returning.all("a")[0].detail


def test_a_worker_that_lost_its_lease_sends_nothing(tmp_path, returning):
    def lost():
        raise LeaseLost

    with running_storescp(tmp_path / "peer") as peer:
        returning.add_destination("pacs", peer)
        returning.add_study("a", "pacs")
        with pytest.raises(LeaseLost):
            returning.deliver("a", assert_may_act=lost)
        assert peer.received_files() == []
        assert returning.states("a") == {DeliveryState.PENDING}


# --- confirm by storage commitment -------------------------------------------------------------------------------


@pytest.fixture
def node_and_orthanc(tmp_path, returning):
    """An Orthanc that reports storage commitment to a listener which records it in the same catalogue."""
    with (
        running_orthanc(tmp_path / "pacs") as pacs,
        running_receiver(tmp_path / "node", loopback_peer("ORTHANC")) as node,
    ):
        pacs.register(node.address)
        returning.add_destination("pacs", pacs, answers_commitment=True)
        yield pacs


def has_been_answered(returning, name):
    return all(commitment.answered_at for commitment in commitments_of(returning.catalogue, name))


def test_orthanc_vouches_for_what_it_holds(returning, node_and_orthanc):
    returning.add_study("a", "pacs")
    returning.deliver("a")
    returning.confirm("a")
    wait_until(lambda: has_been_answered(returning, "a"), what="Orthanc's report")
    if returning.states("a") == {DeliveryState.SENT}:  # the report came after the first look
        assert input_sets_to_return(returning.catalogue, returning.now()) == ("a",)
        returning.confirm("a")
    assert returning.states("a") == {DeliveryState.CONFIRMED}
    assert returning.remarks("a") == {DeliveryRemark.COMMITTED}
    assert len(returning.transactions) == 1


def test_what_orthanc_lost_is_sent_again_and_then_vouched_for(returning, node_and_orthanc):
    first, _ = returning.add_study("a", "pacs")
    returning.deliver("a")
    (lost,) = node_and_orthanc.instances({"SOPInstanceUID": first.stem})
    node_and_orthanc.rest("DELETE", f"/instances/{lost['ID']}")
    returning.confirm("a")
    wait_until(lambda: has_been_answered(returning, "a"), what="Orthanc's report")
    returning.confirm("a")
    assert returning.states("a") == {DeliveryState.PENDING, DeliveryState.CONFIRMED}
    returning.wait_out_pause("a")
    returning.deliver("a")
    assert len(node_and_orthanc.instances()) == 2
    returning.confirm("a")
    wait_until(lambda: has_been_answered(returning, "a"), what="Orthanc's second report")
    returning.confirm("a")
    assert returning.states("a") == {DeliveryState.CONFIRMED}
    assert len(set(returning.transactions)) == 2


def test_a_report_that_never_comes_is_asked_for_again_under_a_new_transaction(tmp_path, returning):
    with running_orthanc(tmp_path / "pacs") as pacs:
        # Orthanc takes the request and cannot reach the node to report.
        pacs.register(PeerAddress(ae_title="UMIT", host="127.0.0.1", port=free_port()))
        returning.settings = returning.settings.model_copy(update={"confirm_attempts": 2})
        returning.add_destination("pacs", pacs, answers_commitment=True)
        returning.add_study("a", "pacs")
        returning.deliver("a")
        returning.confirm("a")
        assert returning.states("a") == {DeliveryState.SENT}
        returning.confirm("a")
        assert len(returning.transactions) == 1  # asked, and not due yet
        returning.wait_out_pause("a")
        returning.confirm("a")
        assert len(set(returning.transactions)) == 2
        returning.wait_out_pause("a")
        returning.confirm("a")
    assert returning.states("a") == {DeliveryState.DEAD}
    assert returning.remarks("a") == {DeliveryRemark.NOT_COMMITTED}


def test_where_commitment_is_never_reported_a_query_decides(tmp_path, returning):
    with running_orthanc(tmp_path / "pacs") as pacs:
        pacs.register(PeerAddress(ae_title="UMIT", host="127.0.0.1", port=free_port()))
        returning.settings = returning.settings.model_copy(update={"confirm_attempts": 1})
        returning.add_destination("pacs", pacs, answers_commitment=True, answers_query=True)
        returning.add_study("a", "pacs")
        returning.deliver("a")
        returning.confirm("a")
        returning.wait_out_pause("a")
        returning.confirm("a")
    assert returning.states("a") == {DeliveryState.CONFIRMED}
    assert returning.remarks("a") == {DeliveryRemark.HELD}


def test_a_peer_that_went_away_after_delivery_is_asked_later(tmp_path, returning):
    with running_orthanc(tmp_path / "pacs") as pacs:
        returning.add_destination("pacs", pacs, answers_query=True)
        returning.add_study("a", "pacs")
        returning.deliver("a")
        pacs.stop()
        while returning.passed < timedelta(days=2):
            returning.confirm("a")
            assert returning.states("a") == {DeliveryState.SENT}
            returning.wait_out_pause("a")
        pacs.start()
        returning.confirm("a")
    assert returning.states("a") == {DeliveryState.CONFIRMED}


# --- confirm by query, or not at all -----------------------------------------------------------------------------


@pytest.mark.parametrize("running", [running_orthanc, running_dcmqrscp])
def test_a_peer_without_commitment_is_asked_what_it_holds(tmp_path, returning, running):
    with running(tmp_path / "pacs") as pacs:
        returning.add_destination("pacs", pacs, answers_query=True)
        returning.add_study("a", "pacs")
        returning.deliver("a")
        returning.confirm("a")
    assert returning.states("a") == {DeliveryState.CONFIRMED}
    assert returning.remarks("a") == {DeliveryRemark.HELD}


def test_what_the_peer_does_not_list_is_sent_again_and_at_last_given_up(tmp_path, returning):
    with running_orthanc(tmp_path / "pacs") as pacs:
        returning.settings = returning.settings.model_copy(update={"confirm_attempts": 3})
        returning.add_destination("pacs", pacs, answers_query=True)
        (path,) = returning.add_study("a", "pacs", sop_classes=(CTImageStorage,))
        sendings = 0
        while returning.states("a") != {DeliveryState.DEAD}:
            returning.deliver("a")
            sendings += 1
            (held,) = pacs.instances({"SOPInstanceUID": path.stem})
            pacs.rest("DELETE", f"/instances/{held['ID']}")
            returning.confirm("a")
            returning.wait_out_pause("a") if returning.states("a") == {DeliveryState.PENDING} else None
        assert sendings == 3
    assert returning.remarks("a") == {DeliveryRemark.NOT_HELD}


def test_a_peer_that_cannot_be_asked_is_believed(tmp_path, returning):
    with running_storescp(tmp_path / "peer") as peer:
        returning.add_destination("pacs", peer, answers_commitment=True, answers_query=True)
        returning.add_study("a", "pacs")
        returning.deliver("a")
        returning.confirm("a")
    assert returning.states("a") == {DeliveryState.CONFIRMED}
    assert returning.remarks("a") == {DeliveryRemark.TAKEN}
