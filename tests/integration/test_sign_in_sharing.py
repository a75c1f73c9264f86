"""From a configuration file to sign-ins: which mailboxes share one, and what a reload changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mailbridge.config import Config, load
from mailbridge.errors import PermanentError
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.entra_certificates import ClientCertificate
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.claims import claims
from mailbridge.sign_ins import SignIns
from tests.conftest import Clock
from tests.servers.sign_in_desk import LOOPBACK, Desk

ALARM, OFFICE = "alarm@feuerwehr.example", "office@feuerwehr.example"
TEXT = """\
state: {{key: {{env: KEY}}}}
apps:
  robot:
    tenant: {authority}
    client_id: {robot}
    ca: {ca}
    credential: {{client_secret: [{{file: secret}}, {{env: OLD}}], expires: 2028-01-01}}
  sealed:
    tenant: {authority}
    client_id: {sealed}
    ca: {ca}
    credential: {{certificate: {{file: app.pem, passphrase: {{env: OLD}}}}}}
  desktop:
    tenant: {authority}
    client_id: {desktop}
    ca: {ca}
mailboxes:
  one: {{address: {alarm}, app: robot}}
  two: {{address: {office}, app: robot, fetch: {{protocol: pop3}}}}
  three: {{address: {office}, app: sealed}}
  four: {{address: {alarm}, app: desktop, sign_in: delegated}}
  five:
    address: shared@feuerwehr.example
    app: desktop
    sign_in: delegated
    signed_in_as: Alarm@Feuerwehr.example
    fetch: {{protocol: pop3}}
  six: {{address: {office}, app: desktop, sign_in: password, password: {{file: password}}}}
webhooks:
  erp: {{url: "https://erp.example/hook"}}
"""


class Site:
    """A tenant, a configuration for it, and the sign-ins of that."""

    def __init__(self, tenant: Tenant, desk: Desk, folder: Path) -> None:
        self.tenant, self.desk, self.folder = tenant, desk, folder
        self.alarm = tenant.add_user(ALARM)
        self.office = tenant.add_user(OFFICE)
        self.robot = tenant.add_app("robot")
        self.sealed = tenant.directory.add(App(name="sealed"))
        self.desktop = tenant.directory.add(App(name="desktop", public_flows=True))
        self.desktop.add_redirect(LOOPBACK, "public")
        made = ClientCertificate.generate(start=datetime.now(UTC))
        self.sealed.add_certificate(made.certificate_pem)
        passphrase = "old~secret-value"
        (folder / "app.pem").write_bytes(made.key_pem(passphrase) + made.certificate_pem)
        for name, content in (("secret", self.robot.secret), ("password", self.office.password)):
            (folder / name).write_text(content)
            (folder / name).chmod(0o600)
        self.sign_ins = SignIns(self.config(), grants=desk.grants, now=desk.now, run=desk.run)

    def config(self, old: str = "", new: str = "") -> Config:
        """Return the configuration, with a piece of its text replaced."""
        text = TEXT.format(
            authority=self.tenant.entra.authority,
            robot=self.robot.client_id,
            sealed=self.sealed.client_id,
            desktop=self.desktop.client_id,
            ca=self.tenant.ca_file,
            alarm=ALARM,
            office=OFFICE,
        )
        assert not old or text.count(old) == 1
        path = self.folder / "mailbridge.yaml"
        path.write_text(text.replace(old, new) if old else text)
        key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
        return load(path, environ={"OLD": "old~secret-value", "KEY": key})


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def site(key: SigningKey, tmp_path: Path, pool: ThreadPoolExecutor) -> AsyncIterator[Site]:
    async with Tenant.start(key=key) as tenant:
        made = Site(tenant, Desk(tenant, pool, lambda: datetime.now(UTC)), tmp_path)
        yield made
        await made.sign_ins.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


async def test_every_kind_of_sign_in_comes_from_the_file(site: Site) -> None:
    """Secret, certificate, delegated and password, each with a token of the right one."""
    await site.desk.consent(site.desktop, site.alarm, ["imap", "pop3"])
    names = ("one", "three", "four", "six")

    said = {name: claims((await site.sign_ins.of(name).token()).value) for name in names}

    assert said["one"]["appid"] == site.robot.client_id
    assert said["three"]["appid"] == site.sealed.client_id
    assert said["four"]["upn"] == ALARM
    assert set(said["four"]["scp"].split()) == {"IMAP.AccessAsUser.All", "POP.AccessAsUser.All"}
    assert said["six"]["upn"] == OFFICE
    assert [site.sign_ins.of(name).kind for name in names] == [
        *("application", "application", "delegated", "password")
    ]
    assert all(site.sign_ins.of(name).standing().state == "ok" for name in names)


def test_mailboxes_share_what_signs_in_for_them(site: Site) -> None:
    """One for an app by itself, one for an app and a person in any case, and no other."""
    of = site.sign_ins.of

    assert of("one") is of("two")
    assert of("four") is of("five")
    assert len({id(of(name)) for name in ("one", "three", "four", "six")}) == 4
    assert {tuple(names) for _, names in site.sign_ins.made()} == {
        ("one", "two"),
        ("three",),
        ("four", "five"),
        ("six",),
    }


async def test_a_reload_tries_what_changed_and_keeps_the_rest(site: Site) -> None:
    """A secret that was replaced in its file is taken by the same sign-in, which is not new."""
    before = site.sign_ins.of("one")
    untouched = site.sign_ins.of("three")
    await before.token()
    site.robot.secrets.clear()
    fresh = site.robot.add_secret()
    (site.folder / "secret").write_text(fresh)

    await site.sign_ins.apply(site.config())
    await before.token()

    assert site.sign_ins.of("one") is before
    assert site.sign_ins.of("three") is untouched
    assert before.standing().state == "ok"
    assert [request.status for request in site.tenant.entra.requests] == [200, 200]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("{file: secret}", "{file: password}", {"one", "two"}),
        ("expires: 2028-01-01", "expires: 2028-01-02", {"one", "two"}),
        ("app: sealed}", "app: sealed, fetch: {protocol: pop3}}", {"three"}),
        ("Alarm@Feuerwehr.example", "office@feuerwehr.example", {"four", "five"}),
        ("password: {file: password}", "password: {file: secret}", {"six"}),
        ("erp.example", "crm.example", set()),
    ],
)
async def test_a_reload_makes_anew_what_is_another_one(
    site: Site, old: str, new: str, changed: set[str]
) -> None:
    """Another place of a secret, another protocol, another person: and nothing else."""
    names = ("one", "two", "three", "four", "five", "six")
    before = {name: site.sign_ins.of(name) for name in names}

    await site.sign_ins.apply(site.config(old, new))

    assert {name for name in names if site.sign_ins.of(name) is not before[name]} == changed


async def test_a_mailbox_that_is_gone_takes_its_sign_in_along(site: Site) -> None:
    """Nothing is refreshed for nobody."""
    site.sign_ins.of("three")

    await site.sign_ins.apply(
        site.config("  three: {address: office@feuerwehr.example, app: sealed}\n", "")
    )

    assert [names for _, names in site.sign_ins.made()] == []


async def test_flows_are_made_for_people_only(site: Site) -> None:
    """Both ways of consent ask for what all mailboxes of the account need."""
    url = await site.sign_ins.browser_flow("five", response_mode="form_post").start(LOOPBACK)
    query = parse_qs(urlsplit(url).query)

    assert query["response_mode"] == ["form_post"]
    assert {"IMAP.AccessAsUser.All", "POP.AccessAsUser.All"} <= {
        scope.rpartition("/")[2] for scope in query["scope"][0].split()
    }
    assert (await site.sign_ins.device_flow("four").start()).user_code
    with pytest.raises(PermanentError, match="application access"):
        site.sign_ins.browser_flow("one")


async def test_ends_are_told_once_for_each_credential(
    key: SigningKey, tmp_path: Path, pool: ThreadPoolExecutor, clock: Clock
) -> None:
    """A certificate, a secret of two mailboxes and a person's sign-in, each by one event."""
    clock.set(datetime.now(UTC))
    async with Tenant.start(key=key) as tenant:
        site = Site(tenant, Desk(tenant, pool, clock), tmp_path)
        await site.desk.consent(site.desktop, site.alarm, ["imap", "pop3"])
        for name in ("one", "two", "three", "four", "five", "six"):
            await site.sign_ins.of(name).token()
        early = site.sign_ins.notices()

        clock.set(datetime(2027, 12, 20, tzinfo=UTC))
        due = site.sign_ins.notices()
        await site.sign_ins.close()

    assert early == []
    assert {(one.data["kind"], one.data["app"]) for one in due} == {
        ("client_secret", "robot"),
        ("certificate", "sealed"),
        ("refresh_token", "desktop"),
    }
    assert len(due) == len({one.id for one in due}) == 3
    told = {one.data["app"]: one for one in due}
    assert (told["robot"].mailbox, told["robot"].data["days_left"]) == ("one", 12)


