"""Flags by theme: a module for each of a program's questions, such as which images.

Importing a theme defines nothing; a program calls its `define`, and alone reads the values.
"""
