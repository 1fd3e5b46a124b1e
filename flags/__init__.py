"""Flags by theme. Importing a theme defines nothing; a program calls its `define`."""
