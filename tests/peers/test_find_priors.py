"""Earlier studies of a patient, found by C-FIND at Orthanc and DCMTK."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from tests.peer_programs import LOOPBACK, free_port, running_dcmqrscp, running_orthanc, running_storescp
from tests.peer_programs import store_with_storescu as store
from tests.prior_fixtures import new_study, study_of, write_radiograph
from tests.receive_fixtures import AE_TITLE
from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.query import series_of_study, studies_of_patient
from umit_pacs.errors import PeerRefused, PeerUnavailable
from umit_pacs.routing.comparable import earlier_studies

pytestmark = pytest.mark.peer

ASKING = {"calling_ae_title": AE_TITLE, "timeouts": NetworkTimeouts(connect_s=5, response_s=20)}
FIVE_YEARS = (date(2021, 3, 2), date(2026, 3, 2))


@pytest.mark.parametrize("running", [running_orthanc, running_dcmqrscp])
def test_an_archive_says_which_earlier_studies_a_patient_has(tmp_path: Path, running) -> None:
    earlier, older, outside = study_of("20250601"), study_of("20240601"), study_of("20100601")
    namesake = study_of("20251201", patient_id="PAT-00012")
    for index, study in enumerate((earlier, older, outside, namesake)):
        write_radiograph(tmp_path / "studies", study, seed=index)
    with running(tmp_path / "peer") as peer:
        store([tmp_path / "studies"], peer.address)
        found = studies_of_patient("pacs", peer.address, "PAT-0001", FIVE_YEARS, **ASKING)
        assert {match.study_instance_uid for match in found} == {earlier.study_instance_uid, older.study_instance_uid}
        chosen = earlier_studies(found, new_study(), oldest_days=1826, modalities={"CR"}).studies
        assert [match.study_date for match in chosen] == ["20250601", "20240601"]
        (series,) = series_of_study(peer.address, earlier.study_instance_uid, **ASKING)
        assert series.modality == "CR"
        assert series.body_part in ("CHEST", "")  # an optional key, which dcmqrscp does not know


def test_a_peer_without_queries_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    with running_storescp(tmp_path) as peer, pytest.raises(PeerRefused):
        studies_of_patient("pacs", peer.address, "PAT-0001", FIVE_YEARS, **ASKING)
    nobody = PeerAddress(ae_title="NOBODY", host=LOOPBACK, port=free_port())
    with pytest.raises(PeerUnavailable):
        studies_of_patient("pacs", nobody, "PAT-0001", FIVE_YEARS, **ASKING)
