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
    file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise BadValue(f"cannot read {file}", why=str(exc)) from exc
    if not isinstance(config, dict):
        raise BadValue(f"cannot read {file}", why="it is not a JSON object")
    server = registry_of(image)
    if server in (config.get("credHelpers") or {}) or config.get("credsStore"):
        raise BadValue(
            f"the login for {server} is kept by a credential helper",
            why="swarmlet reads logins from docker's config.json only",
            advice="log in with a DOCKER_CONFIG directory that has no credsStore",
        )
    try:
        return _header(_entry(config.get("auths") or {}, server), server)
    except (AttributeError, TypeError, ValueError) as exc:
        raise BadValue(
            f"cannot read the login for {server} in {file}",
            why=str(exc),
            advice=f"docker login {server}",
        ) from exc


def _entry(auths: Json, server: str) -> Json:
    """The entry of a registry; old ones are filed under a URL, of which the host counts."""
    if server in auths:
        return auths[server]
    return next((auths[key] for key in auths if _host(key) == _host(server)), {})


def _host(server: str) -> str:
    return server.rpartition("://")[2].partition("/")[0]


def _header(entry: Json, server: str) -> dict[str, str]:
    login: dict[str, str] = {"serveraddress": server}
    if entry.get("identitytoken"):
        login["identitytoken"] = str(entry["identitytoken"])
    elif entry.get("registrytoken"):
        login["registrytoken"] = str(entry["registrytoken"])
    elif entry.get("auth"):
        user, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        login |= {"username": user, "password": password.rstrip("\0")}
    elif entry.get("username"):
        login |= {"username": str(entry["username"]), "password": str(entry.get("password", ""))}
    else:
        return {}
    text = base64.urlsafe_b64encode(json.dumps(login).encode()).decode()
    return {"X-Registry-Auth": text}
