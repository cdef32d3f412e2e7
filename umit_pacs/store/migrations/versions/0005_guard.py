"""What the consistency guard found."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_CHECKS = (
    "identity",
    "image_writing",
    "instruction",
    "laterality",
    "negation",
    "sex",
    "age",
    "body_part",
    "comparison",
    "measurement",
    "scope",
    "language",
    "repetition",
)
_OUTCOMES = ("repaired", "removed", "withheld")


def _word(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    op.create_table(
        "guardings",
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("images_read", sa.Integer(), nullable=False),
        sa.Column(
            "why_not_read",
            sa.String(length=64),
            nullable=False,
            comment="stable word; empty: every chosen image was searched",
        ),
        sa.Column("guarded_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_guardings_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("input_set_id", name=op.f("pk_guardings")),
    )
    op.create_table(
        "faults",
        sa.Column("fault_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("guard_check", _word("guard_check", *_CHECKS), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("outcome", _word("outcome", *_OUTCOMES), nullable=False),
        sa.Column(
            "result_index",
            sa.Integer(),
            nullable=True,
            comment="0-based position in the findings; null: of an image",
        ),
        sa.Column(
            "sentence_index", sa.Integer(), nullable=True, comment="0-based in the answer; null: the whole answer"
        ),
        sa.Column("subjects", sa.Text(), nullable=False, comment="keys of findings, diseases or regions, JSON list"),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True, comment="of an image"),
        sa.Column("frame_number", sa.Integer(), nullable=True, comment="1-based, of a multi-frame image"),
        sa.Column(
            "box_px",
            sa.Text(),
            nullable=False,
            comment="left, top, right, bottom in source pixels, JSON list or null",
        ),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["guardings.input_set_id"], name=op.f("fk_faults_input_set_id_guardings")
        ),
        sa.PrimaryKeyConstraint("fault_id", name=op.f("pk_faults")),
    )
    op.create_index(op.f("ix_faults_input_set_id"), "faults", ["input_set_id"])
