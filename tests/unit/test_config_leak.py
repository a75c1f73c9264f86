"""A secret pasted into the wrong place of the configuration is repeated nowhere."""

from __future__ import annotations

from pathlib import Path

from mailbridge.config import check

PASTED = "Pst9Q~y3.Gk_made-up-pasted-value"


def test_a_secret_pasted_as_a_name_is_not_offered_as_one(tmp_path: Path) -> None:
    """The operator pasted a secret as the app's name: the list of known apps must not show it."""
    file = tmp_path / "mailbridge.yaml"
    file.write_text(
        f"""
apps:
  "{PASTED}":
    tenant: 11111111-2222-3333-4444-555555555555
    client_id: 66666666-7777-8888-9999-000000000000
  alarm-app:
    tenant: 11111111-2222-3333-4444-555555555555
    client_id: 66666666-7777-8888-9999-000000000000
mailboxes:
  alarm: {{address: alarm@feuerwehr.example, app: alarm-ap}}
  other: {{address: other@feuerwehr.example, app: "{PASTED[:-1]}x"}}
webhooks:
  erp: {{url: "https://erp.example/"}}
"""
    )
    text = "\n".join(map(str, check(file).problems))

    assert "no app has this name" in text
    assert "did you mean `alarm-app`?" in text
    assert "made-up-pasted" not in text
