"""Front door of Raft consensus: what the daemon builds.

The core is :mod:`swarmlet.consensus.syncobj_core` (members, elections and
replication are its lower layers), the library's seam
:mod:`swarmlet.consensus.syncobj_seam`, the trio side :mod:`swarmlet.consensus.driver`.
"""

from swarmlet.consensus.driver import Statistics, SyncObjConsensus
from swarmlet.consensus.settings import LAN, WAN, RaftSettings

__all__ = ["LAN", "WAN", "RaftSettings", "Statistics", "SyncObjConsensus"]
