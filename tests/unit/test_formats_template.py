"""Templates: what they can say, what is kept from them, and what each of them may cost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailbridge.template import (
    MAIL_KEYS,
    NAMES,
    Kind,
    Template,
    TemplateFailed,
    TemplateFault,
)
from mailbridge.template.budget import SECONDS

VALUES: Mapping[str, Any] = {
    "mail": {
        **dict.fromkeys(MAIL_KEYS, ""),
        "subject": 'B3 "Zimmerbrand" \\ ä\n</x>&',
        "text": "Ort: Am Markt 5\n" * 16_000,
        "to": ["a@b.example", "c@d.example"],
        "size": 4711,
        "authenticated": True,
        "attachments": [{"filename": "depesche.pdf", "size": 3}],
    },
    "fields": {"keyword": "B3", "units": ["LF 20", "DLK 23"], "empty": None},
    "route": "alarm",
    "event": {"type": "mail.received", "data": {"id": "msg_A", "list": [1, None, True]}},
}


def rendered(source: str, kind: Kind = "text", *, lenient: bool = False, **settings: Any) -> str:
    template = Template(source, place="webhooks.x.template", kind=kind, lenient=lenient)
    return template.render(VALUES, **settings)


SUM = (
    "{% set n = namespace(sum=0) %}{% for i in range(4) %}{% set n.sum = n.sum + i %}{% endfor %}"
    "{{ n.sum }}"
)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ fields.keyword }} {{ route }} {{ mail.size + 1 }}", "B3 alarm 4712"),
        ("{{ fields.units }}|{{ mail.authenticated }}|{{ fields.empty }}", "LF 20, DLK 23|true|"),
        ("{{ fields['keyword'] ~ '-' ~ mail.to[0] }}", "B3-a@b.example"),
        (
            "{% for one in mail.to %}{{ loop.index }}{{ one }}{% endfor %}",
            "1a@b.example2c@d.example",
        ),
        ("{{ fields.nothing | default('none') }} {{ fields.nothing is defined }}", "none false"),
        ("{% if 'LF 20' in fields.units %}ja{% endif %}", "ja"),
        ("{{ mail.attachments | map(attribute='filename') | join(' ') }}", "depesche.pdf"),
        (SUM, "6"),
        ("{{ fields.keyword.lower().replace }}x", None),
        (
            "{{ mail.text.splitlines()[0] | replace('Ort: ', '') | truncate(5, True, '', 0) }}",
            "Am Ma",
        ),
        (
            "{{ [1, 'a', mail.to[1]] }} {{ {'a': (1, 2)} | tojson }}",
            '1, a, c@d.example {"a":[1,2]}',
        ),
        ("{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }}{% endfor %}", "37"),
        ("{{ 'b' in ['a', 'b'] }}{{ mail.to == ['a@b.example', 'c@d.example'] }}", "truetrue"),
        ("{{ 'a'.format is defined }} {{ 'a'.__class__ is defined }}", "false false"),
        ("{{ event.data.id }}{{ event.data.list[0] }}", "msg_A1"),
    ],
)
def test_what_a_template_can_say(source: str, text: str | None) -> None:
    """Look-ups, tests, loops, listed filters and methods work; what is not listed does not."""
    if text is None:
        with pytest.raises(TemplateFailed):
            rendered(source)
    else:
        assert rendered(source) == text


#: what is published as injections into Jinja2 templates, from sandbox escapes to mere probes
INJECTIONS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__base__']['__subclasses__']() }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ [].__class__.__base__.__subclasses__()[40]('/etc/passwd').read() }}",
    "{{ mail.__class__.__init__.__globals__ }}",
    "{{ fields.__init__.__globals__['os'].popen('id').read() }}",
    "{{ fields['__class__'] }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').popen('id').read() }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__.os.popen('id').read() }}",
    "{{ namespace.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ lipsum.__globals__.__builtins__.open('/etc/passwd').read() }}",
    "{{ range.__self__.open('/etc/passwd') }}",
    "{{ range.__class__.__base__ }}",
    "{{ dict.mro() }}",
    "{{ config }}",
    "{{ config.items() }}",
    "{{ request.application.__globals__.__builtins__.__import__('os') }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ url_for.__globals__ }}",
    "{{ '{0.__class__.__mro__}'.format(mail) }}",
    "{{ '%s' % mail }}",
    "{{ '{a}'.format_map(mail) }}",
    "{{ 'x'|format(mail) }}",
    "{{ mail.text.__str__.__objclass__ }}",
    "{{ mail.subject.encode().__class__ }}",
    "{{ (mail.subject|string).__class__ }}",
    "{{ mail.to.append('x') }}",
    "{{ mail.to.__add__ }}",
    "{{ mail.pop('subject') }}",
    "{{ fields.pop('keyword') }}",
    "{{ fields.update({'a': 1}) }}",
    "{% set fields.keyword = 1 %}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{% for x in mail.to %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% for x in mail.to %}{{ loop._iterator }}{% endfor %}",
    "{% for x in mail.to recursive %}{{ loop(mail.to) }}{% endfor %}",
    "{% set n = namespace() %}{{ n._Namespace__attrs }}",
    "{% set n = namespace() %}{{ n.__class__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{% extends '/etc/passwd' %}",
    "{% block a %}{% endblock %}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% call mail.subject() %}{% endcall %}",
    "{% filter upper %}x{% endfilter %}",
    "{% set x %}{{ mail.text }}{% endset %}",
    "{% autoescape false %}x{% endautoescape %}",
    "{{ mail.text | pprint }}",
    "{{ mail.to | random }}",
    "{{ mail | xmlattr }}",
    "{{ mail.to | map('attr', '__class__') | list }}",
    "{{ mail.to | map(attribute='__class__') | join }}",
    "{{ [mail] | map(attribute='__class__.__mro__') | join }}",
    "{{ mail.to | sort(attribute='__class__') }}",
    "{{ mail.to | selectattr('__class__') | list | first }}",
    "{{ _each.__globals__ }}",
    "{{ caller() }}",
    "{{ varargs }}{{ kwargs }}",
    "{{ context }}",
    "{{ debug }}{% debug %}",
]


@pytest.mark.parametrize("source", INJECTIONS)
def test_injections_come_to_nothing(source: str) -> None:
    """No published injection reaches a Python object, a file or another statement."""
    with pytest.raises((TemplateFault, TemplateFailed)):
        rendered(source)


@pytest.mark.parametrize("source", INJECTIONS)
def test_injections_show_nothing_when_blanks_are_allowed(source: str) -> None:
    """Where what is missing is empty, an injection is empty too, or refused."""
    try:
        text = rendered(source, lenient=True)
    except (TemplateFault, TemplateFailed):
        return
    assert not any(word in text for word in ("<", "class", "object", "root:", "uid=", "module"))


@settings(deadline=None)
@given(st.sampled_from(INJECTIONS))
def test_mail_is_data_and_never_a_template(source: str) -> None:
    """What a mail says is printed as it is, however much it looks like a template."""
    values = {**VALUES, "mail": {**VALUES["mail"], "subject": source}, "fields": {source: source}}
    printed = Template("{{ mail.subject }}{% for f in fields %}{{ f }}{% endfor %}", place="x")
    assert printed.render(values) == source + source


DOUBLED = "{% set n = namespace(t=[1]) %}{% for a in range(99) %}{% set n.t = [n.t, n.t] %}"
THOUSANDS = "".join(
    f"{{% set {new} = range(999) | map(attribute='z', default={old}) | list %}}"
    for old, new in ("ab", "bc", "cd", "de")
)
BOMBS = [
    "{{ 'x' * 10000000000 }}",
    "{{ [1] * 10000000000 }}",
    "{{ 10 ** 10000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 'x'.center(1000000000) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ 'x'.zfill(1000000000) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ mail.text | center(1000000000) }}",
    "{{ mail.text | indent(1000000000) }}",
    "{{ mail.text | wordwrap(1) }}",
    "{{ [1] | batch(1000000000, 0) | list }}",
    "{{ range(1000000000) | list }}",
    "{{ mail.text | replace('O', mail.text) }}",
    "{{ mail.text.replace('O', mail.text) }}",
    "{{ mail.text.join(mail.text) }}",
    "{{ mail.text | join(mail.text) }}",
    "{{ [1, 2] | tojson(indent=1000000000) }}",
    "{{ mail.text.expandtabs(1000000000) }}",
    "{{ mail.text.translate({79: mail.text}) }}",
    "{% for a in range(1000) %}" * 3 + "{% endfor %}" * 3,
    "{% for a in mail.text %}{% for b in mail.text %}{% endfor %}{% endfor %}",
    "{% for a in range(1000) %}{{ mail.text }}{% endfor %}",
    "{% for a in range(1000) %}{% set b = mail.text.count('zz') %}{% endfor %}" * 100,
    "{% set n = namespace(t='x') %}{% for a in range(1000) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "{% set n = namespace(t='x') %}{% for a in range(1000) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "{% set n = namespace(t=[1]) %}{% for a in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
    DOUBLED + "{% endfor %}{{ n.t }}",
    DOUBLED + "{% endfor %}{{ n.t | tojson }}",
    DOUBLED + "{% endfor %}{{ n.t | upper }}",
    DOUBLED.replace("[n.t, n.t]", "{'a': n.t, 'b': n.t}") + "{% endfor %}{{ n.t }}",
    DOUBLED.replace("[n.t, n.t]", "namespace(a=n.t, b=n.t)") + "{% endfor %}{{ n.t }}",
    "{% set a = range(999) | map(attribute='z', default=event) | list %}" + THOUSANDS,
    "{% set a = (' ' * 0 ~ mail.text) | map('trim') | map('default', event, true) | list %}"
    + THOUSANDS,
    "{% set n = namespace(t=9) %}{% for a in range(999) %}{% set n.t = n.t * n.t %}{% endfor %}",
    "{{ [" + "mail.text ~ mail.text," * 1500 + "] | length }}",
    "{% for a in range(1000) %}{{ mail.text | map('upper') | list | length }}{% endfor %}",
    "{{ range(1000) | map('string') | map('replace', '1', mail.text) | join }}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_no_template_runs_on_or_grows_without_end(source: str) -> None:
    """Whatever it tries, a template ends within its CPU time and its bound, and says so."""
    began = time.thread_time()
    with pytest.raises((TemplateFault, TemplateFailed)) as caught:
        rendered(source)
    # Without an end it would be hours; a busy machine makes CPU time dear, too.
    assert time.thread_time() - began < 30 * SECONDS
    assert "Ort" not in str(caught.value)


def test_output_is_bounded() -> None:
    """A template that gives more than it may gives nothing, and names the bound."""
    assert rendered("{{ mail.size }}", most=4) == "4711"
    with pytest.raises(TemplateFailed, match=r"more than 3 bytes"):
        rendered("{{ mail.size }}", most=3)
    with pytest.raises(TemplateFailed, match=r"more than 3 bytes"):
        rendered("{{ 'ää' }}", most=3)


@pytest.mark.parametrize(
    ("source", "line", "column", "word"),
    [
        ("{{ mail.subjct }}", 1, 1, "there is no `mail.subjct`"),
        ("Hallo\n  {{ mail.subject }} {{ fiels.a }}", 2, 22, "there is no `fiels`"),
        ("{{ a b }}", 1, 1, "expected token"),
        ("x\n\n{% if %}", 3, 1, "Expected an expression"),
        ("{% if true %}\nx", 1, 1, "endif"),
        ("a {{ mail.subject | pprint }}", 1, 3, "No filter named 'pprint'"),
        ("{{ mail.subject", 1, 1, "unexpected end"),
        ("{{ " + "(" * 40_000, 1, 1, "nested too deeply"),
        ("x" * 70_000, 1, 1, "longer than 65536"),
        ("{{ " + "9" * 5000 + " }}", 1, 1, "too long a number"),
        ("{{ self }}", 1, 1, "`self` is not part"),
    ],
)
def test_a_fault_is_found_when_the_file_is_read(
    source: str, line: int, column: int, word: str
) -> None:
    """What cannot work is refused before any mail comes, with line and column."""
    with pytest.raises(TemplateFault, match=r".") as caught:
        rendered(source)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\n\n{{ fields.nothing }}", "line 3: it asks for something that this mail does not have"),
        ("{{ fields[mail.subject] }}", "line 1: it asks for something"),
        ("{{ mail.subject + 1 }}", "line 1: `+` is not possible between these"),
        ("{{ 1 / 0 }}", "line 1: it fails (ZeroDivisionError)"),
        ("\n{{ mail.subject | round }}", "line 2: it fails (TypeError)"),
        ("{{ mail.to | sum }}", None),
    ],
)
def test_a_failure_names_place_and_line_and_nothing_of_the_mail(
    source: str, reason: str | None
) -> None:
    """The reason of a failure can be shown and logged: key of the file, line, and why."""
    with pytest.raises((TemplateFailed, TemplateFault)) as caught:
        rendered(source)
    if reason:
        assert str(caught.value).startswith("webhooks.x.template, " + reason)
    assert "Zimmerbrand" not in str(caught.value)


@settings(deadline=None)
@given(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
)
def test_json_stays_json_whatever_a_mail_says(subject: str, value: Any) -> None:
    """Within quotes and without, with tojson and alone, no text breaks out of its place."""
    subject = subject.encode("utf-8", "replace").decode()
    value = orjson.loads(json.dumps(value).replace("\\ud", "x"))
    values = {**VALUES, "mail": {**VALUES["mail"], "subject": subject}, "fields": {"v": value}}
    template = Template(
        '{"a": {{ mail.subject | tojson }}, "b": "x {{ mail.subject }} y",'
        ' "v": {{ fields.v | tojson }}, "c": {"fields": {{ fields }}}}',
        place="x",
        kind="json",
    )
    assert json.loads(template.render(values)) == {
        "a": subject,
        "b": f"x {subject} y",
        "v": value,
        "c": {"fields": {"v": value}},
    }


def test_markup_is_escaped() -> None:
    """In XML and HTML a mail's text is text."""
    assert rendered("<a>{{ mail.subject }}</a>", "markup").endswith("&lt;/x&gt;&amp;</a>")


def test_threads_share_a_template() -> None:
    """Two renderings at once have a budget each, and do not mix."""
    template = Template("{% for a in range(900) %}{{ mail.size }}{% endfor %}", place="x")
    results: list[int] = []

    def work(size: int) -> None:
        text = template.render({**VALUES, "mail": {"size": size}}, most=10_000)
        results.append(text == str(size) * 900)

    threads = [threading.Thread(target=work, args=(size,)) for size in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


def test_the_names_are_those_that_are_documented() -> None:
    """The page for those who write templates has every name that there is."""
    from tests.unit.test_event import DATA

    page = (DATA.parent.parent / "docs" / "formats" / "template.md").read_text("utf-8")
    for name in (*NAMES, *MAIL_KEYS):
        assert f"`{name}`" in page or f"`mail.{name}`" in page, name
