"""Routes: what they said of a message, and what their deliveries are bound by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UNROUTED = sa.text("routed = 0 AND known_as IS NULL")
OPEN = sa.text("ordered = 1 AND state IN ('queued', 'claimed')")
FALLS_BACK = sa.text("fall_back_at IS NOT NULL AND state IN ('queued', 'claimed', 'dead')")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add columns, which are NULL for what is there, and tables."""
    _extend_deliveries()
    op.create_index(
        "messages_unrouted",
        "messages",
        ["pk"],
        sqlite_where=UNROUTED,
        postgresql_where=UNROUTED,
    )
    _create_what_routes_said()
    _create_what_routes_remember()


def _extend_deliveries() -> None:
    # Each without a default: neither database writes a row for that.
    op.add_column("deliveries", sa.Column("route", sa.Text()))
    op.add_column("deliveries", sa.Column("expires_at", sa.BigInteger()))
    op.add_column("deliveries", sa.Column("otherwise", sa.Text()))
    op.add_column("deliveries", sa.Column("fall_back_at", sa.BigInteger()))
    op.add_column("deliveries", sa.Column("fallback_of", sa.Text()))
    op.add_column("deliveries", sa.Column("ordered", sa.SmallInteger()))
    op.create_index(
        "deliveries_order",
        "deliveries",
        ["sink", "mailbox", "sequence"],
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
    op.create_index(
        "deliveries_fall_back",
        "deliveries",
        ["fall_back_at"],
        sqlite_where=FALLS_BACK,
        postgresql_where=FALLS_BACK,
    )


def _create_what_routes_said() -> None:
    op.create_table(
        "rulings",
        sa.Column("message", NUMBER, autoincrement=False, nullable=False),
        sa.Column("steps", sa.Text(), nullable=False),
        sa.Column("taken", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["message"], ["messages.pk"]),
        sa.PrimaryKeyConstraint("message"),
    )
    op.create_table(
        "takings",
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("message", NUMBER, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["message"], ["messages.pk"]),
        sa.PrimaryKeyConstraint("route", "message"),
        sqlite_with_rowid=False,
    )


def _create_what_routes_remember() -> None:
    op.create_table(
        "recent",
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("first", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("route", "key"),
        sqlite_with_rowid=False,
    )
    op.create_index("recent_at", "recent", ["at"])
    op.create_table(
        "drift",
        sa.Column("mailbox", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("filled", sa.BigInteger(), nullable=False),
        sa.Column("empty", sa.BigInteger(), nullable=False),
        sa.Column("filled_at", sa.BigInteger()),
        sa.Column("mails", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("mailbox", "route", "field"),
        sqlite_with_rowid=False,
    )
