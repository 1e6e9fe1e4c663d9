"""Digests: what a tag stands for is asked once, so that every node runs the same image.

The client asks, as Docker's does: the engine behind the daemon's socket passes the question on to
the registry, with the login of the user who asks. What nobody answers is left as it was written.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from swarmlet.cli.app import App
from swarmlet.client import Client, NoAnswer, RemoteError

Json = Any
Headers = Mapping[str, str]

#: Seconds for all registries together: they are asked at the same time. An engine itself waits
#: much longer for one that drops packets, and nobody wants to wait for a digest.
PATIENCE: Final = 5.0
#: Questions at a time; a stack has fewer images.
AT_ONCE: Final = 32

_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")
_HUB: Final = ("docker.io/", "index.docker.io/")


class Pinned(NamedTuple):
    """An image with its digest, and the platforms that it is made for."""

    image: str
    platforms: list[Json]


class Unknown(NamedTuple):
    """No digest, and the reason why."""

    why: str


Answer = Pinned | Unknown


def is_pinned(image: str) -> bool:
    """Whether an image is written with its digest."""
    return "@" in image


def tagged(image: str) -> str:
    """The name as Docker writes it: without the default registry, and with a tag."""
    for hub in _HUB:
        if image.startswith(hub):
            rest = image.removeprefix(hub).removeprefix("library/")
            image = rest if "/" not in rest else image.removeprefix(hub)
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def same_name(image: str, other: str) -> bool:
    """Whether two images have the same name and tag, whatever their digests."""
    return tagged(image.partition("@")[0]) == tagged(other.partition("@")[0])


def ask(app: App, wanted: Mapping[str, Headers]) -> dict[str, Answer]:
    """Ask the registries for images; ``wanted`` has the login for each. Pinned ones are skipped."""
    open_ = {image: headers for image, headers in wanted.items() if image and not is_pinned(image)}
    client = app.client_with(timeout=PATIENCE)
    if len(open_) < 2:
        return {image: _one(client, image, headers) for image, headers in open_.items()}
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(len(open_), AT_ONCE)) as pool:
        answers = pool.map(lambda item: _one(client, *item), open_.items())
        return dict(zip(open_, answers, strict=True))


def _one(client: Client, image: str, headers: Headers) -> Answer:
    name = tagged(image)
    path = f"/distribution/{quote(name, safe='/:')}/json"
    try:
        found = client.call("GET", path, headers=headers)
    except RemoteError as error:
        return Unknown(error.message)
    except NoAnswer as error:
        return Unknown(error.why)
    try:
        digest = str(found["Descriptor"]["digest"])
        platforms = [_platform(one) for one in found.get("Platforms") or ()]
    except (AttributeError, KeyError, TypeError):
        digest, platforms = "", []
    if not _DIGEST.fullmatch(digest):
        return Unknown("the engine's answer has no digest")
    return Pinned(f"{name}@{digest}", platforms)


def _platform(found: Json) -> Json:
    return {"Architecture": found.get("architecture", ""), "OS": found.get("os", "")}


def put(spec: Json, answer: Answer | None) -> None:
    """Write an answer about a spec's image into the spec.

    The platforms of another image go in any case: they would keep the new one from its nodes.
    """
    template = spec["TaskTemplate"]
    (template.get("Placement") or {}).pop("Platforms", None)
    if isinstance(answer, Pinned):
        template["ContainerSpec"]["Image"] = answer.image
        if answer.platforms:
            template["Placement"] = (template.get("Placement") or {}) | {
                "Platforms": answer.platforms
            }


def unknown(image: str, answer: Unknown, *, kept: bool = False) -> str:
    """What to warn of when a digest is not known; ``kept`` when an older one goes on to count."""
    name = tagged(image)
    if kept:
        said = f"image {name} could not be accessed on a registry: its digest stays the one it had"
        return f"{said} ({answer.why})"
    return (
        f"image {name} could not be accessed on a registry to record its digest."
        f" Each node will access {name} independently, possibly leading to different nodes"
        f" running different versions of the image. ({answer.why})"
    )
