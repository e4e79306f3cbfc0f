"""Runs that are trained elsewhere and come back as a bundle."""
