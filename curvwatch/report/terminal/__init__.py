"""Tables and charts of runs for a terminal."""
