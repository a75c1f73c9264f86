"""The pages of a sign-in: plain HTML without scripts, for phones and desks, light and dark.

Everything is escaped by the template; what comes between backticks is shown as a command. No page
is cached, framed, or told of in a referrer, and none may load anything at all.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

from fastapi.responses import HTMLResponse
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from mailbridge.http.oauth_words import Language

_STYLE: Final = """
:root{color-scheme:light dark}
body{font:1.05rem/1.5 system-ui,sans-serif;margin:0;padding:1rem;
background:light-dark(#f3f4f6,#15181c);color:light-dark(#1b1f24,#e6e8ea)}
main{max-width:38rem;margin:6vh auto;padding:1.5rem;border-radius:.6rem;overflow-wrap:anywhere;
background:light-dark(#fff,#1f242a);border:1px solid light-dark(#d5d9de,#39414a)}
h1{font-size:1.35rem;line-height:1.3;margin:0 0 1rem}
code{font-size:.92em;padding:.1em .3em;border-radius:.25rem;background:light-dark(#eceff2,#2c333b)}
button{font:inherit;font-weight:600;padding:.7rem 1.4rem;border:0;border-radius:.4rem;
background:#0b5cad;color:#fff}
a{color:light-dark(#0b5cad,#7db8f5)}
ol{list-style:none;padding:0}li{margin:0 0 .7rem;padding-left:.7rem;border-left:.25rem solid}
.ok{border-color:#2e8540}.failed{border-color:#c62828}.warning{border-color:#b7791f}
.skipped{border-color:light-dark(#b5bbc2,#555e68)}
small,.said{color:light-dark(#56606b,#a3adb8)}
"""
_PAGE: Final = """<!doctype html>
<html lang="{{ lang }}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex, nofollow">
{% if refresh is not none %}<meta http-equiv="refresh" content="{{ refresh }}">{% endif %}
<title>{{ title }} · mailbridge</title><style>{{ style }}</style></head>
<body><main data-page="{{ name }}"><h1>{{ title | marked }}</h1>
{% for text in texts %}<p>{{ text | marked }}</p>{% endfor %}
{% if link %}<p><a rel="noreferrer" href="{{ link }}">{{ link_text }}</a></p>{% endif %}
{% for label, text in facts %}<p><strong>{{ label }}:</strong> {{ text | marked }}</p>{% endfor %}
{% if steps %}<ol>{% for step in steps %}
<li class="{{ step.status }}" data-step="{{ step.id }}"><strong>{{ step.title }}</strong>: \
{{ step.word }}<br><small>{{ step.detail }}</small>\
{% for label, text in step.facts %}<br>{{ label }}: {{ text | marked }}{% endfor %}</li>
{% endfor %}</ol>{% endif %}
{% if form %}<form method="post" action="{{ form.action }}">
<input type="hidden" name="ticket" value="{{ form.ticket }}">
<button type="submit" id="go">{{ form.button }}</button></form>{% endif %}
</main></body></html>
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def _marked(text: str) -> Markup:
    """Return text as HTML, with what stands between backticks as commands."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if odd % 2 else escape(part)
        for odd, part in enumerate(parts)
    )


def _environment() -> Environment:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters["marked"] = _marked
    return made


_TEMPLATE: Final = _environment().from_string(_PAGE)
_EMPTY: Final[dict[str, Any]] = {
    "texts": (),
    "facts": (),
    "steps": (),
    "form": None,
    "link": "",
    "link_text": "",
    "refresh": None,
}


def page(
    name: str,
    title: str,
    *,
    lang: Language,
    origin: str,
    status: int = 200,
    **given: Any,
) -> HTMLResponse:
    """Return a page. ``origin`` is the only place that its form may be sent to."""
    text = _TEMPLATE.render(
        **{**_EMPTY, **given},
        name=name,
        title=title,
        lang=lang,
        style=Markup(_STYLE),  # noqa: S704 - a constant of ours, and its hash is in the policy
    )
    return HTMLResponse(text, status_code=status, headers=headers(origin, lang))


def headers(origin: str, lang: Language = "en") -> dict[str, str]:
    """Return the headers that every answer of a sign-in carries."""
    return {
        "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; "
        f"form-action {origin}; frame-ancestors 'none'; base-uri 'none'",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "cross-origin-opener-policy": "same-origin",
        "x-robots-tag": "noindex",
        "content-language": lang,
        "vary": "accept-language, cookie",
    }
