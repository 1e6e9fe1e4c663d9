"""All that passes on a LAN, as a thread sees it by a raw socket."""

import contextlib
import socket
import threading

from tests.netns.rig import Namespace

ETH_P_ALL = 3
_IPV4 = b"\x08\x00"


class Sniffer:
    """Frames between these hosts that passed any port of a namespace."""

    def __init__(self, place: Namespace, between: set[str]) -> None:
        self._between = {socket.inet_aton(address) for address in between}
        self._socket = place.inside(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self._socket.settimeout(0.1)
        self._open = True
        self.frames: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while self._open:
            with contextlib.suppress(TimeoutError, OSError):
                frame = self._socket.recv(65536)
                if frame[12:14] == _IPV4 and {frame[26:30], frame[30:34]} <= self._between:
                    self.frames.append(frame)

    def saw(self, text: bytes) -> bool:
        return any(text in frame for frame in self.frames)

    def to_port(self, port: int) -> int:
        """How many datagrams went there."""
        return sum(
            1 for f in self.frames if f[23] == socket.IPPROTO_UDP and f[36:38] == port.to_bytes(2)
        )

    def close(self) -> None:
        self._open = False
        self._thread.join()
        self._socket.close()
