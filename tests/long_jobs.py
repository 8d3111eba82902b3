"""Jobs for the worker: small, and each of another temper."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Double:
    number: int

    def answer(self) -> int:
        return 2 * self.number


@dataclass(frozen=True)
class WhoAmI:
    def answer(self) -> tuple[int, int]:
        return os.getpid(), os.nice(0)


@dataclass(frozen=True)
class Printing:
    def answer(self) -> str:
        print("a library that prints would spoil an unguarded pipe")
        return "said"


@dataclass(frozen=True)
class Buggy:
    def answer(self) -> int:
        raise ZeroDivisionError("a bug")


@dataclass(frozen=True)
class Killed:
    def answer(self) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


@dataclass(frozen=True)
class Endless:
    def answer(self) -> int:
        while True:
            time.sleep(3600)


@dataclass(frozen=True)
class LooksAt:
    """Says how many of something that the worker keeps it was handed."""

    rules: object

    def answer(self) -> int:
        return id(self.rules)
