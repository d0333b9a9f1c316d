"""How a process comes to be watched: by a parent, by `install`, or one pool by `attach`; and its end."""
