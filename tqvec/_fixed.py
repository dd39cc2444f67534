"""Objects whose attributes are set once: kernels trust the sizes that a constructor checked against its arrays."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray


class Fixed:
    """An object whose own attributes are set once, by its constructor. Subclasses may have others, which change.

    Attributes
    ----------
    _fixed : frozenset of str
        Names of these attributes. Properties without a setter need not be among them.
    """

    _fixed: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse_change(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse_change(name)
        super().__delattr__(name)

    def _refuse_change(self, name: str) -> None:
        kind = type(self)
        other = getattr(kind, name, None)
        if (name in kind._fixed and name in vars(self)) or (isinstance(other, property) and other.fset is None):
            raise AttributeError(f"{kind.__name__}.{name} can't be changed; make a new {kind.__name__} instead")


Self = TypeVar("Self", bound="Copied")


class Copied(Fixed):
    """An object with a `__copy__` of its own, whose copies keep what users and subclasses added to it.

    Attributes
    ----------
    _inner : frozenset of str
        Names of the attributes that are not of users or subclasses.
    """

    _inner: ClassVar[frozenset[str]] = frozenset()

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = other = copy.copy(self)  # attributes of a subclass may refer to the object itself
        vars(other).update(copy.deepcopy(self._own_attributes(), memo))
        return other

    def _own_attributes(self) -> dict[str, Any]:
        """The attributes that a user or a subclass added."""
        return {name: value for name, value in vars(self).items() if name not in self._inner}


Tables = TypeVar("Tables", bound=tuple[Any, ...])


def protect(array: NDArray) -> NDArray:
    """Return a view of an array that can't be written to, and whose shape is its own."""
    view = array.view()
    view.flags.writeable = False
    return view


def protect_fields(tables: Tables) -> Tables:
    """Return a named tuple with views of its arrays, as `protect` makes them."""
    return type(tables)(*(protect(field) if isinstance(field, np.ndarray) else field for field in tables))
