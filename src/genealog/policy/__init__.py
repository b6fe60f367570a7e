"""Policy: what may be deployed, loaded, served, released and promoted; see `decide` for the one way to ask."""
