"""The man page ``mailbridge.yaml.5``: the keys of the file, as docs/config.md has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from scripts import config_reference
from scripts.manual_roff import text

_NAMED: Final = frozenset({"apps", "mailboxes", "routes", "webhooks"})
_LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*\)")
_STRONG: Final = re.compile(r"(?<![\w*])\*\*?([^*\s](?:[^*]*[^*\s])?)\*\*?(?![\w*])")
_WHAT: Final = (
    "The configuration of mailbridge is one YAML file. `mailbridge check` says what is wrong with "
    "it, `mailbridge config schema` prints its JSON Schema."
)
_HOW: Final = (
    "Durations are written as `90s`, `5m`, `2h` or `7d`, sizes as `25MB`. A secret never stands in "
    "the file: it is written as `{env: NAME}`, `{file: PATH}` or `{credential: NAME}`. Keys are "
    "shown with dots between the levels."
)


def page(markdown: str) -> str:
    """Return the whole page; ``markdown`` is docs/config.md."""
    return "\n".join(_lines(config_reference.page(markdown))) + "\n"


def _lines(markdown: str) -> Iterator[str]:
    yield '.\\" made by `make docs` from docs/config.md; do not edit'
    yield '.TH MAILBRIDGE.YAML 5 "" mailbridge "mailbridge manual"'
    yield ".SH NAME\nmailbridge.yaml \\- the configuration file of mailbridge"
    yield ".SH DESCRIPTION"
    yield f"{text(_WHAT)}\n.PP\n{text(_HOW)}"
    for name, keys in config_reference.tables(markdown).items():
        yield f'.SH "{name.upper()}{".NAME" if name in _NAMED else ""}"'
        for key in keys:
            yield f".TP\n\\fB{text(key.name)}\\fR"
            yield f"({_plain(key.kind)}; {_plain(_said(key.default))}) {_plain(key.meaning)}"
    yield ".SH SEE ALSO\n.BR mailbridge (1)"


def _said(default: str) -> str:
    return default if default.startswith(("required", "one of")) else f"default: {default}"


def _plain(words: str) -> str:
    return text(_STRONG.sub(r"\1", _LINK.sub(r"\1", words)).replace("\\|", "|"))
