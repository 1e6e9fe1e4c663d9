"""``python -m swarmlet`` is the command line."""

from swarmlet.cli.main import main

if __name__ == "__main__":
    main()
