"""Other ways to do the work of retl; each module runs as a process of its own, in its own environment.

`python -m bench.peers.NAME` reads a task from the file `task.json` in the folder where it is started, does
the step that the task names, and prints one JSON object: how many calls it believes to have delivered.
"""
