"""``python -m micro``, as torchrun starts it."""

from micro.cli.main import main

if __name__ == "__main__":
    main()
