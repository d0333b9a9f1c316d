"""One scrape endpoint for all processes that serve one address, each with a judge of its own.

Each is a member: it answers for itself at a UNIX socket in a private directory, and leaves there what it has counted.
One of them holds the TCP port and merges what all have to say; when it ends, another takes the port.

`serving` is for the rest of poolscope, and knows of forks; a `member` comes, stays and goes. It has its `answering`
socket, a part in the `port`, and `counts`, which asks the others (`asking`) and merges (`merging`). `places` finds the
directory, `folder` is what is done in it, `contents` what is written there.
"""
