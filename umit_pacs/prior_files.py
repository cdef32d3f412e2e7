"""Images of earlier studies on their way into the store, and out of it again: they are read once and then deleted.

They live in a folder of their own and have no rows: nothing assembles, routes or analyses them as a study, and the same
images sent as a study come into the study's folder as if these were not there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from umit_pacs.dicom_network.data_sets import Identity, NotUnderstood, read_identity
from umit_pacs.dicom_network.part10 import FileMeta, encode_file_meta, read_file_meta
from umit_pacs.dicom_network.services import StoreAnswer, StoreRequest
from umit_pacs.dicom_network.statuses import Refusal, Status
from umit_pacs.dicom_network.stored_files import figures_of, identity_in, stored_instance
from umit_pacs.handoffs import CompletionReason, InputSet, StoredInstance
from umit_pacs.prior_studies import PriorStudy
from umit_pacs.store.files import PayloadFiles, flush_folder, is_valid_uid, prior_path

#: what is unfinished or kept under its final name goes away when a process starts anew; see `PayloadFiles.leftovers`.
_SUFFIX = ".once"
#: reason of a refusal: the study has more bytes than are fetched.
TOO_BIG = "too_big"


class IncomingPrior:
    """One data set of an earlier study, from C-STORE to its durable file."""

    def __init__(
        self, request: StoreRequest, files: PayloadFiles, is_wanted: Callable[[str], bool], *, maximum_bytes: int
    ) -> None:
        """is_wanted: whether the earlier study of this Study Instance UID is being fetched.

        maximum_bytes: nothing more of a study is taken once it has more.
        """
        self._files, self._is_wanted, self._maximum_bytes = files, is_wanted, maximum_bytes
        self._meta = FileMeta(
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid if is_valid_uid(request.sop_instance_uid) else "",
            transfer_syntax_uid=request.transfer_syntax_uid,
            sending_ae_title=request.calling_ae_title,
            receiving_ae_title=request.called_ae_title,
            sending_host=request.peer_host,
        )
        self._file = files.open_incoming(suffix=_SUFFIX)
        try:
            self._file.write(encode_file_meta(self._meta))
        except BaseException:
            self._file.discard()
            raise
        self._offset = self._file.size_bytes

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes. Raises Refusal, StoreFull or StoreFailed."""
        if self._file.size_bytes + len(fragment) > self._offset + self._maximum_bytes:
            raise Refusal(Status.OUT_OF_RESOURCES, TOO_BIG)
        self._file.write(fragment)

    def finish(self) -> StoreAnswer:
        """Keep the file, durably; what nobody asked for is refused and not kept."""
        with self._file:
            try:
                identity = read_identity(self._read_head, self._meta.transfer_syntax_uid)
            except NotUnderstood:
                return StoreAnswer(status=Status.CANNOT_UNDERSTAND, reason="cannot_understand")
            if not _is_consistent(identity, self._meta):
                return StoreAnswer(status=Status.DATA_SET_MISMATCH, reason="other_sop_instance_uid")
            if not self._is_wanted(identity.study_instance_uid):
                return StoreAnswer(status=Status.NOT_AUTHORISED, reason="earlier_study_not_wanted")
            if prior_bytes(self._files, identity.study_instance_uid) > self._maximum_bytes:
                return StoreAnswer(status=Status.OUT_OF_RESOURCES, reason=TOO_BIG)
            self._file.make_durable()
            self._file.keep_as(prior_path(identity.study_instance_uid, identity.sop_instance_uid))
            return StoreAnswer(status=Status.SUCCESS)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._file.discard()

    def _read_head(self, size_bytes: int) -> bytes:
        return self._file.read_head(size_bytes, offset=self._offset)


def _is_consistent(identity: Identity, meta: FileMeta) -> bool:
    uids = (identity.study_instance_uid, identity.series_instance_uid, identity.sop_instance_uid)
    is_announced = (identity.sop_class_uid, identity.sop_instance_uid) == (meta.sop_class_uid, meta.sop_instance_uid)
    return is_announced and all(map(is_valid_uid, uids))


def images_of(study: PriorStudy) -> InputSet:
    """The images of an earlier study in the form that preparing takes; it is never recorded as an input set."""
    return InputSet(
        input_set_id="",
        study_instance_uid=study.study_instance_uid,
        instances=study.instances,
        calling_ae_title=study.instances[-1].calling_ae_title,
        completed_by=CompletionReason.EXPECTED_COUNT,
    )


def prior_bytes(files: PayloadFiles, study_instance_uid: str) -> int:
    """Bytes of an earlier study that are here."""
    return sum(path.stat().st_size for path in _paths(files, study_instance_uid))


def prior_instances(files: PayloadFiles, study_instance_uid: str) -> tuple[StoredInstance, ...]:
    """The instances of an earlier study that are here, by their UIDs; everything about them stands in the files."""
    return tuple(_stored(path, files) for path in _paths(files, study_instance_uid))


def forget_prior(files: PayloadFiles, study_instance_uid: str) -> int:
    """Delete the images of an earlier study; how many files. Doing it twice is the same as once."""
    paths = _paths(files, study_instance_uid)
    for path in paths:
        path.unlink(missing_ok=True)
    folder = files.priors_folder / study_instance_uid
    if folder.is_dir():
        folder.rmdir()
        flush_folder(files.priors_folder)
    return len(paths)


def priors_held(files: PayloadFiles) -> frozenset[str]:
    """Study Instance UIDs of the earlier studies that have files here."""
    if not files.priors_folder.is_dir():
        return frozenset()
    return frozenset(path.name for path in files.priors_folder.iterdir() if path.is_dir())


def _paths(files: PayloadFiles, study_instance_uid: str) -> list[Path]:
    if not is_valid_uid(study_instance_uid):
        return []
    return sorted((files.priors_folder / study_instance_uid).glob("*.dcm"))


def _stored(path: Path, files: PayloadFiles) -> StoredInstance:
    meta, _ = read_file_meta(path)
    return stored_instance(meta, identity_in(path), path.relative_to(files.root).as_posix(), **figures_of(path))
