"""The parent process of `poolscope run`, which carries out the `plan` of the command line.

Two things that do not depend on each other. The main thread supervises (`supervisor`): it starts the program
(`programs`), forwards signals and waits. Everything else watches (`watch`): it takes in what the processes send
(`intake`), looks for those that are not watched (`children`), and says what it finds (`printer`).
"""
