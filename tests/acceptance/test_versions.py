"""A running node: run again without and with a change, then retracted; Orthanc holds what the catalogue says."""

from pathlib import Path

import pytest

from tests.node_fixtures import RULES, destination, running_node, write_radiograph
from tests.peer_programs import running_orthanc, wait_until
from tests.tiny_checkpoint import write_tiny_checkpoint
from umit_pacs.interventions import retract, run_again
from umit_pacs.states import InputSetState, RejectionReason, RetireBy
from umit_pacs.steps.reconcile import reconcile
from umit_pacs.store.deliveries import deliveries
from umit_pacs.store.rules import publish_rules

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]

REJECTION_NOTES = Path(__file__).parents[2] / "deploy" / "orthanc-rejection-notes.lua"


def our_objects(pacs, study_uid):
    """SOP Instance UIDs of the study at the PACS, by Modality."""
    found = pacs.instances({"StudyInstanceUID": study_uid})
    return {
        item["MainDicomTags"]["SOPInstanceUID"]: pacs.rest("GET", f"/instances/{item['ID']}/simplified-tags")[
            "Modality"
        ]
        for item in found
    }


def is_exact(node, study_uid):
    answers = reconcile(node.catalogue, node.settings.deliver, study_uid, calling_ae_title="UMIT")
    return bool(answers) and all(answer.is_exact for answer in answers)


def test_a_study_is_run_again_and_retracted(tmp_path):
    checkpoint = tmp_path / "tiny"
    write_tiny_checkpoint(checkpoint)
    study_uid, path = write_radiograph(tmp_path / "study")
    with running_orthanc(tmp_path / "pacs", lua_script=REJECTION_NOTES) as pacs:
        peer = destination("pacs", pacs, answers_commitment=True, answers_query=True, retire_by=RetireBy.IOCM)
        with running_node(tmp_path / "node", [peer], model={"checkpoint": str(checkpoint)}) as node:
            pacs.register(node.address)
            node.send(path)
            assert node.wait_for_end(study_uid).state is InputSetState.CONFIRMED
            first = our_objects(pacs, study_uid)
            planned = len(deliveries(node.catalogue))

            run_again(node.catalogue, study_uid)
            assert node.wait_for_end(study_uid).state is InputSetState.UNCHANGED
            assert len(deliveries(node.catalogue)) == planned
            assert our_objects(pacs, study_uid) == first

            publish_rules(node.catalogue, RULES.replace("report = true", 'report = true\nlanguage = "zh"'), "test")
            run_again(node.catalogue, study_uid)
            assert node.wait_for_end(study_uid).state is InputSetState.CONFIRMED
            second = our_objects(pacs, study_uid)
            assert not set(first) & set(second)
            assert sorted(second.values()).count("KO") == 1
            assert is_exact(node, study_uid)

            retract(node.catalogue, study_uid, RejectionReason.PATIENT_SAFETY, "wrong side")
            assert node.wait_for_end(study_uid).state is InputSetState.RETRACTED
            assert set(our_objects(pacs, study_uid).values()) == {"KO"}
            assert is_exact(node, study_uid)
            retract(node.catalogue, study_uid, RejectionReason.PATIENT_SAFETY, "wrong side")
            wait_until(lambda: node.status(study_uid).state is InputSetState.RETRACTED, what="it stays so")
            assert len(our_objects(pacs, study_uid)) == 2
            assert node.stop() == 0
