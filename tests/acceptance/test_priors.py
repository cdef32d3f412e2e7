"""A served node compares a study with the earlier one that Orthanc has, and waits for no archive longer than it may."""

import socket
from datetime import timedelta

import pytest

from tests.node_fixtures import destination, running_node, write_radiograph
from tests.peer_programs import LOOPBACK, running_orthanc, store_with_storescu
from tests.prior_fixtures import study_of
from tests.prior_fixtures import write_radiograph as write_earlier
from tests.tiny_checkpoint import write_tiny_checkpoint
from umit_pacs.prior_studies import PriorBy, PriorState
from umit_pacs.states import InputSetState
from umit_pacs.store.peers import Peer
from umit_pacs.store.priors import prior_search
from umit_pacs.store.stories import story, study_summaries

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder with a small checkpoint that answers every task."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_tiny_checkpoint(folder)
    return folder


def search_of(node, study_uid):
    return prior_search(node.catalogue, node.status(study_uid).input_set_id)


def texts_of(pacs, study_uid):
    """Everything that the text reports of the study say, as Orthanc holds them."""
    reports = pacs.instances({"StudyInstanceUID": study_uid, "Modality": "SR"})
    return [str(pacs.rest("GET", f"/instances/{report['ID']}/simplified-tags")) for report in reports]


def test_the_draft_compares_with_the_earlier_study_and_no_draft_is_made_of_it(tmp_path, checkpoint):
    study_uid, path = write_radiograph(tmp_path / "study")
    earlier = study_of("20250601")
    write_earlier(tmp_path / "archive", earlier)
    with running_orthanc(tmp_path / "pacs", more_configuration={"DicomAlwaysAllowGet": True}) as pacs:
        store_with_storescu([tmp_path / "archive"], pacs.address)
        peer = destination("pacs", pacs, answers_commitment=True, answers_query=True, priors_by=PriorBy.GET)
        with running_node(tmp_path / "node", [peer], model={"checkpoint": str(checkpoint)}) as node:
            pacs.register(node.address)
            node.send(path)
            assert node.wait_for_end(study_uid).state is InputSetState.CONFIRMED
            search = search_of(node, study_uid)
            assert (search.state, search.reason) == (PriorState.READ, "")
            assert search.reading.study_instance_uid == earlier.study_instance_uid
            assert any("2025-06-01" in text for text in texts_of(pacs, study_uid))
            assert list((tmp_path / "node" / "data" / "priors").iterdir()) == []
            assert [told.study_instance_uid for told in study_summaries(node.catalogue)] == [study_uid]
            assert story(node.catalogue, earlier.study_instance_uid) is None
            of_earlier = pacs.instances({"StudyInstanceUID": earlier.study_instance_uid})
            assert len(of_earlier) == 1
            assert node.stop() == 0


def test_an_archive_that_never_answers_holds_a_study_no_longer_than_the_time_limit(tmp_path, checkpoint):
    study_uid, path = write_radiograph(tmp_path / "study")
    with running_orthanc(tmp_path / "pacs") as pacs, socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        archive = Peer(name="archive", ae_title="SILENT", host=LOOPBACK, port=port, priors_by=PriorBy.GET)
        peers = [destination("pacs", pacs, answers_commitment=True), archive]
        settings = {"model": {"checkpoint": str(checkpoint)}, "priors": {"time_limit_s": 3.0}}
        with running_node(tmp_path / "node", peers, **settings) as node:
            pacs.register(node.address)
            node.send(path)
            assert node.wait_for_end(study_uid).state is InputSetState.CONFIRMED
            search = search_of(node, study_uid)
            assert search.state is PriorState.NONE
            assert search.reason in ("too_late", "peer_unavailable")
            assert search.until - search.wanted_at == timedelta(seconds=3)
            assert not any("2025-06-01" in text for text in texts_of(pacs, study_uid))
