"""What a peer has to take: the classes of its profile or of the rules' profiles, and of what takes a draft back."""

from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)

from umit_pacs.cli.peer_needs import needed_classes
from umit_pacs.handoffs import ObjectKind
from umit_pacs.prior_studies import PriorBy
from umit_pacs.result_objects.check_kinds import RULES
from umit_pacs.routing.rules import Action, Rule, RuleSet
from umit_pacs.states import RetireBy
from umit_pacs.store.peers import Peer


def peer(**changes):
    return Peer(**{"name": "PACS", "ae_title": "PACS", "host": "pacs", "port": 104, "receives_results": True} | changes)


def rule(name, profile, destination, **changes):
    action = Action(report=True, profile=profile, destinations=(destination,))
    return Rule(name=name, matches_everything=True, action=action, **changes)


RULES_IN_FORCE = RuleSet(
    rules=(
        rule("texts", "text-only", "sender"),
        rule("documents", "pdf", "PACS2"),
        rule("off", "air", "PACS", enabled=False),
    )
)


def test_the_own_profile_says_what_is_needed_and_the_way_of_taking_back_adds_to_it():
    by_notice = needed_classes(peer(profile="text-only"), RULES_IN_FORCE, {})
    assert set(by_notice) == {EnhancedSRStorage, BasicTextSRStorage}
    by_note = needed_classes(peer(profile="text-only", retire_by=RetireBy.IOCM), RULES_IN_FORCE, {})
    assert set(by_note) == {EnhancedSRStorage, KeyObjectSelectionDocumentStorage}


def test_without_one_the_rules_in_force_that_send_to_it_say_it():
    assert set(needed_classes(peer(), RULES_IN_FORCE, {})) == {EnhancedSRStorage, BasicTextSRStorage}
    assert EncapsulatedPDFStorage in needed_classes(peer(name="PACS2"), RULES_IN_FORCE, {})


def test_a_peer_that_is_asked_for_earlier_studies_has_to_answer_queries_and_hand_them_over():
    find, move, get = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
    archive = peer(receives_results=False, priors_by=PriorBy.GET)
    assert needed_classes(archive, RULES_IN_FORCE, {}) == (find, get)
    both = needed_classes(peer(profile="text-only", priors_by=PriorBy.MOVE), RULES_IN_FORCE, {})
    assert set(both) == {EnhancedSRStorage, BasicTextSRStorage, find, move}


def test_without_rules_the_universal_profile_is_needed():
    needed = needed_classes(peer(), RuleSet(), {})
    universal = {EnhancedSRStorage, Comprehensive3DSRStorage, SecondaryCaptureImageStorage}
    assert set(needed) == universal | {BasicTextSRStorage}


def test_a_peer_that_receives_nothing_needs_nothing():
    assert needed_classes(peer(receives_results=False), RULES_IN_FORCE, {}) == ()


def test_every_kind_of_dicom_object_has_rules_and_so_a_class_to_ask_for():
    # What reporting systems get is no DICOM.
    dicom = [kind for kind in ObjectKind if not kind.startswith(("hl7_", "fhir_"))]
    every = {"every": [kind for kind in dicom if kind not in ("rejection_note", "notice")]}
    asked = needed_classes(peer(profile="every"), RuleSet(), every)
    assert set(RULES) == set(dicom)
    assert set(asked) == {rules.sop_class_uid for rules in RULES.values()}
