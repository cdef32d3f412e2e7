from __future__ import annotations

from dataclasses import replace

import pytest

from tests.store_fixtures import after
from umit_pacs.store.peer_counts import PeerCount, peer_count, record_peer_count
from umit_pacs.store.peers import Peer, add_peer, peer, peers, peers_with_ae_title, remove_peer
from umit_pacs.store.rules import (
    RulesVersionUnknown,
    current_rules,
    publish_rules,
    rollback_rules,
    rules_history,
    rules_version,
)

PACS = Peer(
    name="pacs",
    ae_title="ORTHANC",
    host="pacs.example",
    port=4242,
    receives_results=True,
    answers_query=True,
    answers_commitment=True,
    addresses=("10.0.0.7", "10.0.0.8"),
)


def test_a_peer_comes_back_as_it_was_added(catalogue):
    add_peer(catalogue, PACS)
    assert peers(catalogue) == (PACS,)
    assert peer(catalogue, "pacs") == PACS
    assert peer(catalogue, "other") is None


def test_adding_a_name_again_changes_the_peer(catalogue):
    add_peer(catalogue, PACS)
    add_peer(catalogue, replace(PACS, port=104, may_send=False))
    assert peers(catalogue) == (replace(PACS, port=104, may_send=False),)


def test_stations_may_share_an_ae_title(catalogue):
    add_peer(catalogue, PACS)
    add_peer(catalogue, replace(PACS, name="archive"))
    add_peer(catalogue, replace(PACS, name="ct", ae_title="CT1"))
    assert [found.name for found in peers_with_ae_title(catalogue, "ORTHANC")] == ["archive", "pacs"]
    assert peers_with_ae_title(catalogue, "orthanc") == ()


def test_a_removed_peer_is_gone(catalogue):
    add_peer(catalogue, PACS)
    assert remove_peer(catalogue, "pacs")
    assert not remove_peer(catalogue, "pacs")
    assert peers(catalogue) == ()


def test_a_peer_may_call_from_its_host_unless_said_otherwise():
    assert PACS.allowed_addresses == ("10.0.0.7", "10.0.0.8")
    assert replace(PACS, addresses=()).allowed_addresses == ("pacs.example",)


@pytest.mark.parametrize("change", [{"name": ""}, {"ae_title": ""}, {"ae_title": "A" * 17}, {"host": ""}, {"port": -1}])
def test_an_impossible_peer_is_not_made(change):
    with pytest.raises(ValueError, match="peer"):
        replace(PACS, **change)


def test_the_last_published_rules_are_in_force(catalogue):
    assert current_rules(catalogue) is None
    assert publish_rules(catalogue, "first", "anna", "start") == 1
    assert publish_rules(catalogue, "second", "ben") == 2
    assert current_rules(catalogue).text == "second"
    assert rules_version(catalogue, 1).comment == "start"
    assert [published.version for published in rules_history(catalogue)] == [2, 1]


def test_the_rules_in_force_published_again_get_no_new_version(catalogue):
    assert publish_rules(catalogue, "text", "anna") == 1
    assert publish_rules(catalogue, "text", "ben") == 1
    assert len(rules_history(catalogue)) == 1


def test_going_back_is_a_version_of_its_own(catalogue):
    publish_rules(catalogue, "first", "anna")
    publish_rules(catalogue, "second", "anna")
    assert rollback_rules(catalogue, 1, "ben") == 3
    current = current_rules(catalogue)
    assert (current.text, current.author, current.comment) == ("first", "ben", "back to version 1")
    with pytest.raises(RulesVersionUnknown):
        rollback_rules(catalogue, 9, "ben")
    with pytest.raises(RulesVersionUnknown):
        rules_version(catalogue, 9)


def test_a_peers_last_word_about_a_study_is_kept(catalogue):
    said = PeerCount(study_instance_uid="2.25.1", calling_ae_title="CT1", expected=None, held=3, asked_at=after(0))
    assert peer_count(catalogue, "2.25.1") is None
    record_peer_count(catalogue, said)
    record_peer_count(catalogue, replace(said, expected=7, asked_at=after(9)))
    assert peer_count(catalogue, "2.25.1") == replace(said, expected=7, asked_at=after(9))