async def test_keeping_alive_waits_for_nobodys_trouble(site: Site) -> None:
    """One person's sign-in that has ended keeps no other from being used in time."""
    grant = await site.desk.consent(site.desktop, site.alarm, ["imap", "pop3"])
    old = replace(grant, refreshed_at=grant.refreshed_at - timedelta(days=8))
    await site.desk.grants.save_grant(old)
    await site.sign_ins.apply(
        site.config(
            "six: {address: office@feuerwehr.example, app: desktop, sign_in: password, "
            "password: {file: password}}",
            "six: {address: office@feuerwehr.example, app: desktop, sign_in: delegated}",
        )
    )
    await site.desk.grants.save_grant(replace(old, account=OFFICE, refresh_token="ended"))
    for name in ("six", "four"):
        site.sign_ins.of(name)

    await site.sign_ins.keep_alive()

    assert site.sign_ins.of("four").standing().state == "ok"
    assert site.sign_ins.of("six").standing().state == "needs_consent"


def test_without_a_store_nobody_signs_in(site: Site) -> None:
    """A command that opens no database says so instead of losing a grant."""
    alone = SignIns(site.config(), grants=None, now=site.desk.now, run=site.desk.run)

    assert alone.of("one").kind == "application"
    with pytest.raises(PermanentError, match="database"):
        alone.of("four")


def test_consent_links_are_for_what_is_used(site: Site) -> None:
    """One link for each way in which the app's mailboxes sign in."""

    def links(app: str) -> dict[str, set[str]]:
        made = site.sign_ins.consent_links(app, redirect_uri=LOOPBACK)
        return {
            link.purpose: set(parse_qs(urlsplit(link.url).query)["scope"][0].split())
            for link in made
        }

    assert set(links("robot")) == {"application"}
    delegated = links("desktop")["delegated"]
    assert "https://outlook.office.com/POP.AccessAsUser.All" in delegated
