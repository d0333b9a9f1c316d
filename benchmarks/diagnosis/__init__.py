"""How often the diagnosis is right: labelled programs and simulated traces, and a board of the scores."""
