"""Read runs back and compare them in the terminal."""
