"""One study, two destinations, other objects for each; and what was stopped, in the catalogue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.store_fixtures import STUDY, example_decision, input_set_of, result_object, stored_instance
from umit_pacs.cli.story_lines import headline, lines_of
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import ObjectKind, StoppedObject
from umit_pacs.result_objects.profiles import PROFILES
from umit_pacs.steps.route import choose_kinds
from umit_pacs.store import results
from umit_pacs.store.deliveries import plan_deliveries
from umit_pacs.store.instances import record_instances
from umit_pacs.store.peers import Peer, add_peer, peer
from umit_pacs.store.results import record_result_objects
from umit_pacs.store.stopped import record_stopped_objects, stopped_objects
from umit_pacs.store.stories import story
from umit_pacs.store.studies import create_input_set

TEXT, PAGE, PDF = ObjectKind.TEXT_REPORT, ObjectKind.SECONDARY_CAPTURE, ObjectKind.DOCUMENT


@pytest.fixture
def input_set(catalogue):
    record_instances(catalogue, [stored_instance(1)])
    create_input_set(catalogue, input_set_of("a", stored_instance(1)))
    return "a"


def pacs(name, profile):
    return Peer(name=name, ae_title=name.upper(), host="127.0.0.1", port=104, receives_results=True, profile=profile)


def test_a_peer_keeps_its_profile(catalogue):
    add_peer(catalogue, pacs("old", "classic"))
    assert peer(catalogue, "old") == pacs("old", "classic")


def test_each_destination_gets_the_kinds_of_its_profile(catalogue, input_set):
    add_peer(catalogue, pacs("old", "text-only"))
    add_peer(catalogue, pacs("new", ""))
    decision = choose_kinds(catalogue, replace(example_decision(), destinations=("old", "new", "gone")), {})
    assert decision.kinds == {"old": (TEXT,), "new": PROFILES["universal"], "gone": PROFILES["universal"]}
    record_result_objects(catalogue, "a", [result_object(1, kind=TEXT), result_object(2, kind=PAGE)])
    planned = plan_deliveries(catalogue, "a", ["old", "new"], decision.kinds)
    assert [(item.peer, item.kind) for item in planned] == [("old", TEXT), ("new", TEXT), ("new", PAGE)]


def test_a_profile_that_is_gone_stops_the_study_with_its_name(catalogue, input_set):
    add_peer(catalogue, pacs("old", "ward"))
    decision = replace(example_decision(), destinations=("old",))
    assert choose_kinds(catalogue, decision, {"ward": ("document",)}).kinds == {"old": (PDF,)}
    with pytest.raises(InvalidConfiguration, match="'ward'"):
        choose_kinds(catalogue, decision, {})


def test_the_kinds_of_a_decision_come_back_from_the_catalogue(catalogue, input_set):
    decision = replace(example_decision(), destinations=("old",), kinds={"old": (TEXT, PDF)})
    results.record_decision(catalogue, decision)
    assert results.decision(catalogue, "a") == decision


def test_what_was_stopped_last_is_told_with_its_reason(catalogue, input_set):
    record_stopped_objects(catalogue, "a", [StoppedObject(kind=PAGE, number=2, detail="the banner is no text")])
    stopped = StoppedObject(kind=PDF, number=1, detail="a page of the document has no banner")
    record_stopped_objects(catalogue, "a", [stopped])
    assert [item.stopped for item in stopped_objects(catalogue, "a")] == [stopped]
    told = story(catalogue, STUDY)
    assert "Document 1 stopped, it failed its check: a page of the document has no banner." in [
        line.text for line in lines_of(told)
    ]
    assert "1 object failed the node's own check" in headline(told)
