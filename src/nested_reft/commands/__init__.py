"""The jobs behind the sub-commands, one module each: read files, call one function of a room, write files.

`cli` imports the module of the sub-command that runs and no other, and each imports only what its job needs. The
workflow derives from these imports which source files a rule's results depend on (`runtime/sources.py`). `loading`
is no sub-command: it has what several of them share.
"""
