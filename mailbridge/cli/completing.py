"""Names for the shell to complete: what the configuration file calls its parts.

Only the file's own text is read, no secret that it points to, and nothing is ever printed or
raised: whatever is wrong with the file, there are no names then. Names that the file could not
have are left out, since shells expand what they are given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mailbridge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def mailboxes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the mailboxes of the file whose names begin so."""
    return _names(ctx, "mailboxes", incomplete)


def webhooks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the webhooks of the file whose names begin so."""
    return _names(ctx, "webhooks", incomplete)


def routes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the routes of the file whose names begin so."""
    return _names(ctx, "routes", incomplete)


def apps(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the apps of the file whose names begin so."""
    return _names(ctx, "apps", incomplete)


#: the argument NAME of a command about one mailbox
MailboxName = Annotated[
    str, typer.Argument(metavar="NAME", help="The mailbox.", autocompletion=mailboxes)
]


def _names(ctx: typer.Context, section: str, incomplete: str) -> list[str]:
    entries = _document(ctx).get(section)
    names = entries if isinstance(entries, dict) else ()
    return sorted(
        name for name in names if name.startswith(incomplete) and _NAME.fullmatch(str(name))
    )


def _document(ctx: typer.Context) -> Mapping[str, object]:
    """Return the file as it is written; nothing when there is none or it cannot be read."""
    from mailbridge.config import find
    from mailbridge.config.document import read
    from mailbridge.config.problems import Problems

    try:
        path = find(ctx.find_root().params.get("config"))
        return read(path, Problems(str(path))) or {}
    except (ConfigError, ValueError):
        return {}
