"""The sandbox of chat templates: Jinja's, set up as in transformers, with ``chat_limits.py``.

Imported only where a template is rendered, as it needs the package ``jinja2``.
Source: transformers, ``utils/chat_template_utils.py``.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.visitor import NodeTransformer

from .chat_limits import refuse_arguments, refuse_operands, work


def sandbox() -> Any:
    """The environment, in which names are those that transformers gives to templates."""
    environment = _Limited(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_MarkedAnswers, loopcontrols],
        optimized=False,  # which would compute constants while the template is read
    )
    environment.filters["tojson"] = _as_json
    for name, function in environment.filters.items():
        environment.filters[name] = _limited(name, function)
    environment.globals.update(raise_exception=_refuse, strftime_now=_now, range=_counted_range)
    del environment.globals["lipsum"]  # text of any length
    return environment


class _MarkedAnswers(Extension):
    """``{% generation %}``, which marks answers for training: what is inside it is written."""

    tags = {"generation"}  # noqa: RUF012 - as Extension declares it

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _Counting(NodeTransformer):
    """Counts turns of loops, and what is written and joined."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - as NodeTransformer calls it
        self.generic_visit(node)
        turn = _call("turn", [], node.lineno)
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        if node.test is not None:  # of items that it leaves out too
            node.test = nodes.And(turn, node.test, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", node.nodes, node.lineno)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_call("joined", [part], node.lineno) for part in node.nodes]
        return node


def _call(method: str, values: list[nodes.Expr], line: int) -> nodes.Call:
    called = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(called, values, [], None, None, lineno=line)


class _Limited(ImmutableSandboxedEnvironment):
    """Counts what templates do."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def _parse(self, *source: Any) -> nodes.Template:
        parsed: nodes.Template = _Counting().visit(super()._parse(*source))
        return parsed

    def turn(self) -> bool:
        """A turn of a loop; ``call`` counts it."""
        return True

    def joined(self, *values: Any) -> str:
        """A text of several values."""
        texts = [str(value) for value in values]
        work.get().refuse(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        refuse_operands(operator, left, right)
        return work.get().made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        method = getattr(function, "__wrapped__", function)  # that the sandbox wraps: str.format
        name = getattr(function, "__name__", "")
        refuse_arguments(name, (getattr(method, "__self__", None), *args), kwargs)
        return work.get().made(super().call(context, function, *args, **kwargs))


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts what it makes."""

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        refuse_arguments(name, args, kwargs)
        return work.get().made(function(*args, **kwargs))

    return limited


def _refuse(words: str) -> None:
    raise TemplateError(words)


def _as_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _counted_range(*bounds: int) -> range:
    numbers = safe_range(*bounds)
    work.get().count(len(numbers))
    return numbers
