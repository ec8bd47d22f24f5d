"""Which alerts come before a run is lost, how early, and how often they are wrong."""
