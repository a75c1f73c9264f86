"""What is logged: every event is in the list, and nothing in it says who writes what to whom."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import structlog

from mailbridge import app, log
from mailbridge.config import Keep
from mailbridge.store.rows import Purged
from scripts import manual_log_events as listing

ROOT = Path(__file__).parents[2]
PAGE = listing.PAGE.read_text(encoding="utf-8")
SAID = (
    "550 5.1.1 <max.mustermann@firma.example>: Recipient rejected",
    'no such user: "max mustermann"@firma.example',
    "login_hint=max.mustermann%40firma.example was refused",
    "Max.Mustermann@firma.example und jörg.müller@firma.example",
)


@pytest.fixture
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_list_is_what_the_code_logs() -> None:
    """Every event of the code is listed with level and fields, and no other: `make docs`."""
    assert listing.page(PAGE, listing.events()) == PAGE


def test_every_logger_is_one_that_the_list_is_made_from() -> None:
    """No module logs under another name, by another method or through the standard library."""
    usual = {*listing.LEVELS, "bind", "new", *vars(log)}  # the module has that name, too
    for path in sorted((ROOT / "mailbridge").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        made = re.findall(
            r"^ *([\w.]+)(?:: .*)? = (?:structlog\.get_logger|log\.bind)\(", text, re.MULTILINE
        )
        used = re.findall(r"(?<![\w.])(?:self\._)?log\.(\w+)\(", text)

        assert set(made) <= {"log", "self._log"}, path
        assert text.count("get_logger(") + text.count("log.bind(") == len(made), path
        assert set(used) <= usual, path
        assert not re.search(r"\blogging\.(debug|info|warning|error|exception|log)\(", text), path


def test_an_event_without_a_meaning_is_told(tmp_path: Path) -> None:
    """Who adds an event has to say what it means; an event that is gone leaves the list."""
    (tmp_path / "module.py").write_text(
        "log.info('a.b', id=1)\n"
        "def work(about: dict) -> None:\n"
        "    facts = {'mailbox': 1}\n"
        "    facts['more'] = 2\n"
        "    log.exception('b.c', **facts)\n"
        "    log.debug('b.c', **about)\n"
    )
    found = listing.events(tmp_path)
    rows = "| `a.b` |  |  | one |\n| `b.c` |  |  | two |\n| `gone` |  |  | three |\n"
    text = f"head\n{listing.BEGIN}\n{rows}{listing.END}\ntail\n"

    made = listing.page(text, found)
    assert "| `a.b` | info | `id` | one |\n" in made
    assert "| `b.c` | debug, error | `mailbox`, `more`, `exception`, … | two |\n" in made
    assert "gone" not in made
    with pytest.raises(SystemExit, match=r"no meaning is given for a\.b"):
        listing.page(text.replace("`a.b`", "`a.c`"), found)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("said", SAID)
@pytest.mark.usefixtures("restored")
def test_an_address_in_an_answer_is_masked(form: Literal["json", "console"], said: str) -> None:
    """Servers repeat addresses: above debug, only the part behind the @ gets into the log."""
    stream = io.StringIO()
    log.configure(form, "debug", stream=stream)
    logger = structlog.get_logger()
    logger.warning("delivery.dead", reason=said, nested={"a": [said]}, error=ValueError(said))
    logging.getLogger("library").error(said)
    logger.error("delivery.bug", exc_info=ValueError(said))
    shown = stream.getvalue()

    assert "ustermann" not in shown
    assert "müller" not in shown
    assert shown.count("***@firma.example") >= 5
    logger.debug("relay.taken_addresses", sender=said)
    assert "ustermann" in stream.getvalue()


@pytest.mark.usefixtures("restored")
def test_what_only_looks_like_an_address_is_left_alone() -> None:
    """Decorators in tracebacks, lone signs and the lines' own structure stay as they are."""
    stream = io.StringIO()
    log.configure("json", stream=stream)
    event: dict[str, Any] = {"a": "@wraps(fn)", "b": "foo @ bar", "c": ["@b", "x@"], "d": 7}
    structlog.get_logger().info("some.event", **event)

    shown = json.loads(stream.getvalue())
    assert {name: shown[name] for name in event} == event


async def test_retention_says_what_it_removed() -> None:
    """What is removed for its age has one line for all steps; a round without work has none."""

    class Keeper:
        config = SimpleNamespace(state=SimpleNamespace(keep=Keep()))
        left: ClassVar = [Purged(raw=2, more=True), Purged(raw=1, messages=4)]

        async def purge(self, **_: object) -> Purged:
            return self.left.pop(0) if self.left else Purged()

    daemon: Any = Keeper()
    daemon.store = daemon
    with structlog.testing.capture_logs() as logs:
        await app._purge(daemon)
        await app._purge(daemon)

    [line] = logs
    assert line["event"] == "retention.removed"
    assert line["removed"] == {"raw": 3, "messages": 4}
