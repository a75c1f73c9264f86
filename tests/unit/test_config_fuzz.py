"""The configuration survives whatever is done to its file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailbridge import config
from mailbridge.errors import ConfigError

EXAMPLE = (Path(__file__).parents[2] / "config.example.yaml").read_text(encoding="utf-8")
LINES = EXAMPLE.splitlines(keepends=True)
#: stands in the environment; shaped like what Entra gives out
CANARY = "Cnr8Q~x7.Fq_made-up-canary-value"
#: the same, pasted into the file where a value or a key belongs
PASTED = "Pst9Q~y3.Gk_made-up-pasted-value"
ENVIRON = {
    "ALARM_SECRET": CANARY,
    "ERP_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "ERP_AUTHORIZATION": f"Bearer {CANARY}",
    "ALARM_SERVER_URL": f"http://10.0.0.5/alarm?accesskey={CANARY}",
}
FRAGMENTS = st.sampled_from(
    (
        *(PASTED, f"{{env: {PASTED}}}", f"*{PASTED}", f"&{PASTED} ", f"!{PASTED} ", f"{PASTED}: "),
        *(
            "{",
            "}",
            "[",
            "]",
            ":",
            "- ",
            "? ",
            "<<: ",
            "'",
            '"',
            "|\n",
            "#",
            "%",
            "\n",
            "\t",
            "\x00",
        ),
        *("null", "true", "off", "1e999", "=", "[[[[", "*a", "&a ", "---\n", "...", "\ufeff"),
    )
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Give the example after a few cuts, swaps and insertions."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        where = draw(st.integers(0, len(line)))
        match draw(st.integers(0, 5)):
            case 0:
                lines[at] = line[:where] + draw(FRAGMENTS) + line[where:]
            case 1:
                lines[at] = line[:where]
            case 2:
                lines[at] = line[draw(st.integers(0, len(line))) :]
            case 3:
                other = draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], line
            case 4:
                key, colon, _ = line.partition(":")
                lines[at] = key + colon + " " + draw(FRAGMENTS) + "\n"
            case _:
                lines[at] = line[:where] + draw(st.text(max_size=5)) + line[where:]
    return "".join(lines)


def outcome(content: bytes) -> tuple[str, str]:
    """Return all messages about this content, and the text of the configuration if it loads.

    Anything but ``ConfigError`` that is raised fails the test.
    """
    with TemporaryDirectory() as directory:
        path = Path(directory) / "mailbridge.yaml"
        path.write_bytes(content)
        checked = config.check(path, environ=ENVIRON)
        messages = [str(problem) for problem in checked.problems + checked.warnings]
        if checked.config is not None:
            assert not checked.problems
            return "\n".join(messages), repr(config.load(path, environ=ENVIRON))
        with pytest.raises(ConfigError) as caught:
            config.load(path, environ=ENVIRON)
        assert caught.value.problems
        assert all(problem.fix for problem in caught.value.problems)
        return "\n".join([*messages, str(caught.value), repr(caught.value)]), ""


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_a_mutilated_file_gives_problems_and_no_secret(text: str) -> None:
    """No change of the file raises anything but ConfigError or makes a message show a secret."""
    messages, loaded = outcome(text.encode("utf-8", "surrogatepass"))
    assert CANARY not in messages
    assert CANARY not in loaded
    assert PASTED not in messages


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(content: bytes) -> None:
    """No content of the file raises anything but ConfigError, and none of these is valid."""
    messages, loaded = outcome(content)
    assert messages
    assert not loaded
