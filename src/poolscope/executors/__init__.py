"""Drop-in executors: true subclasses of the standard ones, watched. One file for each kind of worker."""
