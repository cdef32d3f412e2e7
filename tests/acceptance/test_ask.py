"""A running node is asked from the viewer, in English and Chinese; the archive that asks gets the answers."""

import io

import pydicom
import pytest

from tests.node_fixtures import destination, running_node, write_radiograph
from tests.peer_programs import running_orthanc, store_with_storescu, wait_until
from tests.question_fixtures import write_selection
from tests.tiny_checkpoint import write_tiny_checkpoint
from umit_pacs.states import END_STATES, InputSetState
from umit_pacs.store.questions import questions_about
from umit_pacs.store.stories import story

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]

QUESTIONS = {
    "Is there a mass? yes / no": ("Is there a mass?", ("yes", "no")),
    "有肿块吗？有／没有": ("有肿块吗？", ("有", "没有")),
    "detect nodule": ("nodule", ()),
}


def texts_of(pacs, sop_instance_uid):
    """Every text of a structured report that Orthanc holds."""
    (found,) = pacs.instances({"SOPInstanceUID": sop_instance_uid})
    ds = pydicom.dcmread(io.BytesIO(pacs.rest("GET", f"/instances/{found['ID']}/file")))
    return " ".join(str(element.value) for element in ds.iterall() if element.keyword == "TextValue")


def test_questions_from_the_archive_are_answered_in_the_same_study(tmp_path):
    checkpoint = tmp_path / "tiny"
    write_tiny_checkpoint(checkpoint)
    study_uid, path = write_radiograph(tmp_path / "study")
    image = pydicom.dcmread(path, stop_before_pixels=True)
    with running_orthanc(tmp_path / "pacs") as pacs:
        peer = destination("pacs", pacs, answers_commitment=True, answers_query=True)
        with running_node(tmp_path / "node", [peer], model={"checkpoint": str(checkpoint)}) as node:
            pacs.register(node.address)
            node.send(path)
            assert node.wait_for_end(study_uid).state is InputSetState.CONFIRMED
            drafted = {item["MainDicomTags"]["SOPInstanceUID"] for item in pacs.instances()}

            asked = {write_selection(tmp_path / "asked", [image], text).stem: text for text in QUESTIONS}
            files = [tmp_path / "asked" / f"{uid}.dcm" for uid in asked]
            store_with_storescu(files, pacs.address)
            ids = [found["ID"] for uid in asked for found in pacs.instances({"SOPInstanceUID": uid})]
            pacs.rest("POST", "/modalities/UMIT/store", ids)

            def answers():
                told = [each for each in story(node.catalogue, study_uid).input_sets if each.asked_by]
                return told if len(told) == len(asked) and all(each.state in END_STATES for each in told) else None

            told = wait_until(answers, what="the questions are answered", timeout_s=120)
            assert {each.state for each in told} == {InputSetState.CONFIRMED}, node.tail()
            for each in told:
                question, options = QUESTIONS[asked[each.asked_by]]
                (report,) = [item for item in each.result_objects if item.kind == "text_report"]
                text = texts_of(pacs, report.sop_instance_uid)
                assert question in text
                assert not options or any(option in text for option in options)
            assert node.status(study_uid).state is InputSetState.CONFIRMED
            held = {item["MainDicomTags"]["SOPInstanceUID"] for item in pacs.instances()}
            assert drafted < held
            answered = {told.document for told in questions_about(node.catalogue, study_uid) if told.input_set_id}
            assert answered == set(asked)
            assert node.stop() == 0
