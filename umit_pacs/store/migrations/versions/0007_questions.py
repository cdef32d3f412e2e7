"""Questions: input sets of images that a Key Object Selection asks about, and what became of each selection."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "input_sets",
        sa.Column(
            "asked_by",
            sa.String(length=64),
            nullable=True,
            comment="the Key Object Selection that asks about these images; null: a version of the study",
        ),
    )
    op.create_table(
        "questions",
        sa.Column("document", sa.String(length=64), nullable=False, comment="its SOP Instance UID"),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False, comment="why it is not answered; empty where it is"),
        sa.Column("detail", sa.Text(), nullable=False, comment="the same for people; no patient data"),
        sa.Column("input_set_id", sa.String(length=32), nullable=True, comment="the images that it asks about"),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(reason = '') = (input_set_id IS NOT NULL)", name=op.f("ck_questions_asked_or_reason")),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_questions_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("document", name=op.f("pk_questions")),
    )
    op.create_index(op.f("ix_questions_study_instance_uid"), "questions", ["study_instance_uid"], unique=False)
