"""Policy engines, one a file. `genealog.policy.port` says what each can do."""
