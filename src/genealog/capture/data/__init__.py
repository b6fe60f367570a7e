"""The records of data, in files of known formats or in memory, as one records root. What is unknown is never guessed."""
