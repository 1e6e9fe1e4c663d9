"""``/secrets`` and ``/configs``: the same routes, but for what is shown and how much fits.

Data comes in as base64 and is held as bytes. That of a secret never goes out again; no refusal
quotes what it could not read.
"""

import base64
import binascii
import secrets
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from swarmlet.api import bodies, filters, shapes, wording
from swarmlet.api.calls import Answer, Call
from swarmlet.api.freshness import fresh_view
from swarmlet.errors import InvalidInput, OutOfSequence
from swarmlet.model.objects import Config, Secret
from swarmlet.model.problems import Problem
from swarmlet.model.specs import ConfigSpec, SecretSpec
from swarmlet.model.validate_files import config_problems, secret_problems
from swarmlet.state.commands import AnyCommand, DeleteConfig, DeleteSecret, PutConfig, PutSecret
from swarmlet.state.lookup import find_config, find_secret
from swarmlet.state.store import View
from swarmlet.state.tables import Lookup

_F = TypeVar("_F", Secret, Config)

#: The url-safe alphabet of base64 in terms of the usual one.
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


class _Data(msgspec.Struct, frozen=True, rename="pascal"):
    """The part of a request that is not of the spec."""

    data: str = ""


class Files(Generic[_F]):
    """The routes of one kind."""

    def __init__(
        self,
        *,
        find: Callable[[View, str], _F],
        table: Callable[[View], Lookup[_F]],
        read: Callable[[bytes, str], _F],
        problems: Callable[[_F], list[Problem]],
        put: Callable[[_F, int], AnyCommand],
        delete: Callable[[str], AnyCommand],
    ) -> None:
        self._find: Callable[[View, str], _F] = find
        self._table: Callable[[View], Lookup[_F]] = table
        self._read: Callable[[bytes, str], _F] = read
        self._problems: Callable[[_F], list[Problem]] = problems
        self._put: Callable[[_F, int], AnyCommand] = put
        self._delete = delete

    async def listing(self, call: Call) -> Answer:
        """List them."""
        wanted = filters.parse(call.query.get("filters", ""), filters.OBJECT_FILTERS)
        every = self._table(await fresh_view(call)).all()
        found = (one for one in every if filters.file(one, wanted))
        return Answer([shapes.file(one) for one in sorted(found, key=lambda one: one.id)])

    async def create(self, call: Call) -> Answer:
        """Create one."""
        call.backend.view()  # a node that is no manager says so before anything else
        new = self._read(await call.raw_body(), call.backend.new_id())
        _refuse(self._problems(new))
        await call.backend.propose(self._put(new, 0))
        return Answer({"ID": new.id}, 201)

    async def inspect(self, call: Call) -> Answer:
        """Show one."""
        return Answer(shapes.file(self._find(await fresh_view(call), call.params["id"])))

    async def update(self, call: Call) -> Answer:
        """Change the labels of one: nothing else of it ever changes."""
        call.backend.view()  # a node that is no manager says so before anything else
        version = call.object_version()
        raw = await call.raw_body()
        old = self._find(await fresh_view(call), call.params["id"])
        new = self._read(raw, old.id)
        same = not new.data or secrets.compare_digest(new.data, old.data)
        if new.spec.name != old.spec.name or not same:
            raise InvalidInput(
                wording.ONLY_LABELS, advice="create one of another name and update the services"
            )
        if old.version != version:
            raise OutOfSequence(old.spec.name)
        changed = replace(old, spec=replace(old.spec, labels=new.spec.labels))
        _refuse(self._problems(changed))
        if new.spec.labels != old.spec.labels:
            await call.backend.propose(self._put(changed, version))
        return Answer()

    async def remove(self, call: Call) -> Answer:
        """Remove one."""
        found = self._find(await fresh_view(call), call.params["id"])
        await call.backend.propose(self._delete(found.id))
        return Answer(status=204)


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise InvalidInput(wording.INVALID_ARGUMENT + "; ".join(str(one) for one in problems))


def _data(raw: bytes) -> bytes:
    """The data of a request, in either alphabet of base64, with its padding or without."""
    text = bodies.decode(raw, _Data).data.encode().translate(_URL_SAFE, b"\r\n").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise InvalidInput("Data: base64 is needed (standard or url-safe)") from exc


def _secret(raw: bytes, ident: str) -> Secret:
    return Secret(id=ident, spec=bodies.decode(raw, SecretSpec), data=_data(raw))


def _config(raw: bytes, ident: str) -> Config:
    return Config(id=ident, spec=bodies.decode(raw, ConfigSpec), data=_data(raw))


SECRETS: Final = Files(
    find=find_secret,
    table=lambda view: view.secrets,
    read=_secret,
    problems=lambda one: secret_problems(one.spec, one.data),
    put=lambda one, expect: PutSecret(secret=one, expect=expect),
    delete=lambda ident: DeleteSecret(id=ident),
)

CONFIGS: Final = Files(
    find=find_config,
    table=lambda view: view.configs,
    read=_config,
    problems=lambda one: config_problems(one.spec, one.data),
    put=lambda one, expect: PutConfig(config=one, expect=expect),
    delete=lambda ident: DeleteConfig(id=ident),
)
