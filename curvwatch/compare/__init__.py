"""Read runs back and compare them: in the terminal, and as one HTML file."""
