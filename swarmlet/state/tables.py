"""A table of objects that have a name, each its own."""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from swarmlet.model.objects import Config, Secret

_S = TypeVar("_S", Secret, Config)
_C_co = TypeVar("_C_co", Secret, Config, covariant=True)


class Lookup(Protocol[_C_co]):
    """The read-only face of a table."""

    def get(self, ident: str) -> _C_co | None:
        """The object of that identifier."""
        ...

    def named(self, name: str) -> _C_co | None:
        """The object of that name."""
        ...

    def all(self) -> Iterable[_C_co]:
        """All objects."""
        ...


class Named(Generic[_S]):
    """The table. Only :mod:`swarmlet.state.fsm` and snapshots write to it."""

    def __init__(self) -> None:
        self._objects: dict[str, _S] = {}
        self._names: dict[str, str] = {}

    def get(self, ident: str) -> _S | None:
        """See :class:`Lookup`."""
        return self._objects.get(ident)

    def named(self, name: str) -> _S | None:
        """See :class:`Lookup`."""
        found = self._names.get(name)
        return None if found is None else self._objects[found]

    def all(self) -> Iterable[_S]:
        """See :class:`Lookup`."""
        return self._objects.values()

    def put(self, new: _S) -> None:
        """Insert or replace an object; it keeps its name."""
        self._objects[new.id] = new
        self._names[new.spec.name] = new.id

    def delete(self, ident: str) -> None:
        """Remove an object."""
        del self._names[self._objects.pop(ident).spec.name]

    def ordered(self) -> list[_S]:
        """All objects, in the snapshot's order."""
        return [self._objects[k] for k in sorted(self._objects)]
