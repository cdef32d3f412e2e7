"""What a sending peer said about the size of a study, so that it is asked once and `why` can tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from umit_pacs.store.database import Catalogue, upsert
from umit_pacs.store.tables import ExpectedCount


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerCount:
    """What the sending peer last said about the size of a study."""

    study_instance_uid: str
    calling_ae_title: str
    #: instances at the peer without our own; None: it gave no answer.
    expected: int | None
    #: instances here when it was asked, without our own.
    held: int
    asked_at: datetime


def record_peer_count(catalogue: Catalogue, count: PeerCount) -> None:
    """Note what the peer said, over what it said before."""
    with catalogue.writing() as session:
        upsert(session, ExpectedCount, asdict(count), key=["study_instance_uid"])


def peer_count(catalogue: Catalogue, study_uid: str) -> PeerCount | None:
    """What the peer last said, None when it was not asked."""
    with catalogue.reading() as session:
        row = session.get(ExpectedCount, study_uid)
        if row is None:
            return None
        return PeerCount(**{name: getattr(row, name) for name in PeerCount.__dataclass_fields__})
