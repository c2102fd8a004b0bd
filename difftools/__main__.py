"""``python -m difftools`` is the command ``difftools``."""

from .cli import main

if __name__ == "__main__":
    main()
