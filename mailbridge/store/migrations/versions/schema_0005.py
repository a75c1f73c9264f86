"""Outgoing mail: the mail, its bytes, whom it goes to, and which request it was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SENDS = sa.text("send IS NOT NULL")
IN_DOUBT = sa.text("in_doubt_at IS NOT NULL")
ENDED = sa.text("at IS NOT NULL")
OLD = sa.text("message IS NULL AND send IS NULL AND resolved_at IS NOT NULL")


def upgrade() -> None:
    """Add tables, and the column that leads from a delivery to them."""
    _mails()
    _recipients()
    _requests()
    _deliveries()


def _mails() -> None:
    op.create_table(
        "sends",
        sa.Column("pk", NUMBER, nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("id", "mailbox", "sender", "message_id", "via", "client")
        ),
        sa.Column("accepted_at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("in_doubt_at", sa.BigInteger()),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("released", sa.SmallInteger(), nullable=False),
        sa.Column("reply", sa.Text()),
        sa.Column("bounced_at", sa.BigInteger()),
        sa.Column("bounce", sa.Text()),
        sa.Column("kept", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pk"),
    )
    op.create_index("sends_id", "sends", ["id"], unique=True)
    op.create_index("sends_message_id", "sends", ["message_id"])
    op.create_index("sends_kept", "sends", ["kept", "accepted_at", "pk"])
    op.create_index(
        "sends_in_doubt",
        "sends",
        ["mailbox", "in_doubt_at"],
        sqlite_where=IN_DOUBT,
        postgresql_where=IN_DOUBT,
    )
    op.create_table(
        "send_raw",
        sa.Column("send", NUMBER, autoincrement=False, nullable=False),
        sa.Column("bytes", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["send"], ["sends.pk"]),
        sa.PrimaryKeyConstraint("send"),
    )


def _recipients() -> None:
    op.create_table(
        "recipients",
        sa.Column("send", NUMBER, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("mailbox", "address", "state", "code", "reply")
        ),
        sa.Column("at", sa.BigInteger()),
        sa.Column("bounced_at", sa.BigInteger()),
        sa.Column("bounce", sa.Text()),
        sa.ForeignKeyConstraint(["send"], ["sends.pk"]),
        sa.PrimaryKeyConstraint("send", "number"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "recipients_at",
        "recipients",
        ["mailbox", "at"],
        sqlite_where=ENDED,
        postgresql_where=ENDED,
    )


def _requests() -> None:
    op.create_table(
        "idempotency",
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("client", "key", "digest", "send_id")
        ),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("client", "key"),
        sqlite_with_rowid=False,
    )
    op.create_index("idempotency_at", "idempotency", ["at"])


def _deliveries() -> None:
    op.add_column("deliveries", sa.Column("send", NUMBER))
    op.create_index(
        "deliveries_send", "deliveries", ["send"], sqlite_where=SENDS, postgresql_where=SENDS
    )
    op.drop_index("deliveries_old_notices", "deliveries")
    op.create_index(
        "deliveries_old_notices",
        "deliveries",
        ["resolved_at"],
        sqlite_where=OLD,
        postgresql_where=OLD,
    )
