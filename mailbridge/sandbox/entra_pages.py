"""The pages that people see: plain HTML that a browser shows and a test can walk.

Every page says what it is in ``<main data-page="…">``. Fields and buttons carry the names and
ids of the real pages: ``loginfmt``, ``passwd``, ``otc``, ``idSIButton9`` to go on and
``idBtn_Back`` to cancel. Whatever comes from a request is escaped, and no page runs a script
but the one that posts a form back to the app.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from aiohttp import web

from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_errors import EntraError

#: where the pages of a sign-in are posted to
STEP_PATH: Final = "/common/login"
DEVICE_PATH: Final = "/devicelogin"
_STYLE: Final = (
    "body{font:16px system-ui,sans-serif;background:#f2f2f2;margin:0}"
    "main{max-width:26em;margin:4em auto;padding:2em;background:#fff;border:1px solid #ccc}"
    "input[type=text],input[type=password]{width:100%;font:inherit;padding:.4em;margin:.5em 0}"
    "button{font:inherit;padding:.4em 1.5em;margin:.5em .5em 0 0}.error{color:#a80000}"
)
_FIELDS: Final = {
    "account": ("Sign in", "loginfmt", "text", "Email, phone, or Skype"),
    "password": ("Enter password", "passwd", "password", "Password"),
    "mfa": ("Enter code", "otc", "text", "Code"),
    "device": ("Enter code to allow access", "otc", "text", "Code"),
}
#: what the permissions mean to a person
_MEANINGS: Final = {
    "IMAP.AccessAsUser.All": "Read and write access to mailboxes via IMAP",
    "POP.AccessAsUser.All": "Read and write access to mailboxes via POP",
    "SMTP.Send": "Send emails from mailboxes using SMTP AUTH",
    "IMAP.AccessAsApp": "IMAP access to all mailboxes, without a signed-in user",
    "POP.AccessAsApp": "POP access to all mailboxes, without a signed-in user",
    "SMTP.SendAsApp": "Send emails as any mailbox, without a signed-in user",
    "offline_access": "Maintain access to data you have given it access to",
}


def page(name: str, title: str, body: str, *, status: int = 200, script: str = "") -> web.Response:
    """Return a page; ``body`` is HTML. With a ``script``, that one alone may run."""
    nonce = secrets.token_urlsafe(16)
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    policy += "frame-ancestors 'none'"
    if script:
        policy += f"; script-src 'nonce-{nonce}'"
        body += f'<script nonce="{nonce}">{script}</script>'
    text = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head>\n"
        f'<body><main data-page="{name}"><h1>{escape(title)}</h1>{body}</main></body></html>\n'
    )
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={
            "Cache-Control": "no-store, no-cache",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        },
    )


def _form(context: str, fields: str, buttons: str, *, path: str = STEP_PATH) -> str:
    return (
        f'<form method="post" action="{path}"><input type="hidden" name="ctx" '
        f'value="{escape(context)}">{fields}<div>{buttons}</div></form>'
    )


def _button(identity: str, value: str, label: str) -> str:
    return (
        f'<button type="submit" id="{identity}" name="action" value="{value}">'
        f"{escape(label)}</button>"
    )


def _cancel(label: str = "Cancel") -> str:
    return _button("idBtn_Back", "cancel", label)


def _failure(error: EntraError | None) -> str:
    if error is None:
        return ""
    return f'<p class="error" role="alert" data-code="{error.code}">{escape(error.text)}</p>'


def question(
    name: str, context: str, *, value: str = "", error: EntraError | None = None
) -> web.Response:
    """Return a page with one field: ``account``, ``password``, ``mfa`` or ``device``."""
    title, field, kind, hint = _FIELDS[name]
    given = escape(value) if kind == "text" else ""
    shown = f"<p>{escape(value)}</p>" if kind == "password" else ""
    entry = (
        f'{shown}<input type="{kind}" name="{field}" value="{given}" placeholder="{hint}" '
        f'aria-label="{hint}" autocomplete="off" autofocus required>'
    )
    back = "" if name == "device" else _cancel().replace("<button", "<button formnovalidate")
    return page(
        name,
        title,
        _failure(error)
        + _form(
            context,
            entry,
            _button("idSIButton9", "next", "Next") + back,
            path=DEVICE_PATH if name == "device" else STEP_PATH,
        ),
    )


def picker(context: str, upns: Iterable[str]) -> web.Response:
    """Return the page that asks which of the accounts at hand to take."""
    known = "".join(
        f'<div><button type="submit" name="loginfmt" value="{escape(upn)}">{escape(upn)}'
        "</button></div>"
        for upn in upns
    )
    other = _button("otherTile", "other", "Use another account")
    return page("picker", "Pick an account", _form(context, known, other + _cancel()))


def enroll(context: str) -> web.Response:
    """Return the page that has a second factor set up."""
    text = "<p>Your organization needs more information to keep your account secure.</p>"
    return page(
        "enroll",
        "More information required",
        text + _form(context, "", _button("idSIButton9", "next", "Next") + _cancel()),
    )


def consent(
    context: str, app: App, user: User, names: Sequence[str], *, admin: bool = False
) -> web.Response:
    """Return the page that lists what the app asks for; ``admin`` for the whole organization."""
    items = "".join(
        f'<li data-scope="{escape(name)}">{escape(_MEANINGS.get(name, name))} '
        f"<code>{escape(name)}</code></li>"
        for name in names
    )
    organization = (
        '<label><input type="checkbox" name="organization" value="1"> Consent on behalf of your '
        "organization</label>"
        if user.admin and not admin
        else ""
    )
    title = "Permissions requested"
    text = (
        f"<p>{escape(user.upn)}</p><p><strong>{escape(app.name)}</strong> would like to:</p>"
        f"<ul>{items}</ul>"
    )
    buttons = _button("idSIButton9", "accept", "Accept") + _cancel()
    return page(
        "consent",
        f"{title} for your organization" if admin else title,
        text + _form(context, organization, buttons),
    )


def admin_needed(context: str, app: App) -> web.Response:
    """Return the page that tells somebody to fetch an administrator."""
    text = (
        f"<p><strong>{escape(app.name)}</strong> needs permission to access resources in your "
        "organization that only an admin can grant. Please ask an admin to grant permission to "
        "this app before you can use it.</p>"
    )
    back = _cancel("Return to the application without granting consent")
    return page("admin", "Need admin approval", text + _form(context, "", back))


def confirm_device(context: str, app: App, user: User) -> web.Response:
    """Return the page that asks whether the device is one's own."""
    text = f"<p>{escape(user.upn)}</p><p>Do not continue unless you started this yourself.</p>"
    buttons = _button("idSIButton9", "continue", "Continue") + _cancel()
    title = f"Are you trying to sign in to {app.name}?"
    return page("confirm", title, text + _form(context, "", buttons))


def message(name: str, title: str, text: str) -> web.Response:
    """Return a page that ends a sign-in; there is nothing to press."""
    return page(name, title, f"<p>{escape(text)}</p>")


def failure(error: EntraError, description: str) -> web.Response:
    """Return the page that ends a sign-in at Entra itself: the app hears nothing of it."""
    return page(
        "error",
        "Sorry, but we're having trouble signing you in.",
        _failure(error) + f"<pre>{escape(description)}</pre>",
        status=400 if error.status < 500 else error.status,  # noqa: PLR2004 - server errors
    )


def post_back(uri: str, fields: Mapping[str, str]) -> web.Response:
    """Return the page that posts the answer to the app (``response_mode=form_post``)."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )
    form = (
        f'<form method="post" action="{escape(uri)}">{hidden}<noscript><p>Script is disabled. '
        'Click Submit to continue.</p></noscript><button type="submit">Submit</button></form>'
    )
    return page("form_post", "Working...", form, script="document.forms[0].submit();")
