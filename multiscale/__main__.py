"""``python -m multiscale``, for starters that take a module (MPI's, profilers)."""

from multiscale.cli.main import main

if __name__ == "__main__":
    main()
