"""Output profiles of peers, and the objects that failed their check."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
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


def upgrade() -> None:
    op.create_table(
        "stopped_objects",
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(*_KINDS, name="kind", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("number", sa.Integer(), nullable=False, comment="position in its series; 0: the whole kind"),
        sa.Column("detail", sa.Text(), nullable=False, comment="everything that is wrong with it; no patient data"),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_stopped_objects_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("input_set_id", "kind", "number", name=op.f("pk_stopped_objects")),
    )
    comment = "its own output profile; empty: the rule's"
    with op.batch_alter_table("peers") as batch:
        batch.add_column(sa.Column("profile", sa.String(length=64), nullable=True, comment=comment))
    op.execute("UPDATE peers SET profile = ''")
    with op.batch_alter_table("peers") as batch:
        batch.alter_column("profile", existing_type=sa.String(length=64), nullable=False, existing_comment=comment)
