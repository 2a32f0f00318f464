"""The type checker that tests run every annotated function of mmjax under."""

import functools
import inspect
import types

import jaxtyping
from beartype import BeartypeConf, beartype

# An int where a float is asked for is fine, as Python's own type checkers have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(function=None, *, typechecker):
    """`jaxtyping.jaxtyped`, which binds and checks all arguments twice, for functions of arrays alone.

    Others are checked by `typechecker` itself, which costs far less.
    """
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(function, types.FunctionType) and not _has_arrays(function):
        return typechecker(function)
    return _jaxtyped(function, typechecker=typechecker)


def _has_arrays(function):
    """Whether an annotation has a type of jaxtyping's, or a name that only it resolves."""
    annotations = inspect.get_annotations(function).values()
    return any(
        isinstance(annotation, str) or "jaxtyping." in repr(annotation) or "ForwardRef" in repr(annotation)
        for annotation in annotations
    )
