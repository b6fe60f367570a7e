"""`genealog demo`: the whole story on this machine, with a real language model and no network."""
