"""The DICOM application entities and reporting systems that the node knows; they change while it runs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import delete, select

from umit_pacs.prior_studies import PriorBy
from umit_pacs.settings import is_this_machine
from umit_pacs.states import PeerKind, RetireBy, RetrieveBy
from umit_pacs.store.database import Catalogue, upsert
from umit_pacs.store.tables import PeerRow

_SCHEMES = ("mllp", "mllps", "http", "https")
#: HL7 v2.5.1 2.A.33.
_LONGEST_HD = 227
_DELIMITERS = frozenset("|~&\\")
_SECRET = re.compile(r"(env|file):.+")


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageAddresses:
    """MSH-3 to MSH-6 of HL7 messages to one system, components separated by ^; "": what the message has of itself."""

    sending_application: str = ""
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            text = getattr(self, name)
            if len(text) > _LONGEST_HD or not text.isprintable() or _DELIMITERS & set(text):
                words = name.replace("_", "-")
                raise ValueError(f"--{words}: at most {_LONGEST_HD} characters, without | ~ & and \\")


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A DICOM application entity, and what it may and can do; or a reporting system, which only takes drafts."""

    #: our name for it, as rules write it.
    name: str
    #: "" for a reporting system.
    ae_title: str
    host: str
    port: int
    may_send: bool = True
    receives_results: bool = False
    #: answers C-FIND.
    answers_query: bool = False
    #: answers storage commitment.
    answers_commitment: bool = False
    #: addresses that it may call from; () stands for `host`.
    addresses: tuple[str, ...] = ()
    #: how it is told that an object does not stand any more. A notice is read everywhere; a rejection note that the
    #: peer does not understand would leave the object standing without a word.
    retire_by: RetireBy = RetireBy.NOTICE
    #: output profile of what it receives; "": the rule's.
    profile: str = ""
    #: address of a reporting system, by its scheme mllp, mllps, http or https; "": DICOM.
    url: str = ""
    #: certificate authority of a reporting system's certificate; "": the system's.
    ca_file: str = ""
    #: whether it is asked for earlier studies of a patient, and how it hands them over.
    priors_by: PriorBy = PriorBy.NO
    #: certificate that this node shows to a reporting system, and its key where that is in a file of its own.
    certificate_file: str = ""
    key_file: str = ""
    #: where the bearer token for a FHIR server is, env:NAME or file:PATH; the token itself is never kept.
    token: str = ""
    message_addresses: MessageAddresses = field(default_factory=MessageAddresses)
    #: whether it is asked for the final reports of drafted studies, and how it hands them over.
    reports_by: RetrieveBy = RetrieveBy.NO

    def __post_init__(self) -> None:
        is_titled = bool(self.url) or 1 <= len(self.ae_title) <= 16
        if not self.name or not is_titled or not self.host or not 0 <= self.port <= 65535:
            raise ValueError(f"peer {self.name!r}: a name, an AE title of 1 to 16 characters, a host and a port")

    @property
    def kind(self) -> PeerKind:
        """What it speaks."""
        if not self.url:
            return PeerKind.DICOM
        return PeerKind.HL7 if self.url.startswith("mllp") else PeerKind.FHIR

    @property
    def allowed_addresses(self) -> tuple[str, ...]:
        """Where its associations may come from."""
        return self.addresses or (self.host,)


def reporting_system(name: str, url: str, **abilities: Any) -> Peer:
    """The peer at this address, which takes drafts and nothing else; `abilities` are fields of it.

    Raises ValueError for an address that is none, or that would carry a draft to another machine without TLS; and for
    what a system of this kind has no use for.
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if parts.scheme not in _SCHEMES or not parts.hostname or port is None or parts.query or parts.username:
        raise ValueError("an address such as mllps://ris.hospital:2575 or https://fhir.hospital/r4")
    if parts.scheme in ("mllp", "http") and not is_this_machine(parts.hostname):
        raise ValueError("drafts leave this machine by mllps or https alone")
    found = Peer(
        name=name,
        ae_title="",
        host=parts.hostname,
        port=port,
        may_send=False,
        receives_results=True,
        url=url.rstrip("/"),
        **abilities,
    )
    _require_fitting(found)
    return found


def _require_fitting(system: Peer) -> None:
    """Raise ValueError when a reporting system is given what would have no effect."""
    if system.url.startswith(("mllp:", "http:")) and (system.ca_file or system.certificate_file):
        raise ValueError("certificates are for mllps and https; this address has no TLS")
    if system.key_file and not system.certificate_file:
        raise ValueError("--key-file: it is the key of a certificate; name that by --certificate-file")
    if system.token and system.kind is not PeerKind.FHIR:
        raise ValueError("--token: HL7 over MLLP has no tokens; a certificate (--certificate-file) shows who sends")
    if system.token and not _SECRET.fullmatch(system.token):
        raise ValueError("--token: env:NAME or file:PATH, which says where the token is; never the token itself")
    if system.message_addresses != MessageAddresses() and system.kind is not PeerKind.HL7:
        raise ValueError("sending and receiving application and facility are for HL7 messages (mllp, mllps)")


def peers(catalogue: Catalogue) -> tuple[Peer, ...]:
    """Every peer by name."""
    with catalogue.reading() as session:
        return tuple(_peer(row) for row in session.scalars(select(PeerRow).order_by(PeerRow.name)))


def peer(catalogue: Catalogue, name: str) -> Peer | None:
    """The peer of this name."""
    with catalogue.reading() as session:
        row = session.get(PeerRow, name)
        return None if row is None else _peer(row)


def peers_with_ae_title(catalogue: Catalogue, ae_title: str) -> tuple[Peer, ...]:
    """The peers with this AE title: usually one, more where stations share a title."""
    with catalogue.reading() as session:
        rows = session.scalars(select(PeerRow).where(PeerRow.ae_title == ae_title).order_by(PeerRow.name))
        return tuple(_peer(row) for row in rows)


def add_peer(catalogue: Catalogue, added: Peer) -> None:
    """Add a peer, or change the one of this name."""
    row = {name: getattr(added, name) for name in Peer.__dataclass_fields__}
    row["addresses"] = json.dumps(added.addresses)
    row["message_addresses"] = json.dumps(asdict(added.message_addresses))
    with catalogue.writing() as session:
        upsert(session, PeerRow, row, key=["name"])


def remove_peer(catalogue: Catalogue, name: str) -> bool:
    """Remove the peer of this name; returns False when there is none. Its deliveries stay in the history."""
    with catalogue.writing() as session:
        removed = session.scalar(delete(PeerRow).where(PeerRow.name == name).returning(PeerRow.name))
    return removed is not None


def _peer(row: PeerRow) -> Peer:
    return Peer(
        name=row.name,
        ae_title=row.ae_title,
        host=row.host,
        port=row.port,
        may_send=row.may_send,
        receives_results=row.receives_results,
        answers_query=row.answers_query,
        answers_commitment=row.answers_commitment,
        addresses=tuple(json.loads(row.addresses)),
        retire_by=row.retire_by,
        profile=row.profile,
        url=row.url,
        ca_file=row.ca_file,
        priors_by=row.priors_by,
        certificate_file=row.certificate_file,
        key_file=row.key_file,
        token=row.token,
        message_addresses=MessageAddresses(**json.loads(row.message_addresses)),
        reports_by=row.reports_by,
    )
