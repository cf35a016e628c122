"""``python -m recengine``: the command line, where its script is not on the path."""

from recengine.cli import main

if __name__ == "__main__":
    main()
