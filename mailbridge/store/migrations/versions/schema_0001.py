"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite makes only a plain INTEGER primary key an alias of the row number.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Create every table and index in an empty database."""
    _create_messages()
    _create_raw()
    _create_deliveries()
    _create_attempts()
    _create_checkpoints()
    _create_gaps()
    _create_sequences()
    _create_meta()
    if op.get_bind().dialect.name == "postgresql":
        # Mail is mostly base64 or compressed already: trying to compress it again costs more
        # processor time than everything else that is done to store it.
        op.execute("ALTER TABLE raw ALTER COLUMN bytes SET STORAGE EXTERNAL")


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("pk", NUMBER, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("mailbox", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("uidl", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=True),
        sa.Column("accepted_at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("settle", sa.SmallInteger(), nullable=False),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("known_as", sa.Text(), nullable=True),
        sa.Column("routed", sa.Integer(), nullable=False),
        sa.Column("kept", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pk"),
    )
    op.create_index("messages_id", "messages", ["id"], unique=True)
    op.create_index("messages_kept", "messages", ["kept", "accepted_at", "pk"])
    op.create_index("messages_known_as", "messages", ["known_as"], **_where("known_as IS NOT NULL"))
    op.create_index(
        "messages_message_id", "messages", ["message_id"], **_where("message_id IS NOT NULL")
    )
    op.create_index(
        "messages_place",
        "messages",
        ["mailbox", "folder", "uidvalidity", "uid", "uidl", "protocol"],
        unique=True,
    )
    op.create_index(
        "messages_unsettled", "messages", ["mailbox", "folder", "pk"], **_where("settle = 1")
    )


def _create_raw() -> None:
    op.create_table(
        "raw",
        sa.Column("message", NUMBER, autoincrement=False, nullable=False),
        sa.Column("bytes", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["message"], ["messages.pk"]),
        sa.PrimaryKeyConstraint("message"),
    )


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("pk", NUMBER, nullable=False),
        sa.Column("message", NUMBER, nullable=True),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("mailbox", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("rescues", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("first_due_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("replay", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("resolved_at", sa.BigInteger(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["message"], ["messages.pk"]),
        sa.PrimaryKeyConstraint("pk"),
    )
    _index_deliveries()


def _index_deliveries() -> None:
    op.create_index(
        "deliveries_alone",
        "deliveries",
        ["sink", "state", "due_at", "pk"],
        **_where("state = 'queued' AND rescues >= 3"),
    )
    op.create_index(
        "deliveries_claimed", "deliveries", ["lease_until"], **_where("state = 'claimed'")
    )
    op.create_index("deliveries_dead", "deliveries", ["sink", "pk"], **_where("state = 'dead'"))
    op.create_index(
        "deliveries_due", "deliveries", ["sink", "due_at", "pk"], **_where("state = 'queued'")
    )
    op.create_index("deliveries_held", "deliveries", ["sink", "pk"], **_where("state = 'held'"))
    op.create_index("deliveries_message", "deliveries", ["message", "sink", "replay"], unique=True)
    op.create_index(
        "deliveries_notice",
        "deliveries",
        ["event_id", "sink", "replay"],
        unique=True,
        **_where("message IS NULL"),
    )
    op.create_index(
        "deliveries_old_notices",
        "deliveries",
        ["resolved_at"],
        **_where("message IS NULL AND resolved_at IS NOT NULL"),
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("delivery", NUMBER, autoincrement=False, nullable=False),
        sa.Column("fence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["delivery"], ["deliveries.pk"]),
        sa.PrimaryKeyConstraint("delivery", "fence"),
        sqlite_with_rowid=False,
    )


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("mailbox", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("baseline_uid", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.Text(), nullable=True),
        sa.Column("watching_since", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("accepted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("mailbox", "folder"),
    )


def _create_gaps() -> None:
    op.create_table(
        "gaps",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("mailbox", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("uidl", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("vanished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "gaps_due", "gaps", ["mailbox", "folder", "due_at"], **_where("vanished_at IS NULL")
    )


def _create_sequences() -> None:
    op.create_table(
        "sequences",
        sa.Column("mailbox", sa.Text(), nullable=False),
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("mailbox", "sink"),
    )


def _create_meta() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
