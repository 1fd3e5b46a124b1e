"""Packs images into the slots of a batch, so that none that has fallen costs anything."""
