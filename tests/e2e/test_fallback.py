"""An alarm whose webhook is away, by the whole daemon: somebody else gets it in time."""

from __future__ import annotations

from mailbridge.sandbox.config_text import new_signing_secret
from mailbridge.sandbox.receiver import Answer, Receiver
from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]


async def test_a_mail_that_is_not_taken_goes_to_the_fallback_too(site: Site) -> None:
    """The fallback gets it under the same id, and the webhook still gets it when it is back."""
    secret = new_signing_secret()
    (site.home / "spare.whsec").write_text(secret)
    async with Receiver.start(secrets=[secret]) as spare:
        text = site.config.read_text()
        text = text.replace(
            "    allow_private: true",
            "    allow_private: true\n    profile: alarm\n"
            "    fallback: {webhook: spare, after: 5s}\n"
            f'  spare:\n    url: "{spare.url}"\n    allow_private: true\n'
            f'    signing_secrets: [{{file: "{site.home / "spare.whsec"}"}}]',
        ).replace("    fetch:", "    routes: [alarm]\n    fetch:", 1)
        site.config.write_text(f"{text}\nroutes:\n  alarm: {{webhooks: [receiver]}}\n")
        site.receiver.answer_with(Answer(status=503))
        async with site.daemon():
            site.box.deliver(mail(1))
            [aside] = await spare.wait(1, seconds=SECONDS, event="mail.received")
            site.box.deliver(mail(2))
            site.receiver.behave()
            came = await site.receiver.wait(2, seconds=SECONDS, event="mail.received")

    assert aside.json["data"]["subject"] == "Alarm 1"
    ids = {one.json["data"]["subject"]: one.headers["webhook-id"] for one in came}
    assert ids.keys() == {"Alarm 1", "Alarm 2"}
    assert {one.headers["webhook-id"] for one in spare.requests} == {ids["Alarm 1"]}
