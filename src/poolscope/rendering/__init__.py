"""What a session looks like to people: each output starts from a `model.Session`."""
