"""Versions of a draft and their withdrawal: new states, when an attempt began, what takes an object back, and by what
means each peer is told.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INPUT_SET_STATES = (
    "assembled",
    "routed",
    "analysed",
    "composed",
    "delivered",
    "confirmed",
    "not_routed",
    "held",
    "failed",
)
_NEW_INPUT_SET_STATES = ("superseded", "unchanged", "retracting", "retracted")
_DELIVERY_STATES = ("pending", "sent", "confirmed", "dead")
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
)


def _word(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=32)


def _widen(table: str, name: str, words: tuple[str, ...], *more: str) -> None:
    with op.batch_alter_table(table) as batch:
        batch.alter_column(
            name, existing_type=_word(name, *words), type_=_word(name, *words, *more), existing_nullable=False
        )


def upgrade() -> None:
    for table in ("input_sets", "state_changes"):
        _widen(table, "state", _INPUT_SET_STATES, *_NEW_INPUT_SET_STATES)
    _widen("deliveries", "state", _DELIVERY_STATES, "withdrawn")
    _widen("result_objects", "kind", _KINDS, "notice")
    with op.batch_alter_table("deliveries") as batch:
        batch.add_column(
            sa.Column(
                "begun_at",
                sa.DateTime(timezone=True),
                nullable=True,
                comment="first attempt; the peer may have it since, answered or not",
            )
        )
        batch.add_column(
            sa.Column(
                "withdrawn_by",
                sa.String(length=64),
                nullable=True,
                comment="the rejection note or notice that takes it back",
            )
        )
        batch.create_foreign_key(
            op.f("fk_deliveries_withdrawn_by_result_objects"), "result_objects", ["withdrawn_by"], ["sop_instance_uid"]
        )
    op.execute(
        "UPDATE deliveries SET begun_at = COALESCE(sent_at, changed_at) WHERE sent_at IS NOT NULL OR attempts > 0"
    )
    comment = "how it is told that an object does not stand any more"
    with op.batch_alter_table("peers") as batch:
        batch.add_column(sa.Column("retire_by", _word("retire_by", "iocm", "notice"), nullable=True, comment=comment))
    op.execute("UPDATE peers SET retire_by = 'notice'")
    with op.batch_alter_table("peers") as batch:
        batch.alter_column("retire_by", existing_type=sa.String(length=32), nullable=False, existing_comment=comment)
