"""One file per source: their object becomes our value."""
