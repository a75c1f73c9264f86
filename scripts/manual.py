"""Write the man page, docs/cli.md and the completion scripts: ``python -m scripts.manual``.

All of it comes from what ``--help`` says. ``--check`` writes nothing and exits with 1 when a file
is not what it would write.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from scripts import manual_config, manual_markdown, manual_roff
from scripts.manual_pages import commands

ROOT = Path(__file__).resolve().parent.parent


def files() -> Mapping[str, str]:
    """Return what each file below the root of the checkout is to hold."""
    found = list(commands())
    return {
        "docs/man/mailbridge.1": manual_roff.page(found),
        "docs/man/mailbridge.yaml.5": manual_config.page(
            (ROOT / "docs/config.md").read_text(encoding="utf-8")
        ),
        "docs/cli.md": manual_markdown.page(found),
        **{name: _script(shell) for shell, name in SHELLS.items()},
    }


SHELLS = {
    "bash": "docs/completion/mailbridge.bash",
    "fish": "docs/completion/mailbridge.fish",
    "zsh": "docs/completion/_mailbridge",
}


def _script(shell: str) -> str:
    """Return what ``mailbridge --show-completion`` prints in a shell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(
        prog_name="mailbridge", complete_var="_MAILBRIDGE_COMPLETE", shell=shell
    )
    if shell == "zsh":
        # Loaded from $fpath, the file is the body of the function that the first Tab calls.
        script += '\n[[ ${funcstack[1]} != _mailbridge ]] || _mailbridge_completion "$@"'
    return script.strip() + "\n"


def main() -> int:
    """Write or check."""
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        print("usage: python -m scripts.manual [--check]", file=sys.stderr)
        return 2
    old = 0
    for name, text in files().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        old += 1
        print(f"{name} is {'not what the help texts say: make docs' if check else 'written'}")
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
