"""The command line: arguments, the call of one story, and the text that is printed."""
