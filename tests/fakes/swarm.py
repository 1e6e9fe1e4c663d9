"""Objects of a swarm as the API shows them."""

import datetime as dt
from typing import Any

Json = Any


def ago(seconds: float) -> str:
    """A timestamp as the API writes it."""
    then = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
    return then.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def node(hostname: str, *, leader: bool = False, state: str = "ready", **spec: Json) -> Json:
    """A node whose identifier is made of its name."""
    manager = hostname.startswith("mgr")
    found: Json = {
        "ID": f"id-{hostname}".ljust(25, "0"),
        "Version": {"Index": 7},
        "Spec": {
            "Labels": {},
            "Role": "manager" if manager else "worker",
            "Availability": "active",
            **spec,
        },
        "Description": {"Hostname": hostname, "Engine": {"EngineVersion": "29.0.1"}},
        "Status": {"State": state, "Addr": "10.0.0.11"},
    }
    if manager:
        found["ManagerStatus"] = {
            "Leader": leader,
            "Reachability": "reachable",
            "Addr": "10.0.0.11:2377",
        }
    return found


def info(hostname: str, *, manager: bool = True, managers: int = 1) -> Json:
    """What ``/info`` says on a node."""
    return {
        "Name": hostname,
        "Swarm": {
            "NodeID": node(hostname)["ID"],
            "NodeAddr": "10.0.0.11",
            "LocalNodeState": "active",
            "ControlAvailable": manager,
            "Managers": managers,
            "Nodes": 2,
            "Cluster": {"ID": "cluster0"},
        },
        "ServerVersion": "29.0.1",
    }


def network(name: str) -> Json:
    """An overlay network."""
    return {
        "Id": f"net-{name}".ljust(25, "0"),
        "Name": name,
        "Driver": "overlay",
        "Scope": "swarm",
        "Labels": {"com.docker.stack.namespace": name.partition("_")[0]},
    }


def service(
    name: str, *, replicas: int | None = 1, running: int | None = None, image: str = "nginx:1.29",
    **spec: Json,
) -> Json:  # fmt: skip
    """A service; ``replicas`` None makes it global."""
    wanted = 1 if replicas is None else replicas
    mode: Json = {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}}
    return {
        "ID": f"svc-{name}".ljust(25, "0"),
        "Version": {"Index": 11},
        "CreatedAt": ago(60),
        "Spec": {
            "Name": name,
            "Labels": {},
            "TaskTemplate": {"ContainerSpec": {"Image": image}},
            "Mode": mode,
            **spec,
        },
        "ServiceStatus": {
            "RunningTasks": wanted if running is None else running,
            "DesiredTasks": wanted,
        },
    }


def task(
    owner: Json, slot: int, state: str = "running", *, host: str = "wrk-1", err: str = "",
    age: float = 3, desired: str = "running", number: int = 0,
) -> Json:  # fmt: skip
    """A task of a service. ``number`` counts the attempts in a slot."""
    return {
        "ID": f"tsk{number}-{slot}-{owner['Spec']['Name']}".ljust(25, "0"),
        "CreatedAt": ago(age + 1),
        "Spec": owner["Spec"]["TaskTemplate"],
        "ServiceID": owner["ID"],
        "Slot": slot,
        "NodeID": node(host)["ID"] if host else "",
        "Status": {"Timestamp": ago(age), "State": state, "Message": state, "Err": err},
        "DesiredState": desired,
    }
