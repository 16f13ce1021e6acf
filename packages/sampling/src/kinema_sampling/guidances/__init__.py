"""The guidances; each a plug-in of its own."""
