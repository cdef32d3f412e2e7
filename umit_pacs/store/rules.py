"""The published rules with their history; what they say is `routing`'s matter, here they are text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from umit_pacs.store.database import Catalogue, utc_now
from umit_pacs.store.tables import RulesVersion

#: key of PostgreSQL's advisory lock: versions are counted without gaps.
_PUBLISH_LOCK = 0x72756C65


class RulesVersionUnknown(LookupError):
    """There is no version of the rules with this number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRules:
    """One version of the rules."""

    version: int
    text: str
    author: str
    comment: str
    published_at: datetime


def publish_rules(catalogue: Catalogue, rules_text: str, author: str, comment: str = "") -> int:
    """Put the rules in force and return their version; the text in force already gets no new one."""
    with catalogue.writing() as session:
        _count_alone(session)
        current = _current(session)
        if current is not None and current.text == rules_text:
            return current.version
        return _publish(session, rules_text, author, comment)


def current_rules(catalogue: Catalogue) -> PublishedRules | None:
    """The rules in force, None before the first are published."""
    with catalogue.reading() as session:
        row = _current(session)
        return None if row is None else _published(row)


def rules_version(catalogue: Catalogue, version: int) -> PublishedRules:
    """One version of the rules. Raises RulesVersionUnknown."""
    with catalogue.reading() as session:
        row = session.get(RulesVersion, version)
        if row is None:
            raise RulesVersionUnknown(str(version))
        return _published(row)


def rules_history(catalogue: Catalogue) -> tuple[PublishedRules, ...]:
    """Every version, the one in force first."""
    with catalogue.reading() as session:
        rows = session.scalars(select(RulesVersion).order_by(RulesVersion.version.desc()))
        return tuple(_published(row) for row in rows)


def rollback_rules(catalogue: Catalogue, version: int, author: str) -> int:
    """Publish the text of an earlier version again, as a new version. Raises RulesVersionUnknown."""
    with catalogue.writing() as session:
        _count_alone(session)
        earlier = session.get(RulesVersion, version)
        if earlier is None:
            raise RulesVersionUnknown(str(version))
        return _publish(session, earlier.text, author, f"back to version {version}")


def _count_alone(session: Session) -> None:
    """Let nobody else count until the transaction ends; SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PUBLISH_LOCK})


def _current(session: Session) -> RulesVersion | None:
    return session.scalar(select(RulesVersion).order_by(RulesVersion.version.desc()).limit(1))


def _publish(session: Session, rules_text: str, author: str, comment: str) -> int:
    current = _current(session)
    version = 1 if current is None else current.version + 1
    session.add(RulesVersion(version=version, text=rules_text, author=author, comment=comment, published_at=utc_now()))
    return version


def _published(row: RulesVersion) -> PublishedRules:
    return PublishedRules(
        version=row.version, text=row.text, author=row.author, comment=row.comment, published_at=row.published_at
    )
