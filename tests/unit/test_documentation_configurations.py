"""Every configuration that the documentation shows is one that mailbridge takes."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from mailbridge import config
from tests.pages import DOCS, Block, pages

PAGES: Final = pages()
NOW: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)
#: what a secret has to look like, by the key that it stands under
DUMMIES: Final = {
    "signing_secrets": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "url": "https://receiver.example/hook?accesskey=made-up",
    "proxy": "http://user:made-up@proxy.example:3128",
    "database": "postgresql://mailbridge:made-up@db.example/mailbridge",
    "key": base64.b64encode(bytes(range(32))).decode(),
}
PLACES: Final = ({"env"}, {"file"}, {"credential"})


def whole(block: Block) -> bool:
    """Tell whether a block is a file that could be used as it stands."""
    if block.language not in {"yaml", "yml"}:
        return False
    try:
        document = yaml.load(block.text, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        return False
    return isinstance(document, dict) and {"apps", "mailboxes"} <= document.keys()


WHOLE: Final = [block for page in PAGES for block in page.blocks if whole(block)]


def filled(value: Any, environ: dict[str, str], key: str = "") -> Any:
    """Return the document with every secret in ``environ``, whatever place it named before."""
    if isinstance(value, dict) and value.keys() in PLACES and key not in {"certificate", "tls"}:
        if key == "federated":
            return value
        [place] = value.values()
        name = re.sub(r"\W", "_", str(place)).strip("_").upper()
        environ[name] = DUMMIES.get(key, "made-up-value-that-is-long-enough")
        if key == "url" and "V2" in name:  # DIVERA's API is told by its URL
            environ[name] = "https://app.divera247.com/api/v2/alarms?accesskey=made-up"
        return {"env": name}
    if isinstance(value, dict):
        return {name: filled(one, environ, name) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, environ, key) for one in value]
    return value


def checked(document: dict[str, Any], folder: Path) -> config.Checked:
    """Check a file as ``mailbridge check`` would, with dummies where its secrets should be."""
    environ: dict[str, str] = {}
    file = folder / "mailbridge.yaml"
    text = yaml.dump(filled(document, environ), allow_unicode=True, sort_keys=False)
    # BaseLoader makes texts of booleans; the loader under test wants them plain.
    file.write_text(re.sub(r"'(true|false|null|\d+)'", r"\1", text), encoding="utf-8")
    return config.check(file, environ=environ, now=lambda: NOW)


@pytest.mark.parametrize("block", WHOLE, ids=lambda block: block.place)
def test_every_whole_configuration_is_valid(block: Block, tmp_path: Path) -> None:
    """Who copies a configuration out of the documentation gets neither problems nor warnings."""
    found = checked(yaml.load(block.text, Loader=yaml.BaseLoader), tmp_path)

    assert found.problems == []
    assert found.warnings == []


SECTIONS: Final = {"state", "http", "apps", "mailboxes", "routes", "webhooks", "relay"}
#: what every fragment may count on; names that it refers to besides are made up for it
AROUND: Final = """\
apps: {alarm-app: {tenant: feuerwehr.example, client_id: 66666666-7777-8888-9999-000000000000,
  credential: {client_secret: {env: S}, expires: 2098-11-20}}}
mailboxes: {alarm: {address: alarm@feuerwehr.example, app: alarm-app, send: {}}}
"""


def fragment(block: Block) -> dict[str, Any] | None:
    """Return a block that shows some sections of the file; ``None`` for anything else."""
    if block.language not in {"yaml", "yml"} or whole(block) or "…" in block.text:
        return None
    document = yaml.load(block.text, Loader=yaml.BaseLoader)
    return document if isinstance(document, dict) and document.keys() <= SECTIONS else None


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """Return a whole file around a fragment."""
    full = yaml.load(AROUND, Loader=yaml.BaseLoader)
    for section, entries in document.items():
        full[section] = {**full.get(section, {}), **(entries or {})}
    boxes, routes = full["mailboxes"].values(), full.get("routes", {})
    for name, box in full["mailboxes"].items():
        box.setdefault("address", f"{name}@feuerwehr.example")
        box.setdefault("app", next(iter(full["apps"])))
    relay = full.get("relay", {})
    relay.pop("tls", None)  # which wants its files to be there
    for box in relay.get("accept", {}).get("senders", {}).values():
        addressed = {"address": f"{box}@feuerwehr.example", "app": "alarm-app", "send": {}}
        full["mailboxes"].setdefault(box, addressed)
    asked = [name for box in boxes for name in box.get("routes", [])]
    asked += [name for names in relay.get("inbound", {}).values() for name in names]
    for name in asked:
        full.setdefault("routes", routes).setdefault(name, {"webhooks": ["erp"]})
    hooks = full.setdefault("webhooks", {})
    named = {name for route in routes.values() for name in route.get("webhooks", [])}
    named |= {hook["fallback"]["webhook"] for hook in hooks.values() if "fallback" in hook}
    for name in sorted(named | {"erp"}):
        hooks.setdefault(name, {"url": "https://receiver.example/hook"})
    for hook in hooks.values():
        hook.setdefault("url", "https://receiver.example/hook")
    return dict(full)


FRAGMENTS: Final = [one for page in PAGES for one in page.blocks if fragment(one) is not None]


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda block: block.place)
def test_every_piece_of_a_configuration_is_valid(block: Block, tmp_path: Path) -> None:
    """A few lines that a page shows fit into a file as they stand."""
    found = checked(completed(fragment(block) or {}), tmp_path)

    assert [str(problem) for problem in found.problems] == []


def test_set_ups_and_quick_starts_have_whole_configurations() -> None:
    """The pages that people copy from show a file to copy, not a piece of one."""
    shown = {block.page for block in WHOLE}
    wanted = {*DOCS.glob("quick-start*.md"), *(DOCS / "set-ups").glob("*.md")}
    wanted -= {DOCS / "set-ups" / "README.md"}
    assert sorted(page.name for page in wanted - shown) == []
    assert len(wanted) == 7
