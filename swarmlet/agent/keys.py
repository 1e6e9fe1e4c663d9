"""This node's keys for encrypted networks: made here, kept here, replaced in time.

The private ones are in one file that only its owner may read; only public ones are told to others.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog
import trio

from swarmlet import durable
from swarmlet.agent import key_rotation
from swarmlet.agent.key_rotation import Pace, Ring, Step
from swarmlet.clock import Seconds, WallClock
from swarmlet.errors import DiskFailed, SwarmletError
from swarmlet.model.tunnels import TunnelKeys
from swarmlet.net.facts import OwnTunnel
from swarmlet.security import tunnel_keys

log = structlog.get_logger(__name__)

FILE: Final = "tunnel-keys.json"

#: Between two looks: at the tunnels while a key is replaced, else at the clock, or whether what was
#: missing to encrypt was installed.
LOOK_SOON: Final = Seconds(5.0)
LOOK_LATER: Final = Seconds(60.0)


class Tunnels(Protocol):
    """What encrypts by the keys (:class:`swarmlet.net.forwarder.Forwarder`)."""

    async def cannot_encrypt(self) -> str:
        """Why this host can have no tunnels, or nothing."""
        ...

    def set_tunnel(self, own: OwnTunnel | None, private: Mapping[str, str], why: str = "") -> None:
        """Encrypt with these keys from now on."""
        ...

    async def handshakes(self) -> tuple[dict[int, int], dict[int, int]]:
        """When tunnels of each lane last agreed on session keys, by node."""
        ...


class KeyKeeper:
    """Holds the keys; ``changed`` is called when what others must know of them has."""

    def __init__(
        self,
        directory: Path,
        tunnels: Tunnels,
        changed: Callable[[], None],
        *,
        clock: WallClock,
        pace: Pace | None = None,
    ) -> None:
        self._file = directory / FILE
        self._tunnels = tunnels
        self._changed = changed
        self._clock = clock
        self._pace = pace or Pace()
        self._ring: Ring | None = None
        self._unable = ""
        self._over = False

    @property
    def public(self) -> TunnelKeys | None:
        """What others must know; None while this node cannot encrypt."""
        ring = self._ring
        if ring is None:
            return None
        first, second = (tunnel_keys.public_of(key) if key else "" for key in ring.lanes)
        return TunnelKeys(lanes=(first, second), lane=ring.lane)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand out keys and replace them, until cancelled or the node leaves."""
        await self._try_to_begin()
        task_status.started()
        while True:
            busy = self._ring is not None and self._ring.lanes[self._ring.idle]
            await trio.sleep(LOOK_SOON if busy else LOOK_LATER)
            if self._over:
                return
            if self._ring is None:
                await self._try_to_begin()
                continue
            try:
                await self.look()
            except SwarmletError as exc:
                log.warning("keys-not-replaced", reason=exc.message)

    async def look(self) -> None:
        """Take the next step if it is time. Raises DiskFailed, or TunnelFailed."""
        ring, now = self._ring, self._clock()
        assert ring is not None
        handshakes = await self._tunnels.handshakes()
        match key_rotation.decide(ring, handshakes, now, self._pace):
            case Step.WAIT:
                return
            case Step.MAKE:
                ring = key_rotation.made(ring, tunnel_keys.new_key(), now)
                log.info("tunnel-key-made", lane=ring.idle)
            case Step.SWITCH:
                ring = key_rotation.switched(ring, now)
                log.info("tunnel-key-used", lane=ring.lane)
            case Step.FORGET:
                ring = key_rotation.forgot(ring)
                log.info("tunnel-key-forgotten", lane=ring.idle)
        await self._use(ring)

    def forget(self) -> None:
        """Throw the keys away: the node leaves."""
        self._over, self._ring = True, None
        self._file.unlink(missing_ok=True)

    async def _try_to_begin(self) -> None:
        unable = await self._tunnels.cannot_encrypt()
        if not unable:
            try:
                await self._use(self._load() or self._fresh())
            except DiskFailed as exc:
                unable = exc.message
        if unable and unable != self._unable:
            log.info("no-encrypted-networks", reason=unable)
            self._tunnels.set_tunnel(None, {}, unable)
        self._unable = unable

    def _fresh(self) -> Ring:
        return Ring(lanes=(tunnel_keys.new_key(), ""), since=self._clock())

    def _load(self) -> Ring | None:
        """What was kept; a file that cannot be read is as good as none: keys are soon replaced."""
        try:
            ring = msgspec.json.decode(self._file.read_bytes(), type=Ring)
            if ring.lane in {0, 1} and ring.lanes[ring.lane]:
                for key in filter(None, ring.lanes):
                    tunnel_keys.public_of(key)
                return ring
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError) as exc:
            log.warning("tunnel-keys-damaged", reason=str(exc))
        return None

    async def _use(self, ring: Ring) -> None:
        """Keep the keys, then use them, then tell of them; not once they are forgotten.

        Raises DiskFailed.
        """
        await trio.to_thread.run_sync(durable.keep_file, self._file, msgspec.json.encode(ring))
        if self._over:  # forgotten meanwhile
            self._file.unlink(missing_ok=True)
            return
        self._ring = ring
        public = self.public
        assert public is not None
        private = dict(zip(public.lanes, ring.lanes, strict=True))
        self._tunnels.set_tunnel(OwnTunnel(public, warming=ring.coming), private)
        self._changed()
