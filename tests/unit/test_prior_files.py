"""Images of earlier studies in the store: kept when they are wanted, within the limit, and gone without a trace."""

from io import BytesIO

import pytest
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tests.receive_fixtures import ct_slice
from umit_pacs.dicom_network.services import StoreRequest
from umit_pacs.dicom_network.statuses import Refusal, Status
from umit_pacs.prior_files import IncomingPrior, forget_prior, prior_bytes, prior_instances, priors_held
from umit_pacs.store.files import PayloadFiles


@pytest.fixture
def files(tmp_path):
    files = PayloadFiles(tmp_path)
    yield files
    files.close()


def encoded(image) -> bytes:
    stream = BytesIO()
    dcmwrite(stream, image, implicit_vr=False, little_endian=True)
    return stream.getvalue()


def request_of(image, **changes) -> StoreRequest:
    told = {
        "sop_class_uid": str(image.SOPClassUID),
        "sop_instance_uid": str(image.SOPInstanceUID),
        "transfer_syntax_uid": str(ExplicitVRLittleEndian),
        "calling_ae_title": "PACS",
        "called_ae_title": "UMIT_PRIOR",
        "peer_host": "127.0.0.1",
    }
    return StoreRequest(**(told | changes))


def received(files, image, *, wanted=True, maximum_bytes=10_000_000, **changes):
    """The answer to one C-STORE."""
    incoming = IncomingPrior(request_of(image, **changes), files, lambda _: wanted, maximum_bytes=maximum_bytes)
    incoming.write(memoryview(encoded(image)))
    return incoming.finish().status


def names_below(folder):
    return [path.name for path in folder.rglob("*") if path.is_file() and path.suffix in (".dcm", ".part", ".once")]


def test_what_is_wanted_is_kept_and_everything_about_it_stands_in_the_file(files):
    image = ct_slice()
    assert received(files, image) is Status.SUCCESS
    assert received(files, image) is Status.SUCCESS  # sent again, it is the same
    (stored,) = prior_instances(files, image.StudyInstanceUID)
    assert (stored.sop_instance_uid, stored.series_instance_uid) == (image.SOPInstanceUID, image.SeriesInstanceUID)
    assert (stored.calling_ae_title, stored.called_ae_title) == ("PACS", "UMIT_PRIOR")
    assert (
        files.path(stored.relative_path).stat().st_size
        == stored.size_bytes
        == prior_bytes(files, image.StudyInstanceUID)
    )
    assert priors_held(files) == {image.StudyInstanceUID}


def test_what_is_not_wanted_or_not_what_was_announced_leaves_nothing(files):
    assert received(files, ct_slice(), wanted=False) is Status.NOT_AUTHORISED
    assert received(files, ct_slice(), sop_instance_uid=generate_uid()) is Status.DATA_SET_MISMATCH
    assert names_below(files.root) == []


def test_one_image_over_the_limit_is_refused_while_it_comes(files):
    image = ct_slice()
    incoming = IncomingPrior(request_of(image), files, lambda _: True, maximum_bytes=1000)
    incoming.write(memoryview(bytes(900)))
    with pytest.raises(Refusal) as refused:
        incoming.write(memoryview(bytes(200)))
    assert (refused.value.status, refused.value.reason) == (Status.OUT_OF_RESOURCES, "too_big")
    incoming.abandon()
    assert names_below(files.root) == []


def test_nothing_more_of_a_study_is_taken_once_it_is_over_the_limit(files):
    study = generate_uid()
    images = [ct_slice(StudyInstanceUID=study) for _ in range(3)]
    limit = len(encoded(images[0]))
    statuses = [received(files, image, maximum_bytes=limit) for image in images]
    assert statuses == [Status.SUCCESS, Status.OUT_OF_RESOURCES, Status.OUT_OF_RESOURCES]


def test_a_writer_that_died_leaves_nothing_that_would_be_recorded_as_a_study(files, tmp_path):
    image = ct_slice()
    assert received(files, image) is Status.SUCCESS
    unfinished = IncomingPrior(request_of(image), files, lambda _: True, maximum_bytes=10_000_000)
    unfinished.write(memoryview(b"half"))
    files.close()  # as if its process had ended
    after = PayloadFiles(tmp_path)
    assert list(after.leftovers()) == []
    assert names_below(tmp_path / "incoming") == []
    assert len(prior_instances(after, image.StudyInstanceUID)) == 1


def test_forgetting_twice_is_the_same_as_once(files):
    image = ct_slice()
    received(files, image)
    assert forget_prior(files, image.StudyInstanceUID) == 1
    assert forget_prior(files, image.StudyInstanceUID) == 0
    assert priors_held(files) == frozenset()
    assert forget_prior(files, "../instances") == 0
