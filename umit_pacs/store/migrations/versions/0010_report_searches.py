"""Final reports that are asked for: which peers, and the search for each study."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "report_searches",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column(
            "peer", sa.String(length=64), nullable=False, comment="name of the peer; the peer itself may be gone"
        ),
        sa.Column(
            "begun_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when the draft came to the end of its path",
        ),
        sa.Column("looks", sa.Integer(), nullable=False, comment="times that the peer answered"),
        sa.Column("retrieved", sa.Integer(), nullable=False, comment="reports that came"),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=True, comment="last look, answered or not"),
        sa.Column("next_look_at", sa.DateTime(timezone=True), nullable=True, comment="null: it has ended"),
        sa.Column(
            "reason",
            sa.String(length=64),
            nullable=False,
            comment="stable word for the end, or for what failed last; empty for neither",
        ),
        sa.Column("detail", sa.Text(), nullable=False, comment="the same for people; no patient data"),
        sa.PrimaryKeyConstraint("study_instance_uid", "peer", name=op.f("pk_report_searches")),
    )
    op.create_index(op.f("ix_report_searches_next_look_at"), "report_searches", ["next_look_at"])
    comment = "whether it is asked for final reports, and how it hands them over"
    reports_by = sa.Enum("no", "get", "move", name="reports_by", native_enum=False, create_constraint=True, length=32)
    with op.batch_alter_table("peers") as table:
        table.add_column(sa.Column("reports_by", reports_by, nullable=True, comment=comment))
    op.execute("UPDATE peers SET reports_by = 'no'")
    with op.batch_alter_table("peers") as table:
        table.alter_column("reports_by", existing_type=sa.String(length=32), nullable=False, existing_comment=comment)
