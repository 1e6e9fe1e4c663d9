"""swarmlet: a lightweight cluster manager for Docker Engines."""

# Nothing is imported here: this runs before __main__ can catch ^C.
__version__ = "0.1.0"
