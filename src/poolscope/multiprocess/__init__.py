"""One scrape endpoint for all processes that serve one address, each with an engine of its own.

Each is a peer: it answers for itself at a UNIX socket in a private directory, and leaves its counts there. One of them
leads: it has the TCP port and merges the answers of all; when it ends, another takes the port.

`serving` is for the rest of poolscope, and handles forks; a `peer` comes, stays and goes. It has a socket
(`peer_server`), may be the `leader`, and has `totals`: these ask the others (`peer_client`) and merge their answers.
`runtime_dir` finds the directory, `spool_dir` reads and writes its files, `wire` is their content.
"""
