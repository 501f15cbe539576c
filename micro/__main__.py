"""``python -m micro``, as torchrun starts it."""

from micro.cli import main

main()
