"""Earlier studies, fetched from Orthanc and DCMTK by C-GET and C-MOVE; none of them becomes a study to be read."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pydicom
import pytest

from tests.peer_programs import LOOPBACK, free_port, running_dcmqrscp, running_orthanc, store_with_storescu
from tests.prior_fixtures import RULES, PriorNode, routed_node, study_of, write_radiograph
from tests.receive_fixtures import loopback_peer, running_receiver
from umit_pacs.dicom_network.addresses import PeerAddress
from umit_pacs.prior_studies import PriorBy, PriorState
from umit_pacs.routing.rules_text import parse_rules
from umit_pacs.settings import AssembleSettings
from umit_pacs.steps.assemble import assemble_due
from umit_pacs.steps.route import route
from umit_pacs.store.database import utc_now
from umit_pacs.store.instances import count_recorded, studies_waiting

pytestmark = pytest.mark.peer

PRIOR_TITLE = "UMIT_PRIOR"
ORTHANC_ANSWERS = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}
ARCHIVES = {
    "orthanc": partial(running_orthanc, more_configuration=ORTHANC_ANSWERS),
    "dcmqrscp": running_dcmqrscp,
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[PriorNode]:
    node = routed_node(tmp_path / "node")
    yield node
    node.catalogue.close()


@pytest.fixture
def earlier(tmp_path: Path):
    """The study before, and one before that."""
    before = study_of("20250601")
    write_radiograph(tmp_path / "archive", before, seed=2)
    write_radiograph(tmp_path / "archive", study_of("20240601"), seed=3)
    return before


@contextlib.contextmanager
def archive(tmp_path: Path, kind: str, *, moves_to: PeerAddress | None = None) -> Iterator[PeerAddress]:
    """A running archive that holds everything below `archive`."""
    if kind == "orthanc":
        running = ARCHIVES[kind](tmp_path / "peer", node=moves_to)
    else:
        running = ARCHIVES[kind](tmp_path / "peer", known_peers=[moves_to] if moves_to else [])
    with running as peer:
        store_with_storescu([tmp_path / "archive"], peer.address)
        yield peer.address


def assert_nothing_is_read_as_a_study(node: PriorNode) -> None:
    assert count_recorded(node.catalogue) == len(node.input_set.instances)
    assert studies_waiting(node.catalogue) == ()
    settings = AssembleSettings(quiet_period_s=0.0, ask_expected_count=False)
    made = assemble_due(node.catalogue, settings, now=utc_now(), count_instances=lambda *_: None, files=node.files)
    assert made == ()


def assert_fetched(node: PriorNode, study, fetched_by: str) -> None:
    found = node.found()
    assert (found.state, found.reason) == (PriorState.FETCHED, "")
    assert found.study is not None
    assert found.study.study_instance_uid == study.study_instance_uid
    assert (found.study.study_date.isoformat(), found.study.fetched_by) == ("2025-06-01", fetched_by)
    (path,) = node.kept_files()
    (instance,) = found.study.instances
    assert node.files.path(instance.relative_path) == path
    assert pydicom.dcmread(path).StudyInstanceUID == study.study_instance_uid
    assert_nothing_is_read_as_a_study(node)


@pytest.mark.parametrize("kind", ["orthanc", "dcmqrscp"])
def test_the_newest_earlier_study_comes_by_c_get(tmp_path, node, earlier, kind) -> None:
    with archive(tmp_path, kind) as address:
        node.knows(address, PriorBy.GET)
        node.search()
    assert_fetched(node, earlier, "get")


@pytest.mark.parametrize("kind", ["orthanc", "dcmqrscp"])
def test_the_newest_earlier_study_comes_by_c_move_to_a_title_of_its_own(tmp_path, node, earlier, kind) -> None:
    sender = loopback_peer("ORTHANC" if kind == "orthanc" else "DCMQRSCP")
    with running_receiver(node.folder, sender) as receiver:
        here = PeerAddress(ae_title=PRIOR_TITLE, host=LOOPBACK, port=receiver.port)
        with archive(tmp_path, kind, moves_to=here) as address:
            node.knows(address, PriorBy.MOVE)
            node.search()
        assert_fetched(node, earlier, "move")


def test_what_comes_to_that_title_and_was_not_asked_for_is_refused(tmp_path, node) -> None:
    path = write_radiograph(tmp_path / "archive", study_of("20250601"))
    with running_receiver(node.folder) as receiver:
        here = PeerAddress(ae_title=PRIOR_TITLE, host=LOOPBACK, port=receiver.port)
        sent = store_with_storescu([path], here, check=False)
    assert "Store Response (Unknown Status: 0x124)" in sent.stdout
    assert node.kept_files() == []
    assert_nothing_is_read_as_a_study(node)


def test_the_same_images_sent_as_a_study_are_a_study(tmp_path, node, earlier) -> None:
    with archive(tmp_path, "dcmqrscp") as address:
        node.knows(address, PriorBy.GET)
        node.search()
    (kept,) = node.kept_files()
    with running_receiver(node.folder) as receiver:
        store_with_storescu([kept], receiver.address)
        receiver.wait_for_rows(len(node.input_set.instances) + 1)
    (waiting,) = studies_waiting(node.catalogue)
    assert waiting.study_instance_uid == earlier.study_instance_uid


def test_images_that_were_received_before_are_not_fetched_again(tmp_path, node, earlier) -> None:
    with running_receiver(node.folder) as receiver:
        store_with_storescu([tmp_path / "archive"], receiver.address)
        receiver.wait_for_rows(len(node.input_set.instances) + 2)
    with archive(tmp_path, "orthanc") as address:  # which says how many there are
        node.knows(address, PriorBy.GET)
        found = node.search()
    assert found.study is not None
    assert (found.study.fetched_by, node.kept_files()) == ("here", [])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"patient_birth_date": "19700101"}, "other_patient"),
        ({"date": "20200101"}, "none_found"),
        ({"patient_id": "PAT-0002"}, "none_found"),
    ],
)
def test_a_study_that_may_not_be_compared_is_not_fetched(tmp_path, node, other, reason) -> None:
    write_radiograph(tmp_path / "archive", study_of(**{"date": "20250601", **other}))
    with archive(tmp_path, "orthanc") as address:
        node.knows(address, PriorBy.GET)
        found = node.search()
    assert (found.state, found.reason, node.kept_files()) == (PriorState.NONE, reason, [])


def test_another_patients_images_under_the_right_number_are_thrown_away(tmp_path, node) -> None:
    # dcmqrscp does not tell the issuer; only the images do.
    def of_another_issuer(ds):
        ds.IssuerOfPatientID = "OTHER"

    node.catalogue.close()
    node = routed_node(tmp_path / "other", change=lambda ds: setattr(ds, "IssuerOfPatientID", "OURS"))
    write_radiograph(tmp_path / "archive", study_of("20250601"), change=of_another_issuer)
    with archive(tmp_path, "dcmqrscp") as address:
        node.knows(address, PriorBy.GET)
        found = node.search()
    assert (found.state, found.reason, node.kept_files()) == (PriorState.NONE, "other_patient", [])
    assert found.study_instance_uid == ""
    node.catalogue.close()


@pytest.mark.parametrize("priors_by", [PriorBy.GET, PriorBy.MOVE])
def test_a_study_that_is_too_big_is_not_kept_and_no_older_one_is_taken(tmp_path, node, earlier, priors_by) -> None:
    with running_receiver(node.folder, loopback_peer("DCMQRSCP")) as receiver:
        here = PeerAddress(ae_title=PRIOR_TITLE, host=LOOPBACK, port=receiver.port)
        with archive(tmp_path, "dcmqrscp", moves_to=here) as address:
            node.knows(address, priors_by)
            found = node.search(maximum_bytes=2048)
    assert (found.state, found.reason, node.kept_files()) == (PriorState.NONE, "too_big", [])
    assert found.study_instance_uid == earlier.study_instance_uid


def test_a_full_store_takes_no_earlier_study(tmp_path, node, earlier) -> None:
    node.settings = node.settings.model_copy(
        update={"store": node.settings.store.model_copy(update={"minimum_free_bytes": 2**62})}
    )
    with archive(tmp_path, "dcmqrscp") as address:
        node.knows(address, PriorBy.GET)
        found = node.search()
    assert (found.state, found.reason, node.kept_files()) == (PriorState.NONE, "store_full", [])


def test_a_peer_that_is_away_ends_the_search_with_its_reason(node) -> None:
    node.knows(PeerAddress(ae_title="NOBODY", host=LOOPBACK, port=free_port()), PriorBy.GET)
    found = node.search()
    assert (found.state, found.reason) == (PriorState.NONE, "peer_unavailable")


def test_a_peer_that_never_answers_costs_no_more_than_the_time_limit(node) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        node.knows(PeerAddress(ae_title="SILENT", host=LOOPBACK, port=silent.getsockname()[1]), PriorBy.GET)
        found = node.search(time_limit_s=0.5)
    assert found.state is PriorState.NONE
    assert found.reason in ("peer_unavailable", "too_late")


def test_of_two_archives_the_one_that_answers_is_enough(tmp_path, node, earlier) -> None:
    node.knows(PeerAddress(ae_title="NOBODY", host=LOOPBACK, port=free_port()), PriorBy.GET, "away")
    with archive(tmp_path, "dcmqrscp") as address:
        node.knows(address, PriorBy.GET)
        node.search()
    assert_fetched(node, earlier, "get")


def test_our_own_results_are_no_earlier_study(tmp_path, node) -> None:
    def of_ours(ds):
        ds.Manufacturer = "UMIT PACS"

    write_radiograph(tmp_path / "archive", study_of("20250601"), change=of_ours)
    with archive(tmp_path, "orthanc") as address:
        node.knows(address, PriorBy.GET)
        found = node.search()
    assert (found.state, found.reason, node.kept_files()) == (PriorState.NONE, "no_comparable_series", [])


def test_without_a_peer_that_is_asked_nothing_is_wanted(node) -> None:
    assert not node.begin()


def test_a_rule_may_say_that_nothing_is_compared(node) -> None:
    node.knows(PeerAddress(ae_title="NOBODY", host=LOOPBACK, port=free_port()), PriorBy.GET)
    silent = RULES.replace('mode = "shadow"', 'mode = "shadow", compare = false')
    node.decision = route(node.input_set, parse_rules(silent), 1, node.files)
    assert not node.begin()


def test_a_study_that_is_routed_again_is_looked_for_again(tmp_path, node, earlier) -> None:
    node.knows(PeerAddress(ae_title="NOBODY", host=LOOPBACK, port=free_port()), PriorBy.GET)
    assert node.search().state is PriorState.NONE
    with archive(tmp_path, "dcmqrscp") as address:
        node.knows(address, PriorBy.GET)
        node.search()
        assert_fetched(node, earlier, "get")
        before = node.found()
        assert node.search() == before  # which is not taken up again while its images wait to be read
