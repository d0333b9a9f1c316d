"""From the probe to the engine: messages, the channel to a parent, and its bounds."""
