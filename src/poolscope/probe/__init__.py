"""What runs inside a watched process: standard library only, so that it works in any environment."""
