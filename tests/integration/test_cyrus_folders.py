"""Folders are found as a real server arranges and marks them: below the INBOX, and by role."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mailbridge.errors import FolderMissing
from tests.contract.imap_rigs import CyrusRig, Ledger, mail, source_for
from tests.servers.cyrus import Cyrus
from tests.servers.tokens import Minter


@pytest.fixture(scope="module")
def dotted(minter: Minter) -> Iterator[Cyrus]:
    """Give a Cyrus of the old arrangement: `INBOX.Archive.2026`."""
    with Cyrus(minter.rules, probe_token=minter.mint_app, separator=".") as server:
        yield server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.mark.parametrize("written", ["Einsätze/Übung", "INBOX.Einsätze.Übung"])
async def test_a_folder_below_the_inbox_is_found(
    dotted: Cyrus, minter: Minter, pool: ThreadPoolExecutor, written: str
) -> None:
    """With `/` or as the server writes it; ids are made of the configured name."""
    rig = CyrusRig(dotted, minter, f"below-{len(written)}@feuerwehr.example")
    await rig.create("INBOX.Einsätze.Übung")
    await rig.deliver(mail(1), folder="INBOX.Einsätze.Übung")
    ledger = Ledger()

    await ledger.look(source_for(rig, pool, folder=written))

    assert ledger.numbers == [1]
    assert {ref.folder for ref in ledger.accepted} == {written}


async def test_moved_mail_lands_below_the_inbox(
    dotted: Cyrus, minter: Minter, pool: ThreadPoolExecutor
) -> None:
    """The target is created where this server lets people create folders, and used again."""
    rig = CyrusRig(dotted, minter, "moving@feuerwehr.example")
    ledger = Ledger()
    for number in (1, 2):
        await rig.deliver(mail(number))
        source = source_for(rig, pool, after="move", move_to="Erledigt/Übung")
        async with source.session() as session:
            await ledger.fetch(session)
            refs = list(ledger.accepted)[-1:]
            assert list(await session.settle(refs)) == refs

    moved = await rig.look("INBOX.Erledigt.Übung")
    assert [name for _, _, name in moved] == [f"<alarm-{n}@ils.example>" for n in (1, 2)]
    assert await rig.look() == []


async def test_a_missing_folder_is_named_with_those_below_the_inbox(
    dotted: Cyrus, minter: Minter, pool: ThreadPoolExecutor
) -> None:
    """What it has is told as the server writes it."""
    rig = CyrusRig(dotted, minter, "missing@feuerwehr.example")
    await rig.create("INBOX.Alarme")

    with pytest.raises(FolderMissing) as caught:
        await Ledger().look(source_for(rig, pool, folder="Einsatz"))

    assert "INBOX.Alarme" in caught.value.fix


@pytest.mark.parametrize("separator", ["/", "."])
async def test_a_folder_is_found_by_the_role_that_it_is_marked_with(
    cyrus: Cyrus, dotted: Cyrus, minter: Minter, pool: ThreadPoolExecutor, separator: str
) -> None:
    r"""`\Sent` is the folder that the server marks so, whatever it is called."""
    server, prefix = (cyrus, "") if separator == "/" else (dotted, "INBOX.")
    rig = CyrusRig(server, minter, "roles@feuerwehr.example")
    server.create(rig.address, f"{prefix}Ausgang", use=r"\Sent")
    await rig.create(f"{prefix}Sent")
    await rig.deliver(mail(1), folder=f"{prefix}Ausgang")
    ledger = Ledger()

    await ledger.look(source_for(rig, pool, folder=r"\Sent"))

    assert ledger.numbers == [1]
