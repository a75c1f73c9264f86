"""The UIDLs of POP3 mailboxes, apart from the messages: they are kept for longer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

GONE = sa.text("gone_at IS NOT NULL")


def upgrade() -> None:
    """Add the table, with what is known already."""
    op.create_table(
        "uidls",
        sa.Column("mailbox", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("uidl", sa.Text(), nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("mailbox", "folder", "uidl"),
        sqlite_with_rowid=False,
    )
    op.create_index("uidls_gone", "uidls", ["gone_at"], sqlite_where=GONE, postgresql_where=GONE)
    op.execute(
        "INSERT INTO uidls (mailbox, folder, uidl) "
        "SELECT mailbox, folder, uidl FROM messages WHERE protocol = 'pop3' "
        "UNION SELECT mailbox, folder, uidl FROM gaps "
        "WHERE protocol = 'pop3' AND vanished_at IS NULL"
    )
