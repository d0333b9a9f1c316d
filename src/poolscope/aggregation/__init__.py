"""From messages to histories: what pools and loops did. Pure: times come in with the messages; no thread, no I/O."""
