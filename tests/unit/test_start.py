"""What a start loads and asks of the system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_START = """
import asyncio, json, sys
import mailbridge.process
import mailbridge.app
from mailbridge.store.store import Store

async def main():
    await (await Store.open(sys.argv[1])).close()

asyncio.run(main())
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
_FILES = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
from mailbridge.process import open_many_files
open_many_files()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""
_COMMAND = """
import sys
import mailbridge.cli.main
print("structlog" in sys.modules)
"""


def _python(code: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return ran.stdout.splitlines()[-1] if ran.stdout else ""


def test_a_start_loads_only_what_a_daemon_needs(tmp_path: Path) -> None:
    """With the schema in place, nothing for upgrades, certificates or colours is in memory."""
    url = f"sqlite:///{tmp_path}/mailbridge.db"
    seldom = {"alembic", "mako", "pygments", "rich", "cryptography"}

    first = set(json.loads(_python(_START, url)))
    second = set(json.loads(_python(_START, url)))

    assert "alembic" in first
    assert "structlog" in second
    assert not seldom & second


def test_the_command_leaves_the_first_import_of_the_log_to_the_daemon() -> None:
    """Before ``run`` has set up its process, nothing has loaded structlog, and rich with it."""
    assert _python(_COMMAND) == "False"


def test_the_daemon_may_open_as_many_files_as_the_system_allows() -> None:
    """A low soft limit of open files is raised to the hard one."""
    _python(_FILES)
