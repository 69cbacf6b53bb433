"""A persistent map: updating it gives a new map and leaves the old one as it was.

It makes whole states into values, so that undoing a transaction is forgetting a reference. Lookups cost two dictionary
probes; an update copies recent changes only, which are folded into the bulk before they grow large.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Generic, TypeVar, cast, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

TYPICAL_UPDATE = 512
"""Keys changed at once by a training step. With n keys in bulk, folding at sqrt(n * this) recent ones costs least: then
copying the recent ones at every update and copying all at every fold cost the same."""
_ABSENT = object()


class Map(Mapping[K, V], Generic[K, V]):
    """An immutable mapping with cheap `updated`. Keys iterate in the order in which they were first set."""

    __slots__ = ("_bulk", "_recent", "_size")

    def __init__(self, bulk: Mapping[K, V] | None = None) -> None:
        self._bulk: dict[K, V] = dict(bulk or {})
        self._recent: dict[K, V] = {}
        self._size = len(self._bulk)

    def __getitem__(self, key: K) -> V:
        found = self._recent.get(key, _ABSENT)
        return self._bulk[key] if found is _ABSENT else cast("V", found)

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: D) -> V | D: ...
    def get(self, key: K, /, default: D | None = None) -> V | D | None:
        """Return the value of `key`, or `default`."""
        found = self._recent.get(key, _ABSENT)
        return self._bulk.get(key, default) if found is _ABSENT else cast("V", found)

    def __contains__(self, key: object) -> bool:
        return key in self._recent or key in self._bulk

    def __iter__(self) -> Iterator[K]:
        yield from self._bulk
        yield from (key for key in self._recent if key not in self._bulk)

    def __len__(self) -> int:
        return self._size

    def updated(self, changes: Mapping[K, V]) -> Map[K, V]:
        """Return a map with `changes` set over this one."""
        recent = {**self._recent, **changes}
        if len(recent) ** 2 > TYPICAL_UPDATE * len(self._bulk):
            return Map({**self._bulk, **recent})
        result = Map[K, V]()
        result._bulk, result._recent = self._bulk, recent
        result._size = self._size + sum(key not in self for key in changes)
        return result

    def without(self, keys: Collection[K]) -> Map[K, V]:
        """Return a map without `keys`; copies everything, so for small maps."""
        return Map({key: value for key, value in self.items() if key not in keys})
