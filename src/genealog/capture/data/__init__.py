"""The records of data, in files of known formats or in memory. What is unknown is never guessed."""
