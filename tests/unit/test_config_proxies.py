"""``proxy`` keys, and what the environment says where there are none."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailbridge import config
from mailbridge.config import Config
from mailbridge.log import redact
from mailbridge.proxy.place import Proxy

TEXT = """\
apps:
  one:
    tenant: contoso.example
    client_id: 66666666-7777-8888-9999-000000000000
    credential: {client_secret: {env: SECRET}}
    #app
mailboxes:
  alarm:
    address: alarm@feuerwehr.example
    app: one
    fetch: {every: 60s
            #mail
           }
webhooks:
  erp:
    url: "https://erp.example/hooks/mail"
    #webhook
  lan: {url: "http://10.0.0.5/alarm", allow_private: true}
"""
SECRETS = {"SECRET": "abc8Q~made-up-client-secret"}
CANARY = "p%C3%A4ss-canary"
WITH_PASSWORD = f"socks5h://us%20er:{CANARY}@proxy.example:1080"

Read = Callable[..., config.Checked]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def check(environ: dict[str, str], **lines: str) -> config.Checked:
        text = TEXT
        for place, line in lines.items():
            text = text.replace(f"#{place}\n", f"{line}\n")
        path = tmp_path / "mailbridge.yaml"
        path.write_text(text, encoding="utf-8")
        return config.check(path, environ=SECRETS | environ)

    return check


def valid(checked: config.Checked) -> Config:
    assert checked.problems == []
    assert checked.config is not None
    return checked.config


def proxies(loaded: Config) -> list[str]:
    """Return the proxies for mail, tokens and the two webhooks."""
    hooks = loaded.webhooks
    found: list[Proxy | None] = [
        loaded.mailboxes["alarm"].fetch.server.proxy,
        loaded.apps["one"].proxy,
        hooks["erp"].proxy,
        hooks["lan"].proxy,
    ]
    return [proxy.url if proxy else "" for proxy in found]


def everywhere(value: str) -> dict[str, str]:
    """Return the lines that set a proxy in each of the three places."""
    return {
        "app": f"proxy: {value}",
        "mail": f", server: {{proxy: {value}}}",
        "webhook": f"proxy: {value}",
    }


def test_without_a_word_there_is_no_proxy(read: Read) -> None:
    """The default is the direct way."""
    assert proxies(valid(read({}))) == ["", "", "", ""]


def test_a_proxy_in_each_place(read: Read) -> None:
    """Mail, tokens and each webhook have a proxy of their own."""
    lines = {
        "app": "proxy: http://a.example:1",
        "mail": ", server: {proxy: 'socks5://b.example:2'}",
        "webhook": "proxy: socks5h://c.example:3",
    }
    assert proxies(valid(read({}, **lines))) == [
        "socks5://b.example:2",
        "http://a.example:1",
        "socks5h://c.example:3",
        "",
    ]


def test_a_proxy_of_the_file_beats_that_of_the_environment(read: Read) -> None:
    """What stands in the file holds, whatever the variables say."""
    environ = {"all_proxy": "http://other.example:9", "https_proxy": "http://other.example:9"}
    loaded = valid(read(environ, **everywhere("http://a.example:1")))
    assert proxies(loaded) == ["http://a.example:1"] * 3 + [""]
    assert {
        proxy.variable
        for proxy in (loaded.apps["one"].proxy, loaded.webhooks["erp"].proxy)
        if proxy
    } == {""}


@pytest.mark.parametrize("word", ["off", "false"])
def test_off_beats_the_environment(read: Read, word: str) -> None:
    """`off` is the direct way on a machine whose variables name a proxy."""
    environ = {"all_proxy": "http://other.example:9"}
    assert proxies(valid(read(environ, **everywhere(word)))) == ["", "", "", ""]


def test_the_environment_fills_in_what_the_file_leaves_out(read: Read) -> None:
    """Each kind of target has its variables, and what is inside has none."""
    environ = {"HTTPS_PROXY": "http://web.example:8080", "ALL_PROXY": "socks5h://all.example"}
    assert proxies(valid(read(environ))) == [
        "socks5h://all.example:1080",
        "http://web.example:8080",
        "http://web.example:8080",
        "",
    ]


def test_no_proxy_of_the_environment_is_honoured(read: Read) -> None:
    """What it lists is reached directly."""
    environ = {"ALL_PROXY": "http://all.example:1", "NO_PROXY": "office365.com,.example"}
    assert proxies(valid(read(environ))) == ["", "http://all.example:1", "", ""]


def test_a_variable_that_cannot_be_used_is_a_problem_told_once(read: Read) -> None:
    """It names the variable and the two ways out, and repeats nothing of its text."""
    checked = read({"all_proxy": f"https://user:{CANARY}@proxy.example:443"})
    assert checked.config is None
    [problem] = checked.problems
    assert "the environment variable all_proxy" in problem.message
    assert "`proxy: off`" in problem.fix
    assert "canary" not in str(problem)
    environ = {"all_proxy": "nonsense://"}
    assert valid(read(environ, **everywhere("off")))


@pytest.mark.parametrize("place", ["env", "file", "all_proxy"])
def test_a_password_comes_from_outside_and_is_shown_nowhere(
    read: Read, place: str, tmp_path: Path
) -> None:
    """By reference or by variable it is used, and no repr, dump or log line holds it."""
    # Another one each time: what a log hides once, it hides for as long as it lives.
    url = WITH_PASSWORD.replace("@", f"-{place}@")
    (tmp_path / "way").write_text(url + "\n")
    (tmp_path / "way").chmod(0o600)
    environ = {"WAY": url, "all_proxy": url if place == "all_proxy" else ""}
    value = {"env": "{env: WAY}", "file": "{file: way}", "all_proxy": ""}[place]
    loaded = valid(read(environ, **(everywhere(value) if value else {})))

    used: Any = loaded.mailboxes["alarm"].fetch.server.proxy
    assert (used.user, used.password) == ("us er", f"päss-canary-{place}")
    assert proxies(loaded)[:3] == ["socks5h://proxy.example:1080"] * 3
    dumped = f"{loaded!r} {loaded.model_dump()} {loaded.model_dump_json()}"
    assert "canary" not in dumped
    assert "proxy.example:1080" in dumped
    basic = base64.b64encode(f"us er:{used.password}".encode()).decode()
    for leak in (used.password, basic):
        assert redact(f"said {leak} to it") == "said *** to it"
