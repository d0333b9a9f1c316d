"""`python -m poolscope` is the command `poolscope`."""

from poolscope.cli import main

if __name__ == "__main__":
    main()
