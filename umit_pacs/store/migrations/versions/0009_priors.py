"""Earlier studies: the search for each, and whether a peer is asked for them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _word(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    op.create_table(
        "priors",
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("state", _word("state", "wanted", "fetched", "reading", "read", "none"), nullable=False),
        sa.Column(
            "study_instance_uid",
            sa.String(length=64),
            nullable=False,
            comment="of the study that is fetched; empty before one is chosen",
        ),
        sa.Column(
            "study_date",
            sa.String(length=64),
            nullable=False,
            comment="of that study, YYYY-MM-DD; empty before one is chosen",
        ),
        sa.Column(
            "peer",
            sa.String(length=64),
            nullable=False,
            comment="name of the peer that has it; the peer itself may be gone",
        ),
        sa.Column(
            "reason",
            sa.String(length=64),
            nullable=False,
            comment="why nothing is compared; empty while something may be",
        ),
        sa.Column("detail", sa.Text(), nullable=False, comment="the same for people; no patient data"),
        sa.Column(
            "study",
            sa.Text(),
            nullable=False,
            comment="prior_studies.PriorStudy as JSON; empty before it is here",
        ),
        sa.Column(
            "reading",
            sa.Text(),
            nullable=False,
            comment="prior_studies.PriorReading as JSON; empty before it is read",
        ),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False, comment="nothing waits for it longer than this"),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_priors_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("input_set_id", name=op.f("pk_priors")),
    )
    op.create_index(op.f("ix_priors_state"), "priors", ["state"])
    op.create_index(op.f("ix_priors_study_instance_uid"), "priors", ["study_instance_uid"])
    comment = "whether it is asked for earlier studies, and how it hands them over"
    with op.batch_alter_table("peers") as table:
        priors_by = _word("priors_by", "no", "get", "move")
        table.add_column(sa.Column("priors_by", priors_by, nullable=True, comment=comment))
    op.execute("UPDATE peers SET priors_by = 'no'")
    with op.batch_alter_table("peers") as table:
        table.alter_column("priors_by", existing_type=sa.String(length=32), nullable=False, existing_comment=comment)
