"""Is a history of a register linearizable? Wing and Gong's search with memory."""

from dataclasses import dataclass
from typing import Final

INFINITY: Final = float("inf")


@dataclass
class Op:
    """One operation of one client on one key; ``done`` is infinity while there was no answer."""

    key: str
    kind: str
    value: int
    begun: float
    done: float = INFINITY
    result: int | None = None


def is_linearizable(history: list[Op]) -> bool:
    """Whether some order of the operations, each within its time, explains all answers.

    An unanswered write may happen at any later time or never; an unanswered read says nothing.
    """
    ops = [op for op in history if op.done < INFINITY or op.kind != "read"]
    ops.sort(key=lambda op: op.begun)
    seen: set[tuple[int, frozenset[int], int | None]] = set()
    stack: list[tuple[int, frozenset[int], int | None]] = [(0, frozenset(), None)]
    while stack:
        first, beyond, value = stack.pop()
        while first in beyond:
            beyond, first = beyond - {first}, first + 1
        if first >= len(ops):
            return True
        if (first, beyond, value) in seen:
            continue
        seen.add((first, beyond, value))
        candidates, limit = _candidates(ops, first, beyond)
        if limit == INFINITY:
            return True
        for i in candidates:
            allowed, after = _effect(ops[i], value)
            if allowed:
                stack.append((first, beyond | {i}, after))
    return False


def _candidates(ops: list[Op], first: int, beyond: frozenset[int]) -> tuple[list[int], float]:
    """Return the operations that may come next, and when the first of them ended."""
    limit, found = INFINITY, []
    for i in range(first, len(ops)):
        if ops[i].begun > limit:
            break
        if i not in beyond:
            found.append(i)
            limit = min(limit, ops[i].done)
    return [i for i in found if ops[i].begun <= limit], limit


def _effect(op: Op, value: int | None) -> tuple[bool, int | None]:
    if op.kind == "read":
        return op.result == value, value
    if op.kind == "write":
        return True, op.value
    after = (value or 0) + op.value
    return op.done == INFINITY or op.result == after, after
