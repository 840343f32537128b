"""Wrong versions of the product's functions, made from their real source while a plant lasts.

A bug is a change of one function's text, line for line. Its source is read, the text replaced, the
result compiled as if it stood in the same module, and put behind the function that is there: so
every module that has imported it has the bug, whatever it calls it. Text that is no longer in the
source is a `PlantError`: a bug must not quietly become none while the product goes on.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


class PlantError(Exception):
    """The product has changed: this bug must be written anew."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In the source of `target` (`module:Class.method`), `old` becomes `new`.

    The source begins at the margin: what is in a function's body is four spaces in. `old` stands
    there exactly once.
    """

    target: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Constant:
    """`target` (`module:NAME`) has this value."""

    target: str
    value: object


Change = Edit | Constant


@contextmanager
def planted(changes: Sequence[Change]) -> Iterator[None]:
    """With these changes in the product, one a function. Raises `PlantError`."""
    if len({change.target for change in changes}) < len(changes):
        raise PlantError("one function, two changes: the second would undo the first")
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(_edited(change) if isinstance(change, Edit) else _set(change))
        yield


@contextmanager
def _edited(edit: Edit) -> Iterator[None]:
    function = function_at(edit.target)
    real = function.__code__
    function.__code__ = _wrong_code(function, edit)
    try:
        yield
    finally:
        function.__code__ = real


@contextmanager
def _set(constant: Constant) -> Iterator[None]:
    module_name, _, name = constant.target.partition(":")
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        raise PlantError(f"there is no {constant.target}")
    real = getattr(module, name)
    if real == constant.value:
        raise PlantError(f"{constant.target} is {real!r} already")
    setattr(module, name, constant.value)
    try:
        yield
    finally:
        setattr(module, name, real)


def function_at(target: str) -> FunctionType:
    """The function behind `module:name` or `module:Class.name`, whatever is wrapped around it."""
    module_name, _, path = target.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        try:
            found = inspect.getattr_static(found, name)
        except AttributeError:
            raise PlantError(f"there is no {target}") from None
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    found = inspect.unwrap(getattr(found, "func", found))  # `cached_property` calls it `func`
    if not isinstance(found, FunctionType):
        raise PlantError(f"{target} is no function")
    return found


def _wrong_code(function: FunctionType, edit: Edit) -> CodeType:
    """What the function's code would be with the edit in its source."""
    lines, first_line = inspect.getsourcelines(function)
    source = textwrap.dedent("".join(lines))
    if source.count(edit.old) != 1:
        raise PlantError(f"{edit.target} has {source.count(edit.old)} times {edit.old!r}")
    tree = ast.parse(source.replace(edit.old, edit.new))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    definition.decorator_list.clear()
    ast.increment_lineno(tree, first_line - 1)
    flags = __future__.annotations.compiler_flag
    real = function.__code__
    module = compile(tree, real.co_filename, "exec", flags, dont_inherit=True)
    code = next(each for each in module.co_consts if isinstance(each, CodeType))
    if code.co_freevars != real.co_freevars:
        raise PlantError(f"{edit.target}: closes over {code.co_freevars}, not {real.co_freevars}")
    return code.replace(co_qualname=real.co_qualname)
