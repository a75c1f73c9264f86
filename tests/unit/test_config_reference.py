"""docs/config.md says of every key what the models say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from mailbridge.config import Config
from scripts import config_reference

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/config.md").read_text(encoding="utf-8")


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections that an annotation holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


def keys(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yield every key of a section, by the models alone."""
    for name, field in model.model_fields.items():
        full = above + (field.alias or name)
        # How `after` is written has nothing to do with what it becomes.
        below = [] if full.endswith("fetch.after") else list(models(field.annotation))
        if below:
            yield from keys(below[0], f"{full}.")
        else:
            yield full


def test_the_page_is_what_the_models_say() -> None:
    """A key, a type or a default that changes changes the page too: `make docs` was run."""
    assert config_reference.page(TEXT) == TEXT


@pytest.mark.parametrize("section", list(Config.model_fields))
def test_every_key_of_the_file_stands_in_the_page(section: str) -> None:
    """No key is known to mailbridge alone, and none to the page alone."""
    [model, *_] = models(Config.model_fields[section].annotation)
    told = [key.name for key in config_reference.tables(TEXT)[section]]

    assert sorted(told) == sorted(keys(model))
    assert all(key.meaning.strip() for key in config_reference.tables(TEXT)[section])


def test_what_changes_in_a_model_changes_the_page() -> None:
    """A wrong type or default is put right, a key that is gone leaves, a new one gets its words."""
    lines = TEXT.splitlines()
    [order] = [line for line in lines if line.startswith("| `fetch.every` |")]
    [new] = [line for line in lines if line.startswith("| `fetch.push` |")]
    wrong = (
        "| `fetch.every` | size | `61s` | in our own words |\n| `fetch.gone` | text | none | x |"
    )
    made = config_reference.page(TEXT.replace(order, wrong).replace(new + "\n", ""))

    assert "| `fetch.every` | duration | `60s` | in our own words |\n" in made
    assert "fetch.gone" not in made
    assert "| `fetch.push` | `true`, `false` | `true` | IMAP IDLE where the server" in made


def test_a_section_without_a_table_is_told() -> None:
    """A new section of the file is not left out of the page in silence."""
    with pytest.raises(SystemExit, match="no table for relay"):
        config_reference.page(TEXT.replace("<!-- keys of relay -->\n", ""))
