"""The description of the API keeps step with what the daemon knows."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest

from mailbridge import model
from mailbridge.health import Sight
from mailbridge.http import models
from mailbridge.model import MessageRef
from mailbridge.sign_in import base
from mailbridge.store import rows


@pytest.mark.parametrize(
    ("described", "row"),
    [
        (models.Place, MessageRef),
        (models.Message, rows.MessageRow),
        (models.Delivery, rows.DeliveryRow),
        (models.Attempt, rows.AttemptRow),
        (models.Step, rows.StepRow),
        (models.Ruling, rows.RulingRow),
        (models.Recipient, model.Recipient),
        (models.Bounce, rows.BounceRow),
        (models.Send, rows.SendRow),
        (models.Trace, rows.Trace),
    ],
)
def test_every_member_is_described(described: type[models.Row], row: Any) -> None:
    """What a row of the store tells is described under the same name, and nothing else is."""
    assert set(described.model_fields) == {field.name for field in dataclasses.fields(row)}


def test_every_state_is_described() -> None:
    """A state that the daemon can be in is one that the description lists."""
    assert set(get_args(models.MessageState)) == set(get_args(rows.MessageState))
    assert set(get_args(models.ShownState)) == set(get_args(rows.ShownState))
    assert set(get_args(models.SendState)) == set(get_args(rows.SendState))
    assert set(get_args(models.Via)) == set(get_args(model.Via))
    recipient = get_type_hints(model.Recipient)["state"]
    assert set(get_args(models.RecipientState)) == set(get_args(recipient))
    assert set(get_args(models.SignInState)) == set(get_args(base.State))
    assert set(get_args(models.Sight)) == {*map(str, Sight), "not running", "off"}
    assert set(get_args(models.OpenState)) < set(get_args(models.ShownState))
