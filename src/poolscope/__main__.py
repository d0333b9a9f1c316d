"""`python -m poolscope` is the command `poolscope`."""

from poolscope.isolation import isolate

if __name__ == "__main__":
    isolate()
    from poolscope.commands import main

    main()
