"""What a step of ``test-mailbox`` finds wrong."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 - a finding, not an error of the program
    """A step's finding that something is wrong; ``warning`` lets the later steps go on."""

    def __init__(self, said: str, *, code: str, fix: str = "", warning: bool = False) -> None:
        super().__init__(said)
        self.code = code
        self.fix = fix
        self.warning = warning
