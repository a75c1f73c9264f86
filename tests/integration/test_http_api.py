"""The API over a real store: the mail log, the trace, and the repair of dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.contract.mails import accept, batch, claim, dead, done, gap, mail, notice, ref
from tests.servers.api import Api, running_api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        yield running


def name(uid: int) -> str:
    return ref(uid).message_id


async def pages(api: Api, query: str, cursor: str | None) -> tuple[list[int], str | None]:
    """Return the UIDs of one page and the cursor of the next."""
    more = f"&cursor={cursor}" if cursor else ""
    status, page = await api.call("GET", f"/v1/messages?{query}{more}")
    assert status == 200
    return [row["ref"]["uid"] for row in page["messages"]], page["next_cursor"]


async def test_pages_hold_still_while_mail_arrives(api: Api) -> None:
    """Going through the log page by page shows every mail once, whatever arrives meanwhile."""
    await accept(api.store, range(1, 8))
    seen, cursor = await pages(api, "limit=3", None)
    assert seen == [7, 6, 5]
    await accept(api.store, range(8, 12))
    while cursor:
        found, cursor = await pages(api, "limit=3", cursor)
        seen += found
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_a_page_that_is_just_full_is_the_last(api: Api) -> None:
    """There is a next page only if something is on it."""
    await accept(api.store, range(1, 5))
    assert await pages(api, "limit=4", None) == ([4, 3, 2, 1], None)
    assert await pages(api, "limit=2&cursor=1", None) == ([], None)
    assert await pages(api, "limit=9&cursor=ffffffffffffffff", None) == ([4, 3, 2, 1], None)


async def test_gaps_lead_the_log_and_cost_no_mail_its_place(api: Api) -> None:
    """Open gaps come first and once; the pages after them begin with the newest mail."""
    await api.store.accept(
        batch(mail(1), mail(2), gaps=(gap(3), gap(4)), uid=4), address="a@b.example", settles=True
    )
    seen, cursor = await pages(api, "limit=2", None)
    assert sorted(seen) == [3, 4]
    assert await pages(api, "limit=2", cursor) == ([2, 1], None)
    assert sorted((await pages(api, "state=gap", None))[0]) == [3, 4]


async def test_filters(api: Api) -> None:
    """State, mailbox and time narrow the log as `mailbridge log` does."""
    await accept(api.store, range(1, 4))
    deliveries = await claim(api.store)
    await api.store.resolve([done(deliveries[0]), dead(deliveries[1])])
    await api.store.release(deliveries[2:])
    assert await pages(api, "state=delivered", None) == ([1], None)
    assert await pages(api, "state=dead", None) == ([2], None)
    assert await pages(api, "state=accepted&mailbox=alarm", None) == ([3], None)
    assert await pages(api, "mailbox=other", None) == ([], None)
    assert await pages(api, "since=2100-01-01T00:00:00Z", None) == ([], None)
    assert await pages(api, f"since={quote('2001-01-01T00:00:00+01:00')}&limit=1", None) == (
        [3],
        "3",
    )


async def test_a_filter_that_is_misspelt_is_no_filter_at_all(api: Api) -> None:
    """An unknown filter is refused, since without it the answer would be about everything."""
    status, problem = await api.call("GET", "/v1/messages?mailbx=alarm")
    assert (status, problem["errors"][0]["where"]) == (422, "query.mailbx")
    assert (await api.call("GET", "/v1/deliveries?state=dead&sink=erp"))[0] == 422


async def test_a_message_is_traced_by_each_of_its_names(api: Api) -> None:
    """The webhook-id and the Message-ID lead to all that happened, as `mailbridge trace` prints."""
    await accept(api.store, [1])
    await api.store.resolve([done(one) for one in await claim(api.store)])
    for one in (name(1), "1@example.org", quote("<1@example.org>")):
        status, trace = await api.call("GET", f"/v1/messages/{one}")
        assert status == 200
        assert [row["id"] for row in trace["messages"]] == [name(1)]
        assert [row["state"] for row in trace["deliveries"]] == ["delivered"]
        assert [(row["status"], row["detail"]) for row in trace["attempts"]] == [(204, "thanks")]


async def test_a_message_comes_back_as_it_came(api: Api) -> None:
    """The raw bytes are handed out byte for byte, as a file that no browser runs."""
    await accept(api.store, [1], size=300_000)
    for one in (name(1), quote("<1@example.org>")):
        answer, content = await api.ask("GET", f"/v1/messages/{one}/raw")
        assert answer.status == 200
        assert content == mail(1, size=300_000).raw
        assert answer.headers["content-type"] == "message/rfc822"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name(1)}.eml"'
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_what_is_not_here_says_which_way(api: Api) -> None:
    """Unknown, only listed, an event that is no mail, removed by retention: each has its code."""
    await api.store.accept(
        batch(mail(1), gaps=(gap(2),), uid=2), address="a@b.example", settles=False
    )
    await api.store.notify([notice("notice_1", state="parked")], ["erp"])
    deliveries = await claim(api.store)
    await api.store.resolve([done(one) for one in deliveries])
    found = {
        one: (await api.call("GET", f"/v1/messages/{one}/raw"))[1]["code"]
        for one in ("msg_NOBODY", name(2), "notice_1", str(deliveries[0].id))
    }
    assert found == {
        "msg_NOBODY": "message.unknown",
        name(2): "message.gap",
        "notice_1": "message.unknown",
        str(deliveries[0].id): "message.unknown",
    }
    await purge(api)
    status, problem = await api.call("GET", f"/v1/messages/{name(1)}/raw")
    assert (status, problem["code"]) == (410, "message.purged")
    status, problem = await api.call("POST", f"/v1/messages/{name(1)}/replay")
    assert status == 409
    assert "retention" in problem["detail"]


async def purge(api: Api) -> None:
    from datetime import UTC, datetime, timedelta

    later = datetime.now(UTC) + timedelta(days=1)
    while (
        await api.store.purge(
            delivered_before=later, dead_before=later, log_before=later - timedelta(days=2)
        )
    ).more:
        pass


async def test_a_message_is_delivered_again(api: Api) -> None:
    """Replay queues it under its own id, once; an unknown message or webhook queues nothing."""
    await accept(api.store, [1])
    await api.store.resolve([done(one) for one in await claim(api.store)])
    where = f"/v1/messages/{name(1)}/replay"
    assert await api.call("POST", where, json={"webhook": "erp"}) == (200, {"replayed": 1})
    assert await api.call("POST", where) == (200, {"replayed": 0})
    [again] = await claim(api.store)
    assert (again.event_id, again.replay) == (name(1), 1)
    assert (await api.call("POST", where, json={"webhook": "other"}))[0] == 422
    assert (await api.call("POST", where, json={"webhok": "erp"}))[0] == 422
    assert (await api.call("POST", "/v1/messages/msg_NOBODY/replay"))[0] == 404


async def test_a_dead_letter_is_tried_again(api: Api) -> None:
    """What is dead is listed with its reason, and goes once more when somebody says so."""
    await accept(api.store, [1, 2])
    first, second = await claim(api.store)
    await api.store.resolve([dead(first), done(second)])
    status, found = await api.call("GET", "/v1/deliveries?state=dead&webhook=erp")
    assert status == 200
    assert [(row["id"], row["last_status"]) for row in found["deliveries"]] == [(first.id, 422)]
    assert not found["more"]
    assert await api.call("POST", f"/v1/deliveries/{first.id}/retry") == (200, {"requeued": 1})
    status, found = await api.call("GET", "/v1/deliveries?state=queued")
    assert [row["id"] for row in found["deliveries"]] == [first.id]
    status, problem = await api.call("POST", f"/v1/deliveries/{second.id}/retry")
    assert (status, problem["code"]) == (409, "delivery.over")
    for unknown in (99_999, 2**63 - 1):
        status, problem = await api.call("POST", f"/v1/deliveries/{unknown}/retry")
        assert (status, problem["code"]) == (404, "delivery.unknown")


async def test_a_long_list_says_that_there_is_more(api: Api) -> None:
    """A list of deliveries has a bound, and tells when something lies beyond it."""
    await accept(api.store, range(1, 4))
    _, found = await api.call("GET", "/v1/deliveries?limit=2")
    assert (len(found["deliveries"]), found["more"]) == (2, True)


async def test_mailboxes_are_shown_as_by_status(api: Api) -> None:
    """Each mailbox of the configuration is there, with its sight and its cause."""
    [folder] = api.health.folders
    folder.cause, folder.code = "the server says <no>", "imap.no"
    _, found = await api.call("GET", "/v1/mailboxes")
    [box] = found["mailboxes"]
    expected: dict[str, Any] = {"name": "alarm", "state": "starting", "code": "imap.no"}
    assert {key: box[key] for key in expected} == expected
    assert box["standing"] is None
