"""A study that is sent to a running node comes back to Orthanc as a confirmed draft."""

import pytest

from tests.node_fixtures import destination, running_node, write_radiograph
from tests.peer_programs import running_orthanc
from tests.tiny_checkpoint import write_tiny_checkpoint
from umit_pacs.states import InputSetState

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder with a small checkpoint that answers every task."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_tiny_checkpoint(folder)
    return folder


def test_a_radiograph_comes_back_confirmed(tmp_path, checkpoint):
    study_uid, path = write_radiograph(tmp_path / "study")
    with running_orthanc(tmp_path / "pacs") as pacs:
        peer = destination("pacs", pacs, answers_commitment=True, answers_query=True)
        with running_node(tmp_path / "node", [peer], model={"checkpoint": str(checkpoint)}) as node:
            pacs.register(node.address)
            node.send(path)
            status = node.wait_for_end(study_uid)
            assert status.state is InputSetState.CONFIRMED
            held = pacs.instances({"StudyInstanceUID": study_uid})
            assert len(held) >= 2
            assert node.stop() == 0
