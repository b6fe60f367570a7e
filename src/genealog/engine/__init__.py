"""An engine that serves only what it hashed itself, and signs what it says."""
