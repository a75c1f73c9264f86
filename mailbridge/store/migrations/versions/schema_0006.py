"""Test mails: what was sent to be recognised, and which messages were such mails."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OPEN = sa.text("scheduled = 1 AND outcome IS NULL")


def upgrade() -> None:
    """Add the table, and the column that tells a test from a mail."""
    op.create_table(
        "probes",
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("nonce", "mailbox", "message_id", "webhooks")
        ),
        sa.Column("scheduled", sa.SmallInteger(), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger()),
        sa.Column("message", sa.Text()),
        sa.Column("copies", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("found", sa.Text()),
        sa.PrimaryKeyConstraint("nonce"),
        sqlite_with_rowid=False,
    )
    op.create_index("probes_mailbox", "probes", ["mailbox", "begun_at"])
    op.create_index(
        "probes_open",
        "probes",
        ["mailbox"],
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
    op.add_column("messages", sa.Column("test", sa.SmallInteger()))
