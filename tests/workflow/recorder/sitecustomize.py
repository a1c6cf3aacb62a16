"""Python runs this at the start of a process that has this folder on its path: the job then leaves behind which modules
of the package it has imported.
"""

import atexit
import json
import os
import sys


def _record() -> None:
    # Not by the client of a job that a warm process runs: it imports no command.
    if os.path.basename(sys.argv[0]) == "nested-reft" and any("nested_reft.commands." in name for name in sys.modules):
        modules = sorted(name for name in sys.modules if name.split(".")[0] == "nested_reft")
        path = os.path.join(os.environ["NESTED_REFT_RECORD"], f"{os.getpid()}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"arguments": sys.argv[1:], "modules": modules}, file)


if "NESTED_REFT_RECORD" in os.environ:
    atexit.register(_record)
