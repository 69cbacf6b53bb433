"""One end of a broadcast group: the learner's, rank 0. The narrow part of `broadcast.py` that touches a network of tensors.

Every method blocks and is called in a thread of its own, but for `close`, which another thread calls to end the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

Named = tuple[str, "torch.Tensor"]


class Transport(Protocol):
    """One group, from its first member to its end; a group that lost a member is closed, and another one opened."""

    def listen(self, world_size: int) -> dict[str, Any]:
        """Return what the others need to join a group of `world_size`, this end included: their init_info but the rank."""
        ...

    def connect(self) -> None:
        """Wait until all others have joined.

        Raises:
            RuntimeError: they have not in time, or the group was closed.
        """
        ...

    def send(self, tensors: Iterator[Named]) -> None:
        """Send all tensors to all others, which expect exactly these, in this order.

        Raises:
            RuntimeError: a member is lost, or the group was closed.
        """
        ...

    def close(self) -> None:
        """Leave the group; whoever waits in it, here or on a server, stops waiting as soon as the network can tell."""
        ...


MakeTransport = Callable[[], Transport]
