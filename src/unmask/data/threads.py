"""Threads that read the images of a batch."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Threads:
    """Of each process its own: one that is forked inherits what stands here, but no threads."""

    def __init__(self) -> None:
        self.pools: dict[tuple[int, int], ThreadPoolExecutor] = {}

    def map(self, function: Callable[[Item], Made], items: Sequence[Item], count: int) -> list[Made]:
        """Of each item in order; threads take the next one as they are free."""
        if count == 1 or len(items) <= 1:
            return list(map(function, items))
        found: list[Any] = [None] * len(items)
        turns = iter(enumerate(items))

        def work() -> None:
            for k, item in turns:
                found[k] = function(item)

        for done in [self._pool(count).submit(work) for _ in range(count)]:
            done.result()
        return found

    def _pool(self, count: int) -> ThreadPoolExecutor:
        key = os.getpid(), count
        if key not in self.pools:
            self.pools[key] = ThreadPoolExecutor(count)
        return self.pools[key]

    def __getstate__(self) -> dict[str, Any]:
        """Threads stay where they are."""
        return {"pools": {}}
