"""More kinds of result object: the CHECK constraint of `result_objects.kind` becomes wider.

SQLite changes a constraint by copying the table, which other tables refer to: `migrate` keeps foreign keys unenforced
meanwhile and looks at all of them afterwards.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FIRST = ("text_report", "measurement_report", "secondary_capture")
_ADDED = (
    "basic_text_report",
    "qualitative_report",
    "segmentation",
    "presentation_state",
    "key_objects",
    "document",
    "rejection_note",
)


def _kind(*words: str) -> sa.Enum:
    return sa.Enum(*words, name="kind", native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    with op.batch_alter_table("result_objects") as table:
        table.alter_column("kind", existing_type=_kind(*_FIRST), type_=_kind(*_FIRST, *_ADDED), existing_nullable=False)
