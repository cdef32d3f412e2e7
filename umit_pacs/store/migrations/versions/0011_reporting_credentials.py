"""What reporting systems demand: this node's certificate, a token by reference, and names in the message header."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_COLUMNS = {
    "certificate_file": "certificate that this node shows to a reporting system; empty: none",
    "key_file": "its private key; empty: in the same file",
    "token": "where the bearer token is, env:NAME or file:PATH; never the token",
}
_ADDRESSES = "MSH-3 to MSH-6 as JSON"


def upgrade() -> None:
    path = sa.String(length=512)
    with op.batch_alter_table("peers") as table:
        for name, comment in _COLUMNS.items():
            table.add_column(sa.Column(name, path, nullable=True, comment=comment))
        table.add_column(sa.Column("message_addresses", sa.Text(), nullable=True, comment=_ADDRESSES))
    op.execute("UPDATE peers SET certificate_file = '', key_file = '', token = '', message_addresses = '{}'")
    with op.batch_alter_table("peers") as table:
        for name, comment in _COLUMNS.items():
            table.alter_column(name, existing_type=path, nullable=False, existing_comment=comment)
        table.alter_column("message_addresses", existing_type=sa.Text(), nullable=False, existing_comment=_ADDRESSES)
