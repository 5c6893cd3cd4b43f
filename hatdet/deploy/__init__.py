"""Putting networks to work: files for other runtimes, and how fast everything runs."""
