"""The parent process of `poolscope run`, which carries out the `plan` of the command line.

Its two halves do not depend on each other. The main thread supervises (`supervisor`): it starts the program
(`programs`), forwards signals and waits. Everything else watches (`watch`): it takes in what the processes send
(`collector`), looks for processes that are not watched (`children`), and prints what it finds (`printer`).
"""
