"""Reporting systems: their addresses among the peers, and the kinds of object that they get."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KINDS = (
    "text_report",
    "measurement_report",
    "secondary_capture",
    "basic_text_report",
    "qualitative_report",
    "segmentation",
    "presentation_state",
    "key_objects",
    "document",
    "rejection_note",
    "notice",
)
_ADDED = ("hl7_report", "fhir_report", "hl7_withdrawal", "fhir_withdrawal")
_COLUMNS = {
    "url": "address of a reporting system; empty: a DICOM application entity",
    "ca_file": "certificate authority of a reporting system; empty: the system's",
}


def _kind(*words: str) -> sa.Enum:
    return sa.Enum(*words, name="kind", native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    for name in ("result_objects", "stopped_objects"):
        with op.batch_alter_table(name) as table:
            before, after = _kind(*_KINDS), _kind(*_KINDS, *_ADDED)
            table.alter_column("kind", existing_type=before, type_=after, existing_nullable=False)
    path = sa.String(length=512)
    with op.batch_alter_table("peers") as table:
        for name, comment in _COLUMNS.items():
            table.add_column(sa.Column(name, path, nullable=True, comment=comment))
    op.execute("UPDATE peers SET url = '', ca_file = ''")
    with op.batch_alter_table("peers") as table:
        for name, comment in _COLUMNS.items():
            table.alter_column(name, existing_type=path, nullable=False, existing_comment=comment)
