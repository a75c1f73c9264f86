"""The command setup: what an administrator has to do for a mailbox, with its real ids."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mailbridge.cli.completing import MailboxName
from mailbridge.cli.daemon import run_async
from mailbridge.cli.data import AsJson
from mailbridge.cli.output import emit_json, say, tell
from mailbridge.cli.probe import threads
from mailbridge.cli.words import Lang, Language, language
from mailbridge.errors import MailbridgeError

if TYPE_CHECKING:
    from mailbridge.config import Config
    from mailbridge.setup_help.needs import Given, Needs

#: seconds for a token, from which the object id is read
QUICKLY: Final = 15.0
#: Windows PowerShell 5.1 takes a file without this mark for one in the local code page
_MARK: Final = "\ufeff"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("setup")(setup)


def setup(  # noqa: PLR0913 - the options of the command
    ctx: typer.Context,
    name: MailboxName,
    *,
    lang: Lang = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Ask nobody; the script looks the object id up."),
    ] = False,
    only_script: Annotated[
        bool, typer.Option("--script", help="Print only the script, to go into a file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the portal steps and one PowerShell script for a mailbox, with its ids filled in.

    Only what its protocols and its sign-in need. Nothing is changed by printing it, and the
    script changes only what is missing.
    """
    from mailbridge.cli.main import load_config
    from mailbridge.setup_help.needs import needs_of

    config = load_config(ctx)
    if name not in config.mailboxes:
        raise MailbridgeError(
            f"there is no mailbox {name!r}", fix=f"one of: {', '.join(config.mailboxes)}"
        )
    spoken = lang or language(os.environ)
    found, why = ("", "") if offline else run_async(_object_id(config, name))
    if why:
        from mailbridge.setup_help.portal_words import heading

        tell(heading("no_object_id", spoken, why=why))
    needs = needs_of(config, name, _given(config, name, found))
    _print(needs, spoken, only_script=only_script, as_json=as_json)


def _print(needs: Needs, lang: Language, *, only_script: bool, as_json: bool) -> None:
    from mailbridge.setup_help.portal import pitfalls, portal_steps
    from mailbridge.setup_help.portal_words import heading
    from mailbridge.setup_help.script import script

    text = script(needs, lang)
    steps, traps = portal_steps(needs, lang), pitfalls(needs, lang)
    if as_json:
        emit_json(
            {
                "mailbox": needs.name,
                "language": lang,
                "object_id": needs.given.object_id,
                "permissions": needs.permissions,
                "steps": [asdict(step) for step in steps],
                "pitfalls": traps,
                "script": text,
            }
        )
        return
    if only_script:
        typer.echo(text if text.isascii() else _MARK + text, nl=False)
        return
    typer.secho(heading("title", lang, name=needs.name, address=needs.address), bold=True)
    for number, step in enumerate(steps, 1):
        say()
        say(f"{number}. {step.title}")
        for line in step.lines:
            say(f"   {line}")
    say()
    say(f"== {heading('pitfalls', lang)}")
    for trap in traps:
        say(f"   - {trap}")
    say()
    say(f"== {heading('script', lang)}")
    say()
    typer.echo(text, nl=False)


def _given(config: Config, name: str, object_id: str) -> Given:
    """Return what the configuration does not say by itself."""
    from mailbridge.build import utc_now
    from mailbridge.http.oauth_desk import CALLBACK, CONSENT
    from mailbridge.setup_help.needs import Given
    from mailbridge.sign_in_desk import public_url
    from mailbridge.sign_ins import SignIns

    mailbox = config.mailboxes[name]
    base = public_url(config)
    links = SignIns(config, grants=None, now=utc_now, run=asyncio.to_thread).consent_links(
        mailbox.app,
        redirect_uri=base + CALLBACK if base else "http://localhost",
        state=CONSENT + mailbox.app if base else "",
    )
    purpose = "application" if mailbox.sign_in == "application" else "delegated"
    delegated = mailbox.sign_in == "delegated"
    return Given(
        consent_links=[link.url for link in links if link.purpose == purpose],
        web_redirects=[base + CALLBACK] if base and mailbox.sign_in != "password" else [],
        desktop_redirects=["http://localhost"] if delegated else [],
        object_id=object_id,
    )


async def _object_id(config: Config, name: str) -> tuple[str, str]:
    """Return the object id of the enterprise application, else why it is not known.

    It stands in any token of the app's own. Who signs in as a person needs none.
    """
    from mailbridge.build import utc_now
    from mailbridge.sign_in.claims import claims
    from mailbridge.sign_ins import SignIns

    if config.mailboxes[name].sign_in != "application":
        return "", ""
    with threads() as run:
        sign_ins = SignIns(config, grants=None, now=utc_now, run=run)
        try:
            async with asyncio.timeout(QUICKLY):
                token = await sign_ins.of(name).token()
        except TimeoutError:
            return "", f"no answer within {QUICKLY:.0f} s"
        except MailbridgeError as error:
            return "", str(error)
        finally:
            await sign_ins.close()
    found = claims(token.value).get("oid")
    return (found, "") if isinstance(found, str) and _is_guid(found) else ("", "no oid")


def _is_guid(text: str) -> bool:
    from mailbridge.config.secrets import is_guid

    return is_guid(text)
