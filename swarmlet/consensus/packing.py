"""The one place that calls msgpack's packer, which is not typed."""

import msgpack


def pack(value: object) -> bytes:
    """Encode plain values (numbers, text, bytes, lists, maps)."""
    data = msgpack.packb(value)
    if not isinstance(data, bytes):
        raise TypeError("msgpack encodes to bytes")
    return data
