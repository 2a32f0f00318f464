"""Functions with a backward pass of their own, some of whose arguments are constants."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

_T = TypeVar("_T")
_Result = TypeVar("_Result", covariant=True)


@runtime_checkable
class CustomVjp(Protocol[_Result]):
    """What `jax.custom_vjp` makes of a function, with the type of what the function returns."""

    def __call__(self, *args: Any, **kwargs: Any) -> _Result: ...

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> Any: ...


def custom_vjp(nondiff_argnums: tuple[int, ...]) -> Callable[[Callable[..., _T]], CustomVjp[_T]]:
    """`jax.custom_vjp` with `nondiff_argnums`, as a decorator that keeps the type of what the function returns."""
    return lambda function: jax.custom_vjp(function, nondiff_argnums=nondiff_argnums)
