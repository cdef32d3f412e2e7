"""Feedback: what radiologists made of drafts, finding by finding."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _word(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("feedback_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column(
            "document", sa.String(length=64), nullable=False, comment="SOP Instance UID, or a digest of the message"
        ),
        sa.Column("source", _word("source", "assessment", "final_report", "final_message", "review"), nullable=False),
        sa.Column(
            "reason",
            sa.String(length=64),
            nullable=False,
            comment="why it tells nothing of a draft; empty where it does",
        ),
        sa.Column("detail", sa.Text(), nullable=False, comment="the same for people; no patient data"),
        sa.Column("study_instance_uid", sa.Text(), nullable=False, comment="as the document says; may be empty"),
        sa.Column(
            "input_set_id", sa.String(length=32), nullable=True, comment="the version of the draft that is meant"
        ),
        sa.Column("checkpoint", sa.Text(), nullable=False, comment="name of the checkpoint that made the draft"),
        sa.Column("checkpoint_version", sa.Text(), nullable=False),
        sa.Column("checkpoint_sha256", sa.String(length=64), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("rules_version", sa.Integer(), nullable=False),
        sa.Column("verdict", _word("verdict", "accepted", "edited", "rejected"), nullable=True),
        sa.Column(
            "text_change",
            sa.Float(),
            nullable=True,
            comment="share of the words that differ from the draft's, 0 to 1",
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(reason = '') = (verdict IS NOT NULL)", name=op.f("ck_feedback_verdict_or_reason")),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_feedback_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("feedback_id", name=op.f("pk_feedback")),
        sa.UniqueConstraint("document", name=op.f("uq_feedback_document")),
    )
    op.create_index(op.f("ix_feedback_input_set_id"), "feedback", ["input_set_id"], unique=False)
    op.create_index(op.f("ix_feedback_checkpoint_sha256_rule"), "feedback", ["checkpoint_sha256", "rule"], unique=False)
    op.create_table(
        "feedback_findings",
        sa.Column("feedback_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("finding", sa.String(length=64), nullable=False),
        sa.Column(
            "verdict",
            _word("verdict", "accepted", "modified", "laterality", "certainty", "rejected", "omission", "addition"),
            nullable=False,
        ),
        sa.Column("drafted_presence", sa.String(length=64), nullable=True),
        sa.Column("drafted_side", sa.String(length=64), nullable=True),
        sa.Column("final_presence", sa.String(length=64), nullable=True),
        sa.Column("final_side", sa.String(length=64), nullable=True),
        sa.Column(
            "comment_code",
            _word(
                "comment_code",
                "wrong_side",
                "wrong_place",
                "not_there",
                "missed",
                "wrong_certainty",
                "wording",
                "other",
            ),
            nullable=True,
        ),
        sa.ForeignKeyConstraint(
            ["feedback_id"], ["feedback.feedback_id"], name=op.f("fk_feedback_findings_feedback_id_feedback")
        ),
        sa.PrimaryKeyConstraint("feedback_id", "position", name=op.f("pk_feedback_findings")),
    )
