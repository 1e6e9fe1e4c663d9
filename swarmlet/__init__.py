"""swarmlet: a lightweight cluster manager for Docker Engines."""

from typing import Final

__version__: Final = "0.1.0"
