"""API versions: what is offered, what a client may ask for, what the engine is asked in."""

import re
from typing import Final

from swarmlet.api import wording
from swarmlet.engine.tunnel import parse_version
from swarmlet.errors import InvalidInput

Version = tuple[int, int]

#: The range of API versions that is implemented, whatever the engine speaks: clients of today
#: refuse servers below 1.40 or 1.44, Debian's engine speaks up to 1.41.
OLDEST: Final[Version] = (1, 41)
NEWEST: Final[Version] = (1, 47)

_PREFIX: Final = re.compile(rb"/v([0-9]{1,3}\.[0-9]{1,5})(?=/)")


def dotted(version: Version) -> str:
    """(1, 41) as ``1.41``."""
    return "{}.{}".format(*version)


def split_version(path: bytes) -> tuple[Version | None, bytes]:
    """Take ``/v1.41`` off a path."""
    match = _PREFIX.match(path)
    if match is None:
        return None, path
    return parse_version(match[1].decode()), path[match.end() :]


def check_version(asked: Version | None) -> Version:
    """The version to answer in: the newest unless the client names one. Raises InvalidInput."""
    if asked is None:
        return NEWEST
    if asked > NEWEST:
        raise InvalidInput(wording.TOO_NEW.format(asked=dotted(asked), newest=dotted(NEWEST)))
    if asked < OLDEST:
        raise InvalidInput(wording.TOO_OLD.format(asked=dotted(asked), oldest=dotted(OLDEST)))
    return asked
