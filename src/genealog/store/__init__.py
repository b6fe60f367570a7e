"""Where bytes rest: journals and tiles, the SQL index, content objects, the vault."""
