"""The user's login at a registry, from Docker's own configuration file."""

import base64
import json
import os
from pathlib import Path
from typing import Any, Final

from swarmlet.cli.problems import BadValue

Json = Any
HUB: Final = "https://index.docker.io/v1/"


def registry_of(image: str) -> str:
    """The key under which Docker keeps the login for an image."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named and first != "docker.io" else HUB


def auth_header(image: str) -> dict[str, str]:
    """``X-Registry-Auth`` for an image; empty when the user never logged in there."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise BadValue(f"cannot read {folder / 'config.json'}", why=str(exc)) from exc
    server = registry_of(image)
    if server in (config.get("credHelpers") or {}) or config.get("credsStore"):
        raise BadValue(
            f"the login for {server} is kept by a credential helper",
            why="swarmlet reads logins from docker's config.json only",
            advice="log in with a DOCKER_CONFIG directory that has no credsStore",
        )
    entry = (config.get("auths") or {}).get(server) or {}
    return _header(entry, server)


def _header(entry: Json, server: str) -> dict[str, str]:
    login: dict[str, str] = {"serveraddress": server}
    if entry.get("identitytoken"):
        login["identitytoken"] = str(entry["identitytoken"])
    elif entry.get("auth"):
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        login |= {"username": user, "password": password}
    else:
        return {}
    text = base64.urlsafe_b64encode(json.dumps(login).encode()).decode()
    return {"X-Registry-Auth": text}
