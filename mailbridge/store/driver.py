"""What runs for every mail, said to the database as briefly as SQLAlchemy allows.

Two things cost more than the database's own work when statements run thousands of times: to
expand a list into one parameter for each value, and to sort a mapping for each row into the
order of the driver. So a list is one parameter here, and rows are tuples in that order already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class _List(sa.types.TypeDecorator[Sequence[Any]]):
    """A list of values as one parameter: an array, or for SQLite, which has none, JSON."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, of: sa.types.TypeEngine[Any]) -> None:
        super().__init__()
        self.of = of

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the type that this database knows."""
        sqlite = dialect.name == "sqlite"
        return dialect.type_descriptor(sa.Text() if sqlite else sa.ARRAY(self.of))

    def process_bind_param(self, value: Sequence[Any] | None, dialect: sa.Dialect) -> Any:
        """Return what the driver is given."""
        return json.dumps(value) if dialect.name == "sqlite" else value


class _Members(FunctionElement[Any]):
    """The values of a list, as a query."""

    inherit_cache = True


@compiles(_Members, "sqlite")
def _from_json(element: _Members, compiler: Any, **options: Any) -> str:
    values = compiler.process(element.clauses, **options)
    return f"(SELECT value FROM json_each({values}))"  # noqa: S608 - made by the compiler


@compiles(_Members, "postgresql")
def _from_array(element: _Members, compiler: Any, **options: Any) -> str:
    return f"(SELECT unnest({compiler.process(element.clauses, **options)}))"


def among(column: sa.Column[Any], name: str = "ids") -> sa.ColumnElement[bool]:
    """Return the condition that ``column`` is one of the values of the parameter ``name``.

    As ``in_`` with an expanding parameter, but one statement for lists of every length.
    """
    # Not ``in_``, which takes its own kinds of operands only; and no condition of our own
    # either: SQLAlchemy compares those with 1 for SQLite, which then uses no index.
    members = _Members(sa.bindparam(name, type_=_List(column.type)))
    return column.bool_op("IN")(members)


#: how parameters are written when they go by their places
_STYLES: Final = {"sqlite": "qmark", "postgresql": "format"}


class Many:
    """An INSERT or UPDATE that is run for many rows; a row has its values in order of ``names``.

    ``names`` are the statement's parameters in the order in which it mentions them; for an
    INSERT, columns in the order of the table. Any other order is refused, not put right.
    """

    def __init__(self, statement: sa.Insert | sa.Update, *names: str) -> None:
        self._statement = statement
        self._names = names
        self._texts: dict[str, str] = {}

    def run(self, connection: sa.Connection, rows: list[tuple[Any, ...]]) -> None:
        """Run it for each of these rows, of which there is at least one."""
        name = connection.dialect.name
        text = self._texts.get(name)
        if text is None:
            text = self._texts[name] = self._compile(connection.dialect)
        connection.exec_driver_sql(text, rows)

    def _compile(self, dialect: sa.Dialect) -> str:
        made: Any = type(dialect)
        insert = isinstance(self._statement, sa.Insert)
        compiled: Any = self._statement.compile(
            dialect=made(paramstyle=_STYLES[dialect.name]),
            column_keys=list(self._names) if insert else None,
        )
        if tuple(compiled.positiontup) != self._names:
            msg = f"parameters are {compiled.positiontup}, not {list(self._names)}"
            raise RuntimeError(msg)
        return str(compiled)
