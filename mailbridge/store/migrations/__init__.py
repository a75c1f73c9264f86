"""The history of the schema, run by Alembic when a database is created or opened by a newer us."""
