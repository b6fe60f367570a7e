"""Which model produced this output, where did that model come from, and can you prove it?"""

__version__ = "0.1.0"
