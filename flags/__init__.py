"""Flags by theme. Only mains read their values; importing a theme defines its flags."""
