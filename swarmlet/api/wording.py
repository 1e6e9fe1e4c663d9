"""Sentences of the Engine API that clients and scripts match word for word."""

from typing import Final

NOT_IN_SWARM: Final = "This node is not part of a swarm"

NOT_A_MANAGER: Final = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
    "this node to swarm and try again."
)

WORKER_ONLY: Final = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)

ALREADY_IN_SWARM: Final = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join '
    "another one."
)

LOCKED: Final = (
    "Swarm is encrypted and needs to be unlocked before it can be used. "
    'Please use "docker swarm unlock" to unlock it.'
)

LEAVING_MANAGER: Final = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
)

LEAVING_LAST_MANAGER: Final = (
    LEAVING_MANAGER + "Removing the last manager erases all current state of the swarm. "
    "Use `--force` to ignore this message. "
)

LAST_MANAGER: Final = (
    "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"
)

NODE_IS_MANAGER: Final = (
    "rpc error: code = FailedPrecondition desc = node {id} is a cluster manager and is a member of "
    "the raft cluster. It must be demoted to worker before removal"
)

NODE_IS_UP: Final = (
    "rpc error: code = FailedPrecondition desc = node {id} is not down and can't be removed"
)

TOO_NEW: Final = "client version {asked} is too new. Maximum supported API version is {newest}"

TOO_OLD: Final = (
    "client version {asked} is too old. Minimum supported API version is {oldest}, "
    "please upgrade your client to a newer version"
)

OVERLAY_ON_WORKER: Final = (
    "cannot create a multi-host network from a worker node. "
    "Please create the network from a manager node"
)

NOT_ATTACHABLE: Final = (
    "Could not attach to network {name}: rpc error: code = PermissionDenied desc = "
    "network {name} not manually attachable"
)

ALREADY_IN_NETWORK: Final = "endpoint with name {container} already exists in network {network}"

PORT_TAKEN: Final = (
    "driver failed programming external connectivity on endpoint {container}: "
    "Bind for {at} failed: port is already allocated"
)

NOT_FOR_SERVICES: Final = (
    "The network {name} cannot be used with services. Only networks scoped to the swarm can be "
    "used, such as those created with the overlay driver."
)

INVALID_ARGUMENT: Final = "rpc error: code = InvalidArgument desc = "

ONLY_LABELS: Final = INVALID_ARGUMENT + "only updates to Labels are allowed"

PAGE_NOT_FOUND: Final = "page not found"
