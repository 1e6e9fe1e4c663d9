"""Join tokens: ``SWMTKN-1-<50 base36 digits of the CA's SHA-256>-<25 of a secret>`` (swarmkit).

The digest pins the cluster's CA, so that a machine cannot be talked into a foreign cluster; the
secret says which role the cluster grants.
"""

import hmac
import re
from typing import Final

import msgspec

from swarmlet.clock import Rng
from swarmlet.errors import InvalidInput, NotAllowed
from swarmlet.model.ids import base36, new_id
from swarmlet.model.objects import JoinTokens
from swarmlet.model.specs import Role

_FORM: Final = re.compile(r"SWMTKN-1-([0-9a-z]{50})-([0-9a-z]{25})")

#: Base36 digits of a SHA-256: 36**50 exceeds 2**256.
_DIGEST_LENGTH: Final = 50


class TokenMalformed(InvalidInput):
    """The text is not a join token at all."""

    code = "token-malformed"


class TokenForeign(NotAllowed):
    """The token belongs to another cluster: its digest is not that of this CA."""

    code, http_status = "token-foreign", 400


class TokenWrong(NotAllowed):
    """The secret is not, or no longer, one of this cluster's."""

    code, http_status = "token-wrong", 400


class Token(msgspec.Struct, frozen=True):
    """A parsed join token."""

    digest: str
    secret: str

    def __str__(self) -> str:
        return f"SWMTKN-1-{self.digest}-{self.secret}"


def digest_of(sha256: bytes) -> str:
    """The digest part of a token for a CA whose certificate (DER) hashes to ``sha256``."""
    return base36(int.from_bytes(sha256, "big"), _DIGEST_LENGTH)


def parse(text: str) -> Token:
    """Parse a token. Raises TokenMalformed."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise TokenMalformed(
            "invalid join token: it has not the form SWMTKN-1-<50 characters>-<25 characters>",
            advice="copy it whole from: swarmlet join-token worker (on a manager)",
        )
    return Token(match[1], match[2])


def new_token(digest: str, rng: Rng) -> str:
    """A token with a fresh secret."""
    return str(Token(digest, new_id(rng)))


def role_of(text: str, tokens: JoinTokens) -> Role:
    """The role that a token grants. Raises TokenMalformed, TokenForeign or TokenWrong.

    Both comparisons are made in constant time, and both are always made.
    """
    given, worker = parse(text), parse(tokens.worker)
    if not hmac.compare_digest(given.digest, worker.digest):
        raise TokenForeign(
            "this join token belongs to another cluster",
            advice="take the token from a manager of the cluster that you want to join",
        )
    is_worker = hmac.compare_digest(given.secret, worker.secret)
    is_manager = hmac.compare_digest(given.secret, parse(tokens.manager).secret)
    if is_manager:
        return Role.MANAGER
    if is_worker:
        return Role.WORKER
    raise TokenWrong(
        "the join token is wrong or was rotated",
        advice="get the present one on a manager: swarmlet join-token worker",
    )
