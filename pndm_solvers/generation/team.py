"""The processes of a job, and what they share: which shards are missing, and who takes the next one.

They meet at torch's key-value store alone, as torchrun sets it up, or SLURM by the same variables. There is no process
group and no collective: a process that is slow or lost keeps no other from working.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

__all__ = ["RankZeroError", "Team"]

POLL = 0.1  # seconds; a process that sleeps in Python is still open to signals
MEET = timedelta(minutes=30)
LEAVE = 10.0  # seconds for which a process that holds the store waits for the others to leave
# A store outlives the processes that torchrun starts again. Their errors are told apart by this.
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"


class RankZeroError(Exception):
    """Rank 0 has ended with an error, which is the argument."""


class _Alone:
    """The store of a single process."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def check(self, keys: Sequence[str]) -> bool:
        return all(key in self.values for key in keys)

    def add(self, key: str, amount: int) -> int:
        self.values[key] = self.values.get(key, 0) + amount
        return self.values[key]


class Team:
    """The processes of a job, as one of them sees them.

    Rank 0 publishes the shards that are missing, which begins a round. Everyone takes them one by one from a counter.
    A rank 0 that was started again begins another round. Then the others change over, before they take another shard.

    Attributes
    ----------
    rank, size:
        The number of this process, from 0, and how many there are.
    """

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.store: Any = _Alone()
        self.round = 0
        self.missing: list[int] = []
        if self.size > 1:
            from torch.distributed.rendezvous import rendezvous

            try:
                self.store = next(rendezvous("env://", timeout=MEET))[0]
            except RuntimeError as error:  # torch's own
                place = f"{os.environ.get('MASTER_ADDR')}, port {os.environ.get('MASTER_PORT')}"
                raise ConnectionError(
                    f"rank {self.rank} cannot reach the store of the first node at {place} ({error}); check that "
                    f"address, and that no firewall stands between"
                ) from error

    def publish(self, job: str, missing: Sequence[int]) -> None:
        """Begin a round, on rank 0 alone, of the job with these missing shards."""
        number, host = self.store.add("generate/rounds", 1), platform.node()
        self.store.set(f"generate/{number}", json.dumps({"job": job, "missing": list(missing), "host": host}))
        self.store.set("generate/current", str(number))

    def follow(self) -> tuple[str, str]:
        """Wait for rank 0 to begin a round; its job's digest and its host. RankZeroError where it fails instead."""
        while not self.began():
            if error := self.failure():
                raise RankZeroError(error)
            time.sleep(POLL)
        self.round = int(self._call("get", "generate/current"))
        told = json.loads(self._call("get", f"generate/{self.round}"))
        self.missing = told["missing"]
        return told["job"], told["host"]

    def began(self) -> bool:
        """Whether rank 0 has begun a round."""
        return self._call("check", ["generate/current"])

    def take(self) -> int | None:
        """The next missing shard, for this process alone; None when all are taken."""
        if int(self._call("get", "generate/current")) != self.round:
            self.follow()
        index = self._call("add", f"generate/{self.round}/taken", 1) - 1
        return self.missing[index] if index < len(self.missing) else None

    def count(self, images: int) -> int:
        """Add to the number of images that the round has made; returns the number."""
        return self._call("add", f"generate/{self.round}/images", images)

    def fail(self, message: str) -> None:
        """Tell the others, on rank 0, that it ends with an error."""
        self._call("set", f"generate/error/{os.environ.get(ATTEMPT, 0)}", message)

    def failure(self) -> str:
        """The error with which rank 0 has ended, if any."""
        key = f"generate/error/{os.environ.get(ATTEMPT, 0)}"
        return self._call("get", key).decode() if self._call("check", [key]) else ""

    def leave(self) -> None:
        """The last call of a process that was not stopped. The process that holds the store leaves after the others."""
        if self.size == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        gone, end = self._call("add", "generate/gone", 1), time.monotonic() + LEAVE
        while self.rank == 0 and gone < self.size and time.monotonic() < end:
            time.sleep(POLL)
            gone = self._call("add", "generate/gone", 0)

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self.store, name)(*arguments)
        except RuntimeError as error:  # torch's own, where the process that holds the store has ended
            raise ConnectionError(
                "the store that the processes share is gone, so rank 0 or its torchrun has ended; its message says "
                "why, and the same command goes on from here"
            ) from error
