"""The JSON Schema of the file, for editors and other programs."""

from __future__ import annotations

from typing import Any

from mailbridge.config.models import Config


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the configuration file."""
    document = Config.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **document,
        "title": "The configuration of mailbridge",
    }
