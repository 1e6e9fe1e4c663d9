"""What validators say: problems with the paths of their fields; and what all of them ask."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from swarmlet.errors import InvalidInput
from swarmlet.model.specs import Labels

INT64_MAX: Final = 2**63 - 1

NOT_YET: Final = "not supported yet by swarmlet"


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one field. ``path`` is spelled as in the API."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def refuse(problems: Sequence[Problem]) -> None:
    """Raise InvalidInput with all problems in one message, if there are any."""
    if problems:
        raise InvalidInput("; ".join(str(problem) for problem in problems))


Problems = Iterator[Problem]


def only_if(wrong: bool, path: str, message: str) -> Problems:  # noqa: FBT001 - reads as a sentence
    """One problem, if it is one."""
    if wrong:
        yield Problem(path, message)


def label_problems(path: str, labels: Labels) -> Problems:
    """Problems of a set of labels."""
    yield from only_if(any(not key.strip() for key in labels), path, "a label needs a name")


def api_name(struct: msgspec.Struct, field: str) -> str:
    """Docker's spelling of a field of a struct."""
    names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    return dict(names)[field]


def whole(path: str, struct: msgspec.Struct | None, *fields: str) -> Problems:
    """Numbers that must be whole, not negative and fit 63 bits."""
    for field in fields:
        value = getattr(struct, field, None)
        if struct is not None and value is not None and not 0 <= value <= INT64_MAX:
            yield Problem(f"{path}.{api_name(struct, field)}", f"cannot be {value}")
