"""The record of an instance in the store, made from its file alone."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, Unpack

from umit_pacs.dicom_network.data_sets import Identity, read_identity
from umit_pacs.dicom_network.part10 import FileMeta, read_file_meta
from umit_pacs.handoffs import InstanceUID, SeriesUID, StoredInstance, StudyUID

_HASH_BYTES = 1024 * 1024


class FileFigures(TypedDict):
    """What a file tells without being read as DICOM; the hash is that of the data set."""

    sha256: str
    size_bytes: int
    received_at: datetime


def stored_instance(
    meta: FileMeta, identity: Identity, relative_path: str, **figures: Unpack[FileFigures]
) -> StoredInstance:
    """The row of a stored instance; everything in it stands in the file."""
    return StoredInstance(
        study_instance_uid=StudyUID(identity.study_instance_uid),
        series_instance_uid=SeriesUID(identity.series_instance_uid),
        sop_instance_uid=InstanceUID(identity.sop_instance_uid),
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        calling_ae_title=meta.sending_ae_title,
        called_ae_title=meta.receiving_ae_title,
        peer_host=meta.sending_host,
        relative_path=relative_path,
        **figures,
    )


def figures_of(path: Path) -> FileFigures:
    """The figures of a finished file."""
    status = path.stat()
    return {
        "sha256": data_set_sha256(path),
        "size_bytes": status.st_size,
        "received_at": datetime.fromtimestamp(status.st_mtime, UTC),
    }


def data_set_sha256(path: Path) -> str:
    """Hex SHA-256 of the data set in a stored file, without preamble and file meta information."""
    _, offset = read_file_meta(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def identity_in(path: Path) -> Identity:
    """Who the data set in a stored file says it is. Raises NotUnderstood."""
    meta, offset = read_file_meta(path)

    def read_head(size_bytes: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size_bytes)

    return read_identity(read_head, meta.transfer_syntax_uid)
