"""Noise laws, one a file."""
