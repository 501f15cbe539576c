"""``python -m multiscale``, for starters that take a module (MPI's, profilers)."""

from multiscale.cli import main

if __name__ == "__main__":
    main()
