"""The Jinja2 environment: what a template may say, and how each of it is kept small.

Values are dictionaries, lists, texts and numbers; ``a.b`` looks into a dictionary and never at a
Python attribute, so there is no way from a value to anything else. What is not listed here is
refused: filters, tests, methods of texts, statements. Loops cannot be endless (they run over
values, ``range`` is capped, and nothing is recursive), and each turn of one is charged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import orjson
from jinja2 import StrictUndefined, TemplateAssertionError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import ChainableUndefined, Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup, escape

from mailbridge.template.budget import spend, weigh

#: numbers that one `range` may give
RANGE: Final = 1000
#: a whole number beyond it is no number of a mail, and sums of such grow without end
INTEGER: Final = 10**18

_FILTERS: Final = (
    *("abs", "capitalize", "count", "d", "default", "first", "float", "int"),
    *("items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *("reverse", "round", "select", "selectattr", "sort", "title", "trim", "truncate"),
    *("unique", "upper", "urlencode", "wordcount"),
)
_TESTS: Final = (
    *("boolean", "defined", "divisibleby", "eq", "==", "equalto", "even", "false", "float", "ge"),
    *(">=", "gt", ">", "greaterthan", "in", "integer", "iterable", "le", "<=", "lower", "lt", "<"),
    *("lessthan", "mapping", "ne", "!=", "none", "number", "odd", "sequence", "string", "true"),
    *("undefined", "upper"),
)
_TEXT: Final = frozenset(
    {
        *("capitalize", "casefold", "count", "endswith", "find", "isalnum", "isalpha", "isdigit"),
        *("isnumeric", "isspace", "lower", "lstrip", "partition", "removeprefix", "removesuffix"),
        *("rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith"),
        *("strip", "swapcase", "title", "upper"),
    }
)
_LOOP: Final = frozenset(
    {
        *("index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"),
        *("previtem", "nextitem", "cycle", "changed"),
    }
)
_SUMS: Final = (str, list, tuple)
_REFUSED: Final[Mapping[type[nodes.Node], str]] = {
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.FilterBlock: "filter",
    nodes.AssignBlock: "set without a value",
    nodes.Import: "import",
    nodes.FromImport: "from",
    nodes.Include: "include",
    nodes.Extends: "extends",
    nodes.Block: "block",
    nodes.ScopedEvalContextModifier: "autoescape",
    nodes.EvalContextModifier: "autoescape",
}


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of every template; ``finalize`` makes a value fit for what is written."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, finalize: Callable[[Any], str], *, lenient: bool) -> None:
        super().__init__(
            undefined=ChainableUndefined if lenient else StrictUndefined,
            finalize=finalize,
            optimized=False,
            autoescape=False,
            keep_trailing_newline=True,
        )
        self.globals.clear()
        self.globals.update(range=_range, namespace=_Namespace)
        own = {
            "join": _join,
            "replace": _replace,
            "tojson": _tojson,
            "_each": _each,
            "_text": _text,
            "_made": _made,
        }
        self.filters = {name: _charged(FILTERS[name]) for name in _FILTERS} | own
        self.tests = {name: _charged(TESTS[name]) for name in _TESTS}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        bounded: nodes.Template = _Bounding(name, filename).visit(tree)
        return bounded

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look into a value: ``obj.attribute``."""
        spend()
        if isinstance(obj, Mapping):
            return self._item(obj, attribute)
        reachable = (
            (isinstance(obj, str) and attribute in _TEXT)
            or (isinstance(obj, LoopContext) and attribute in _LOOP)
            or (isinstance(obj, Namespace | Undefined) and not attribute.startswith("_"))
        )
        if reachable:
            return getattr(obj, attribute)
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look into a value: ``obj[argument]``."""
        spend()
        if isinstance(obj, Mapping | Undefined):
            return self._item(obj, argument)
        if isinstance(obj, str | list | tuple) and isinstance(argument, int | slice):
            try:
                found = obj[argument]
            except (IndexError, TypeError, ValueError):
                return self.undefined(obj=obj, name="that")
            if isinstance(argument, slice):
                weigh(found)
            return found
        return self.undefined(obj=obj, name="that")

    def _item(self, obj: Any, key: Any) -> Any:
        try:
            return obj[key]
        except (KeyError, TypeError):
            return self.undefined(obj=obj, name=key if isinstance(key, str) else "that")

    def call(
        self,
        context: Context,
        obj: Any,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a function of the environment, or a method of a text or of a loop."""
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if obj is not _range and obj is not _Namespace:
            listed = (isinstance(owner, str) and name in _TEXT) or (
                isinstance(owner, LoopContext) and name in {"cycle", "changed"}
            )
            if not listed:
                raise SecurityError("this cannot be called")
        result = context.call(obj, *args, **kwargs)
        weigh(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate, unless the result could be without measure."""
        del context
        spend()
        numbers = all(isinstance(value, int | float) for value in (left, right))
        if operator == "**" or not (numbers or operator == "+"):
            raise SecurityError(f"`{operator}` is not possible between these")
        if numbers and any(isinstance(v, int) and abs(v) > INTEGER for v in (left, right)):
            raise SecurityError("this number is too large")
        if operator == "+" and not numbers:
            if not any(isinstance(left, kind) and isinstance(right, kind) for kind in _SUMS):
                raise SecurityError("`+` is not possible between these")
            spend(len(left) + len(right))
            return _made(left + right)
        return self.binop_table[operator](left, right)


class _Bounding(NodeTransformer):
    """Puts a charge on every loop and every joined text, and refuses what has no bound."""

    def __init__(self, name: str | None, filename: str | None) -> None:
        self._place = (name, filename)

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        statement = _REFUSED.get(type(node))
        if statement is not None:
            self._refuse(f"`{statement}` is not part of these templates", node)
        return super().generic_visit(node, *args, **kwargs)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802 - so Jinja2 looks it up
        if node.name == "self":
            self._refuse("`self` is not part of these templates", node)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the same
        if node.recursive:
            self._refuse("a loop cannot be recursive", node)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_each")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802 - the same
        self.generic_visit(node)
        return _filtered(node, "_made")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802 - the same
        self.generic_visit(node)
        return _filtered(node, "_made")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - the same
        self.generic_visit(node)
        # One that is assigned to is no value: {% for a, b in … %}.
        return _filtered(node, "_made") if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the same
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_text")

    def _refuse(self, message: str, node: nodes.Node) -> None:
        raise TemplateAssertionError(message, node.lineno, *self._place)


def _filtered(value: Any, name: str) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def _charged(function: Any) -> Callable[..., Any]:
    """Charge what a filter or a test does; its marks for Jinja2 are kept."""

    @functools.wraps(function)
    def charged(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        weigh(result)
        return result

    return charged


class _Namespace(Namespace):
    """What keeps values over the turns of a loop; never another of its kind."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for name, value in values.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(value, str | int | float | list | tuple | dict | None):
            raise SecurityError("this cannot be kept; add `| list` to what a filter gives")
        super().__setitem__(name, value)


def _made(value: Any) -> Any:
    weigh(value)
    return value


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > RANGE:
        raise SecurityError(f"`range` gives at most {RANGE} numbers")
    return numbers


def _each(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        spend()
        yield value


def _text(values: list[Any]) -> str:
    texts = [as_text(value) for value in values]
    spend(sum(map(len, texts)))
    return "".join(texts)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    texts = []
    for value in values:
        picked = value
        if attribute is not None:
            picked = value.get(attribute, "") if isinstance(value, Mapping) else ""
        texts.append(as_text(picked))
        spend(len(texts[-1]) + len(separator))
    return str(separator).join(texts)


def _replace(value: Any, old: str, new: str) -> str:
    text, old, new = as_text(value), as_text(old), as_text(new)
    spend(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _tojson(value: Any) -> Markup:
    if isinstance(value, Undefined):
        str(value)  # a strict one says that it is not there
        value = None
    weigh(value)
    text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    return Markup(text)  # noqa: S704 - marks what is JSON already, which alone is meant


def as_json(value: Any) -> str:
    """Write a value into JSON: a text without its quotes, anything else as it is written there."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str | Undefined):
        return orjson.dumps(str(value)).decode()[1:-1]
    return _tojson(value)


def as_markup(value: Any) -> str:
    """Write a value into XML or HTML."""
    return str(escape(as_text(value)))


def as_text(value: Any) -> str:
    """Write a value for people: a list with commas, nothing for nothing."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Undefined):
        return str(value)
    if not isinstance(value, list | tuple | dict):
        raise SecurityError("this cannot be printed; add `| list` to what a filter gives")
    weigh(value)
    if isinstance(value, dict):
        return ", ".join([f"{as_text(key)}: {as_text(each)}" for key, each in value.items()])
    return ", ".join([as_text(each) for each in value])
